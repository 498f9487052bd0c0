"""Stage `validate`: which rows of the CSV are clean, which are refused and why, and which split each text is in.

Rows in = clean + quarantined, always. Faults in the CSV's structure stop the stage with the line and the mend,
since what a parser would make of such a file is a guess; faults in a row send that row to the quarantine.
"""

import csv
import hashlib
import json
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import params, paths
from pipeline.command import UserError, run

# One reason a rule; the keys are what `quarantine.csv` and the metrics call it.
EMPTY = "empty"
TOO_SHORT = "too_short"
TOO_LONG = "too_long"
DUPLICATE = "duplicate"

csv.field_size_limit(sys.maxsize)  # the library's own limit of 131,072 characters is a text someone may have


def main() -> None:
    """Run the stage."""
    all_params = params.load()
    corpus, wanted = Path(all_params.data.path), all_params.validate_
    rows = read_corpus(corpus, wanted.column)
    rows["reasons"] = refusals(rows[wanted.column], wanted)
    refused = rows["reasons"] != ""
    metrics = _metrics(corpus, rows)

    for output in (paths.CLEAN, paths.QUARANTINE):
        output.parent.mkdir(parents=True, exist_ok=True)
    columns = [name for name in rows.columns if name not in ("row", "reasons")]
    quarantine = rows.loc[refused, ["row", "reasons", *columns]]
    quarantine.to_csv(paths.QUARANTINE, index=False, lineterminator="\n")

    clean = rows.loc[~refused, ["row"]].assign(
        text=rows[wanted.column],
        split=[
            split_of(text, wanted.validation_share, wanted.test_share) for text in rows.loc[~refused, wanted.column]
        ],
    )
    metrics["splits"] = {split: int((clean["split"] == split).sum()) for split in ("train", "validation", "test")}
    paths.VALIDATE_METRICS.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    _write_report(metrics, clean, quarantine, wanted)

    share = metrics["rows_quarantined"] / metrics["rows_in"]
    if share > wanted.max_refused:
        counts = ", ".join(f"{reason}: {count}" for reason, count in metrics["reasons"].items())
        raise UserError(
            f"{corpus}: {share:.0%} of {metrics['rows_in']} rows are refused ({counts}), more than "
            f"validate.max_refused allows ({wanted.max_refused:.0%}); see {paths.QUARANTINE}, "
            "then mend the rows or raise that bound in params.yaml"
        )
    for split, count in metrics["splits"].items():
        if count == 0:
            raise UserError(
                f"{corpus}: no row falls in the {split} split ({len(clean)} clean rows in all); "
                "add rows, or raise validate.validation_share or validate.test_share in params.yaml"
            )
    clean.to_parquet(paths.CLEAN, index=False)


def read_corpus(path: Path, column: str) -> pd.DataFrame:
    """Return the CSV's rows as text, untouched, with `row`, the line number at which each begins.

    Raises UserError naming the line for what no parser can read without guessing: a missing file or column, a row
    with too many or too few fields, an unclosed quote, bytes that are not UTF-8, a NUL.
    """
    if not path.is_file():
        raise UserError(f"params.yaml: data.path: there is no file {str(path)!r}; put the CSV there or name another")
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = _records(path, file)
        _, header = next(lines, (0, []))
        if not header:
            raise UserError(f"{path}: the file is empty; expected a header line and a row for each text")
        _check_header(path, header, column)
        # A blank line is a row too, of empty fields: refused below like any other, with its line number.
        rows = [(line, fields or [""] * len(header)) for line, fields in lines]
    if not rows:
        raise UserError(f"{path}: there is no row below the header; expected one for each text")
    for line, fields in rows:
        if len(fields) != len(header):
            raise UserError(
                f"{path}, line {line}: {len(fields)} fields where the header has {len(header)} "
                f"({', '.join(header)}); put texts that hold a comma or a line break in double quotes"
            )
    frame = pd.DataFrame([fields for _, fields in rows], columns=header, dtype="str")
    frame.insert(0, "row", [line for line, _ in rows])
    return frame


