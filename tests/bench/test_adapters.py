"""A base, adapters on it and their merged models are measured side by side."""

import json
import sys

import pytest

from bench import adapters
from serving.engines import onednn


@pytest.mark.slow  # a minute, most of it models that load
@pytest.mark.integration
def test_a_quick_run_has_figures_of_all_ways(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not onednn.is_supported():
        pytest.skip("this processor has no AVX-512 VNNI")
    monkeypatch.setattr(sys, "argv", ["adapters", "--quick", "--model", "tiny"])
    adapters.main()
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert {row["variant"] for row in rows} == {adapters.BASE, adapters.ADAPTERS, adapters.MERGED}
    assert all(row["figure"] > 0 for row in rows)
