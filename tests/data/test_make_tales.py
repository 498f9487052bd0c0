"""The sample corpus is what its grammar and its seed write."""

from pathlib import Path

import pytest

from data import make_tales


def test_the_sample_corpus_is_reproduced_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = make_tales.OUTPUT.read_bytes()
    monkeypatch.setattr(make_tales, "OUTPUT", tmp_path / "tales.csv")
    monkeypatch.setattr("sys.argv", ["make_tales"])
    make_tales.main()
    assert make_tales.OUTPUT.read_bytes() == committed