def _records(path: Path, file: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield each record with the line number at which it begins; raise UserError where the CSV is broken."""
    reader = csv.reader(_checked_lines(path, file), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{path}, line {line}: the record that begins here cannot be read as CSV ({error}); "
                "a double quote inside a quoted text must be written twice, and each opening one must be closed"
            ) from None
        if fields is None:
            return
        yield line, fields


def _checked_lines(path: Path, file: Iterator[str]) -> Iterator[str]:
    """Yield the lines of `file`; raise UserError at the first that is not UTF-8 or holds a NUL."""
    for number, line in enumerate(file, start=1):
        if "\0" in line:
            raise UserError(f"{path}, line {number}: holds a NUL byte; save the file as CSV in UTF-8")
        if not line.isascii() and any("\udc80" <= character <= "\udcff" for character in line):
            raise UserError(f"{path}, line {number}: holds bytes that are not UTF-8; save the file as CSV in UTF-8")
        yield line


def _check_header(path: Path, header: list[str], column: str) -> None:
    """Raise UserError unless every column has a name of its own and `column` is among them."""
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise UserError(f"{path}, line 1: the header names {twice[0]!r} more than once; give each column its own name")
    reserved = [name for name in header if name in ("row", "reasons")]
    if reserved:
        raise UserError(f"{path}, line 1: the column name {reserved[0]!r} is used by {paths.QUARANTINE}; rename it")
    if column not in header:
        raise UserError(
            f"{path}, line 1: there is no column {column!r}; the header has {', '.join(map(repr, header))}; "
            "set validate.column in params.yaml to the one that holds the texts"
        )


def normalize(text: str) -> str:
    """Return what of `text` counts when texts are compared: NFKC, case folded, runs of white space as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def split_of(text: str, validation_share: float, test_share: float) -> str:
    """Return the split of `text`: "train", "validation" or "test".

    It hangs on a hash of the normalised text alone, so a text stays where it is when the CSV grows, and all copies
    of a text are on one side.
    """
    digest = hashlib.sha256(normalize(text).encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < test_share:
        return "test"
    return "validation" if position < test_share + validation_share else "train"


def refusals(texts: pd.Series, wanted: params.Validate) -> list[str]:
    """Return for each text its reasons to be refused, joined by a space; "" for a clean one.

    The rules are Great Expectations' own expectations, each tagged with the reason it stands for.
    """
    import great_expectations as gx
    from great_expectations import expectations as gxe

    normalized = texts.map(normalize)
    frame = pd.DataFrame(
        {
            "text": texts.reset_index(drop=True),
            "characters": texts.str.strip().str.len().to_numpy(),
            # 0 for the first of several equal texts, which stays; empty ones have a reason of their own.
            "earlier_copies": normalized.groupby(normalized).cumcount().where(normalized != "", 0).to_numpy(),
        }
    )
    # An empty text is not also "too short", so that each row shows the reason that helps.
    frame["characters_if_any"] = frame["characters"].replace(0, wanted.min_characters)
    rules = [
        gxe.ExpectColumnValuesToMatchRegex(column="text", regex=r"\S", meta={"reason": EMPTY}),
        gxe.ExpectColumnValuesToBeBetween(
            column="characters_if_any", min_value=wanted.min_characters, meta={"reason": TOO_SHORT}
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="characters", max_value=wanted.max_characters, meta={"reason": TOO_LONG}
        ),
        gxe.ExpectColumnValuesToBeInSet(column="earlier_copies", value_set=[0], meta={"reason": DUPLICATE}),
    ]
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    rows = context.data_sources.add_pandas("corpus").add_dataframe_asset("rows")
    validation = gx.ValidationDefinition(
        name="rows",
        data=rows.add_batch_definition_whole_dataframe("all"),
        suite=context.suites.add(gx.ExpectationSuite(name="rows", expectations=rules)),
    )
    result = context.validation_definitions.add(validation).run(
        batch_parameters={"dataframe": frame},
        # Positions only: the values themselves are the user's texts and stay out of the result.
        result_format={
            "result_format": "COMPLETE",
            "exclude_unexpected_values": True,
            "return_unexpected_index_query": False,
        },
    )
    reasons: list[list[str]] = [[] for _ in range(len(frame))]
    for outcome in result.results:
        if outcome.exception_info.get("raised_exception"):
            raise RuntimeError(f"Great Expectations could not apply a rule: {outcome.exception_info}")
        for position in outcome.result.get("unexpected_index_list") or []:
            reasons[position].append(outcome.expectation_config.meta["reason"])
    return [" ".join(sorted(found)) for found in reasons]


def _metrics(corpus: Path, rows: pd.DataFrame) -> dict[str, Any]:
    """Return the stage's metrics: the same numbers in the same order for the same CSV."""
    refused = rows.loc[rows["reasons"] != "", "reasons"]
    return {
        "corpus": str(corpus),
        "corpus_md5": hashlib.md5(corpus.read_bytes(), usedforsecurity=False).hexdigest(),  # as DVC names it
        "rows_in": len(rows),
        "rows_clean": len(rows) - len(refused),
        "rows_quarantined": len(refused),
        "reasons": dict(sorted(Counter(reason for found in refused for reason in found.split()).items())),
    }


def _write_report(
    metrics: dict[str, Any], clean: pd.DataFrame, quarantine: pd.DataFrame, wanted: params.Validate
) -> None:
    """Write the page that says what came in, what was refused and why."""
    from jinja2 import Environment, PackageLoader

    lengths = clean["text"].str.len()
    bins = pd.cut(lengths, bins=min(20, max(1, lengths.nunique()))) if len(clean) else lengths
    histogram = [
        {"low": max(0, round(interval.left)), "high": round(interval.right), "texts": int(texts)}
        for interval, texts in bins.value_counts(sort=False).items()
    ]
    page = Environment(loader=PackageLoader("pipeline", "templates"), autoescape=True).get_template("validate.html")
    paths.VALIDATE_REPORT.write_text(
        page.render(
            metrics=metrics,
            histogram=histogram,
            most=max((bin_["texts"] for bin_ in histogram), default=1),
            quarantine=quarantine.head(50).to_dict("records"),
            wanted=wanted,
        ),
        encoding="utf-8",
    )


if __name__ == "__main__":
    run(main)
