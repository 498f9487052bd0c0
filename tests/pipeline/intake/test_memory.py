"""A file made to fill memory is refused, or its rows are, in a bounded amount of memory."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.command import UserError
from pipeline.intake import byte_source, encodings
from pipeline.intake.file_format import LONGEST_RECORD
from tests.conftest import Workspace

MOST = 300  # MB above what the process has before

_CHILD = """
import json, sys
from pathlib import Path
from ruamel.yaml import YAML
from pipeline import params, validate
from pipeline.command import UserError
from pipeline.intake import parquet
from pipeline.intake.rules import Checker, row_suite
from pipeline.intake.workers import inspect

config = params.load()
if sys.argv[1] == "rules":
    inspect(["b@c.de +49 AKIA \\u00c3\\u00a9"], config.validate_)  # what is imported when a text needs it
    Checker(row_suite(config.validate_.rules))

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) // 1024

results = {}
for name in sys.argv[2:]:
    content = YAML().load(Path("params.yaml"))
    content["data"]["path"] = name
    YAML().dump(content, Path("params.yaml"))
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from here on
    before = memory("VmRSS")
    try:
        validate.main()
    except UserError as error:
        results[name] = [str(error), memory("VmHWM") - before]
print(json.dumps(results))
"""


def _packed(path: Path, head: bytes, block: bytes, times: int) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(times):
            file.write(block)


def _long_line(path: Path) -> None:
    _packed(path, b"text\n", b"a" * (1 << 20), 50)


def _long_json(path: Path) -> None:
    _packed(path, b'{"text": "', b"a" * (1 << 20), 50)


def _open_quote(path: Path) -> None:
    path.write_bytes(b'text\n"' + b"a line\n" * 1_000_000)


def _many_keys(path: Path) -> None:
    path.write_text("".join(f'{{"key {number}": 1}}\n' for number in range(20_000)))


def _repeated_value(path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array(["x " * 10_000] * 2_000)}), path)  # 40 MB in 3 kB


def _large_page(path: Path) -> None:
    table = pa.table({"text": pa.array(["x" * 40_000_000])})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)


def _longest_rows(path: Path) -> None:
    text = "\ufdfa" * (LONGEST_RECORD - 1)  # NFKC makes 18 characters of this one
    path.write_text(f"text\n{text}\n{'ab c' * (LONGEST_RECORD // 4 - 1)}\na text\n", encoding="utf-8")


Bombs = dict[str, tuple[Callable[[Path], None], str]]
BY_READING: Bombs = {  # refused before there is a row
    "line.csv.gz": (_long_line, "line 2: is longer than 4,194,304 characters"),
    "line.jsonl.gz": (_long_json, "line 1: is longer than 4,194,304 characters"),
    "quote.csv": (_open_quote, "line 2: the record that begins here has more than 4,194,304 characters"),
    "keys.jsonl": (_many_keys, "line 16385: with the keys of this object there are 16,385 columns"),
    "page.parquet": (_large_page, "a page of the column 'text' has 40,000,010 bytes unpacked"),
}
BY_RULES: Bombs = {
    "value.parquet": (_repeated_value, "100% of 2000 rows are refused"),
    "rows.csv": (_longest_rows, "67% of 3 rows are refused (too_long: 2"),
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of one call is told by Linux alone")
@pytest.mark.parametrize(
    ("by", "bombs"), [("reading", BY_READING), pytest.param("rules", BY_RULES, marks=pytest.mark.slow)]
)
def test_a_refusal_takes_a_bounded_amount_of_memory(workspace: Workspace, by: str, bombs: Bombs) -> None:
    for name, (make, _) in bombs.items():
        make(workspace.folder / name)
    command = [sys.executable, "-c", _CHILD, by, *bombs]
    child = subprocess.run(command, capture_output=True, text=True, cwd=workspace.folder)
    assert child.returncode == 0, child.stderr
    results = json.loads(child.stdout.splitlines()[-1])
    assert {name: refusal for name, (_, refusal) in bombs.items() if refusal not in results[name][0]} == {}, results
    assert {name: peak for name, (_, peak) in results.items() if peak >= MOST} == {}


def test_a_file_that_unpacks_to_far_more_than_text_does_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_source, "BOMB_BYTES", 1 << 20)
    path = tmp_path / "bomb.csv.gz"
    _packed(path, b"text\n", b"\n" * (1 << 20), 4)
    with pytest.raises(UserError, match="unpacks to more than 200 times its size"):
        encodings.is_utf8(path, "gzip")
    path.write_bytes(gzip.compress(b"text\n" + b"\n".join(b"text %d" % number for number in range(200_000))))
    assert encodings.is_utf8(path, "gzip")
