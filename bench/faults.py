"""Judge a reader by CSVs with a fault: `python -m bench.faults NAME FOLDER`.

NAME is a reader of `bench.readers` or `pipeline.validate`; FOLDER is for temporary files. The last line is JSON: by
fault, whether the reader stops with a message, or how many rows it quarantines and how many are silently wrong.
"""

import contextlib
import io
import json
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.harness import ROOT
from bench.readers import READERS
from pipeline.command import arg_parser, echo, run

STAGE = "pipeline.validate"
GOOD = [f"The {number}th tale begins where the tide left the boat and ends at supper." for number in range(60)]


@dataclass(frozen=True)
class Fault:
    """A CSV with columns `id` and `text`: its bytes, its texts, and how many further rows no reader can recover."""

    content: bytes
    texts: list[str]
    broken: int = 0

    @property
    def rows(self) -> int:
        """Return how many rows the file holds."""
        return len(self.texts) + self.broken


def _csv(lines: list[str], header: str = "id,text", end: str = "\n") -> bytes:
    """Return the bytes of a CSV of these lines."""
    return end.join([header, *lines, ""]).encode()


def _quoted(texts: list[str]) -> list[str]:
    """Return the lines of these texts, each text in quotes."""
    return [f'{number},"{text.replace(chr(34), chr(34) * 2)}"' for number, text in enumerate(texts)]


def _faults() -> dict[str, Fault]:
    words = ["NA", "null", "None", "nan"]
    breaks = ["one\ntwo", "three\r\nfour", "five\rsix"]
    lines = _quoted(GOOD)
    return {
        "the words NA, null, None and nan as texts": Fault(_csv(_quoted([*GOOD, *words])), [*GOOD, *words]),
        "line breaks inside cells (LF, CRLF, CR)": Fault(_csv(_quoted([*GOOD, *breaks])), [*GOOD, *breaks]),
        "a byte order mark": Fault(b"\xef\xbb\xbf" + _csv(lines), GOOD),
        "no header": Fault("\n".join([*lines, ""]).encode(), GOOD),
        "a row with a field too few": Fault(_csv([*lines, "60"]), GOOD, broken=1),
        "a row with a field too many": Fault(_csv([*lines, "60,so it was, and so it is"]), GOOD, broken=1),
        "a field too many in every row": Fault(_csv([f"{line}," for line in lines]), GOOD),
        "two quotes left open, 20 rows apart": Fault(
            _csv([f"{number},{chr(34) if number in (20, 40) else ''}{text}" for number, text in enumerate(GOOD)]),
            [text for number, text in enumerate(GOOD) if number not in (20, 40)],
            broken=2,
        ),
        "cut off in the middle of a text": Fault(_csv(lines)[:-20], GOOD[:-1], broken=1),
        r"quotes written as \" (MySQL's way)": Fault(
            _csv([*lines, r'60,"she said \"aye\", and left"']), [*GOOD, 'she said "aye", and left']
        ),
        "one line in cp1252 among UTF-8": Fault(_csv(lines) + "60,café\n".encode("cp1252"), [*GOOD, "café"]),
        "a NUL inside a text": Fault(_csv([*lines, "60,one\0two"]), [*GOOD, "one\0two"]),
    }


FAULTS = _faults()


@dataclass(frozen=True)
class Outcome:
    """How a reader treats a CSV: it stops with a message, or some rows are quarantined or silently wrong."""

    stopped: bool
    rows: int
    quarantined: int = 0
    wrong: int = 0

    def in_words(self) -> str:
        """Return the outcome for a table."""
        if self.stopped:
            return "stops"
        quarantined = [f"{self.quarantined} quarantined"] if self.quarantined else []
        wrong = [f"**{self.wrong} of {self.rows} wrong**"] if self.wrong else []
        return ", ".join(quarantined + wrong) or "right"


def judge(fault: Fault, texts: list[Any], quarantined: int = 0) -> Outcome:
    """Return the outcome for the texts that a reader returns; rows lost, changed and invented are wrong."""
    right = sum((Counter(map(repr, fault.texts)) & Counter(map(repr, texts))).values())
    invented = max(0, len(texts) + quarantined - fault.rows)
    return Outcome(False, fault.rows, quarantined, fault.rows - right - quarantined + invented)


def _read_by_library(name: str, fault: Fault, file: Path, folder: Path) -> Outcome:
    """Return the outcome with a library; if no column is named `text`, the second one holds the texts."""
    reader = READERS[name]
    try:
        columns = reader.columns(reader.read(file, folder))
    except Exception:  # each library has its own; any of them tells the user that something is wrong
        return Outcome(True, fault.rows)
    values = list(columns.values())
    return judge(fault, columns.get("text", values[1] if len(values) > 1 else []))


def _read_by_stage(fault: Fault, file: Path, folder: Path) -> Outcome:
    """Return the outcome with the stage `validate` and the project's own params."""
    import pandas as pd
    from ruamel.yaml import YAML

    from pipeline import paths, validate
    from pipeline.command import UserError
    from pipeline.intake.text_builder import normalize_newlines

    yaml = YAML()
    content = yaml.load(ROOT / "params.yaml")
    content["data"]["path"] = str(file)
    content["validate"]["rules"]["near_duplicate"]["severity"] = "ignore"  # the good texts are near-copies
    with contextlib.chdir(folder):
        yaml.dump(content, paths.PARAMS)
        try:
            validate.main()
        except UserError:
            return Outcome(True, fault.rows)
        quarantine = pd.read_csv(paths.QUARANTINE, dtype=str, keep_default_na=False)
        # The stage turns CR LF and CR inside texts into LF on purpose, and counts them in its metrics.
        expected = replace(fault, texts=list(map(normalize_newlines, fault.texts)))
        return judge(expected, pd.read_parquet(paths.CLEAN)["text"].tolist(), quarantined=len(quarantine))


def main() -> None:
    """Judge one reader and print the outcomes as JSON, by fault."""
    parser = arg_parser()
    parser.add_argument("name", choices=[*READERS, STAGE])
    parser.add_argument("folder", type=Path, help="for temporary files")
    arguments = parser.parse_args()
    name, scratch = arguments.name, arguments.folder
    outcomes = {}
    for number, (fault_name, fault) in enumerate(FAULTS.items()):
        folder = scratch / str(number)
        folder.mkdir(parents=True)
        file = folder / "corpus.csv"
        file.write_bytes(fault.content)
        (folder / "made").mkdir()
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            if name == STAGE:
                outcome = _read_by_stage(fault, file, folder)
            else:
                outcome = _read_by_library(name, fault, file, folder / "made")
        outcomes[fault_name] = vars(outcome)
        shutil.rmtree(folder)
    echo(json.dumps(outcomes))


if __name__ == "__main__":
    run(main)
