"""The mixed load runs each engine in a process of its own and publishes what short and long texts got."""

import json
import sys

import pytest

from bench import mixed_load
from serving.engines import onednn


@pytest.mark.slow  # half a minute, most of it two engines that start
@pytest.mark.integration
def test_a_quick_run_has_figures_of_both_engines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not onednn.is_supported():
        pytest.skip("this processor has no AVX-512 VNNI")
    monkeypatch.setattr(sys, "argv", ["mixed_load", "--quick", "--model", "tiny"])
    mixed_load.main()
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert {row["variant"] for row in rows} == set(mixed_load.ENGINES)
    assert all(row["figure"] > 0 for row in rows)
