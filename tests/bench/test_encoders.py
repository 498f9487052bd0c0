"""The comparison of a classifier's servers measures each of them, and the engines without HTTP."""

import json
import sys

import pytest

from bench import encoders


@pytest.mark.slow
def test_a_quick_run_has_a_figure_for_every_server_and_engine_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENVINO_PYTHON", raising=False)
    monkeypatch.setattr(sys, "argv", ["encoders", "--quick"])
    encoders.main()
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [row["variant"] for row in rows] == encoders.names()
    assert all(row["figure"] > 0 for row in rows)
