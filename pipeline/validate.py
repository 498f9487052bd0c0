"""Stage `validate`: which rows of the corpus are clean, which are refused and why, and which split each text is in.

Rows in = clean + quarantined, always. The corpus streams by, so memory does not grow with it: a first pass reads the
rows, measures their texts, asks Great Expectations which are within bounds and shelves them in a file; then the
duplicates are found; a second pass writes what is clean and what is refused.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import file_digest
from itertools import islice
from operator import ne
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline import params, paths
from pipeline.command import UserError, warn
from pipeline.intake.columns import check_columns
from pipeline.intake.duplicates import Duplicates, Findings
from pipeline.intake.explain import Explainer
from pipeline.intake.file_format import FileFormat, preview
from pipeline.intake.quarantine import Quarantine
from pipeline.intake.reader import read_chunks
from pipeline.intake.rules import (
    BROKEN_ROW,
    REPEATED_HEADER,
    Checker,
    Reasons,
    corpus_suite,
    duplicate_suite,
    row_suite,
)
from pipeline.intake.sniff import sniff_format
from pipeline.intake.splits import SPLITS, assign_splits
from pipeline.intake.text_builder import normalize_newlines, text_builder
from pipeline.intake.workers import Inspection, inspect_all
from pipeline.reporting.intake_report import copies_sentence, page
from pipeline.reporting.intake_summary import Summary
from pipeline.workspace import run_stage

_ONE_PROCESS_BYTES = 20_000_000  # a smaller corpus is done before further processes have started
_CHECKED_ROWS = 75_000  # at once, at least: Great Expectations takes 0.1 s for any number of rows up to about 100,000
_CHECKED_BYTES = 32 << 20  # of texts that wait for that, at most: of rows of 100 kB, 75,000 would be 7.5 GB
_COUNTED_TEXTS = 2_000  # whose tokens the report shows
_FURTHER_FIELDS = "further_fields"  # column of quarantine.csv: what a broken row has beyond the corpus's columns
_CLEAN = pa.schema([("row", pa.int64()), ("text", pa.string()), ("split", pa.string())])
_GROUP = pa.field("group", pa.string())  # behind these where there is a category
_VALUES = pa.map_(pa.string(), pa.float64())  # of the rules that a row breaks
_MOST_GROUPS = 200  # with more, too few rows share one for figures of its own: the column is one of names or numbers
_LONGEST_GROUP = 200  # characters; what is longer is a text


def main() -> None:
    """Run the stage."""
    all_params = params.load()
    wanted = all_params.validate_
    corpus = Path(all_params.data.path)
    for output in (paths.CLEAN, paths.QUARANTINE, paths.VALIDATE_METRICS, paths.EXPECTATIONS, paths.VALIDATE_REPORT):
        output.unlink(missing_ok=True)  # so that, where this run stops, no other run's results pass for its own
    seen = sniff_format(corpus, all_params.data, wanted)
    check_columns(seen, wanted)
    if mend := paths.untracked(corpus):
        warn(f"{corpus} is not tracked by DVC, so none of its versions is kept and no run can be made again; {mend}")
    for output in (paths.CLEAN, paths.QUARANTINE):
        output.parent.mkdir(parents=True, exist_ok=True)

    with corpus.open("rb") as file:
        md5 = file_digest(file, "md5").hexdigest()
    summary = Summary(seen, wanted, corpus.stat().st_size, md5, max_tokens=all_params.tokenize.max_length)
    with paths.scratch("validate") as scratch:
        shelf = _Shelf(scratch / "shelf.arrow", seen, wanted)
        duplicates = Duplicates(scratch, wanted.rules)
        results = {"rows": _shelve(shelf, duplicates, summary, all_params)}
        duplicates.find()
        summary.crowded = duplicates.crowded
        clean = scratch / "clean.parquet"
        results["duplicates"], quarantined, sample = _sort_out(shelf, duplicates, summary, clean, all_params)
        summary.token_counts = _token_counts(sample)
        metrics = _metrics(summary)
        unaccounted = summary.rows_in - pq.read_metadata(clean).num_rows - quarantined
        summary.stopped, results["corpus"] = _check_corpus(summary, unaccounted)
        _write_json(paths.VALIDATE_METRICS, metrics)
        _write_json(paths.EXPECTATIONS, results)
        paths.VALIDATE_REPORT.write_text(page(summary), encoding="utf-8")
        if summary.stopped:
            raise UserError(summary.stopped)
        clean.replace(paths.CLEAN)
    others = f", the others refused ({_counts(summary)})" if summary.rows_refused else ""
    warn(f"{summary.rows_clean} of {summary.rows_in} rows are clean{others}; see {paths.VALIDATE_REPORT}")


class _Beside:
    """Runs one call at a time in a thread beside this one, since Arrow's writers leave the interpreter to others."""

    def __enter__(self) -> "_Beside":
        """Start the thread."""
        self._thread = ThreadPoolExecutor(1)
        self._under_way: Future[Any] = Future()
        self._under_way.set_result(None)
        return self

    def do(self, call: Callable[[Any], None], argument: Any) -> None:
        """Wait for the call before, then start this one; raises what the one before raised."""
        self._under_way.result()
        self._under_way = self._thread.submit(call, argument)

    def __exit__(self, *error: object) -> None:
        """Wait for the last call."""
        with self._thread:
            self._under_way.result()


class _Shelf:
    """The rows between the two passes: a file of Arrow batches, one a chunk."""

    def __init__(self, path: Path, seen: FileFormat, wanted: params.Validate) -> None:
        """Name the file and its columns: the corpus's as they are in it, for the quarantine, and the texts."""
        self.path = path
        self.fields = [f"field_{number}" for number in range(len(seen.columns))]
        self.category = None if wanted.category == "none" else self.fields[seen.columns.index(wanted.category)]
        numbers = [("row", pa.int64()), ("characters", pa.int64()), ("split_key", pa.uint64()), ("key", pa.uint64())]
        texts = ("reasons", "warnings", *self.fields, _FURTHER_FIELDS, "text")
        self.schema = pa.schema([*numbers, ("values", _VALUES), *((name, pa.string()) for name in texts)])
        self._first_rows: list[int] = []

    def fill(self, batches: Iterator[list[Any]]) -> None:
        """Write `batches`, each the columns of one chunk."""
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with (
            pa.OSFile(str(self.path), "wb") as file,
            pa.ipc.new_file(file, self.schema, options=options) as writer,
            _Beside() as beside,
        ):
            for columns in batches:
                self._first_rows.append(int(columns[0][0]))
                beside.do(writer.write_batch, pa.record_batch(columns, schema=self.schema))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the chunks in order."""
        with pa.OSFile(str(self.path)) as file, pa.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)

    def texts(self, rows: set[int]) -> dict[int, str]:
        """Return the texts of some rows."""
        found = {}
        with pa.OSFile(str(self.path)) as file, pa.ipc.open_file(file) as reader:
            for row in rows:
                batch = reader.get_batch(int(np.searchsorted(self._first_rows, row, side="right")) - 1)
                found[row] = batch["text"][int(np.searchsorted(batch["row"].to_numpy(), row))].as_py()
        return found


def _shelve(shelf: _Shelf, duplicates: Duplicates, summary: Summary, all_params: params.Params) -> list[dict[str, Any]]:
    """Put every row on `shelf` with what the rules for single rows say of it; return Great Expectations' results."""
    wanted = all_params.validate_
    checker = Checker(row_suite(wanted.rules))
    categories = _Categories(summary.file_format, wanted)
    processes = (os.cpu_count() or 1) if summary.size > _ONE_PROCESS_BYTES else 0

    def batches() -> Iterator[list[Any]]:
        for group in _groups(inspect_all(_parts(summary, all_params), wanted, processes)):
            frames = [pd.DataFrame(found.measures, index=range(len(part.rows))) for part, found in group]
            all_critical, all_warnings = map(iter, checker.check(pd.concat(frames, ignore_index=True)))
            for part, found in group:
                critical = list(islice(all_critical, len(part.rows)))
                warnings = list(islice(all_warnings, len(part.rows)))
                for position in part.headers:
                    found_by = {"critical": critical, "warning": warnings}.get(wanted.rules.repeated_header.severity)
                    if found_by:
                        found_by[position] = (*found_by[position], REPEATED_HEADER)
                for position in part.broken:
                    critical[position], warnings[position] = (BROKEN_ROW,), ()
                refused = np.array([bool(reasons) for reasons in critical])
                categories.check(part, refused)
                duplicates.add(part.rows, found.fingerprints, refused)
                if "few_letters" in found.measures:
                    summary.low_letters.add(found.measures["few_letters"], part.rows, part.columns[-1])
                yield [
                    part.rows,
                    part.characters,
                    found.fingerprints.digests[:, 0],
                    found.fingerprints.digests[:, 1],
                    _values(critical, warnings, found.measures),
                    list(map(" ".join, critical)),
                    list(map(" ".join, warnings)),
                    *part.columns,
                ]

    shelf.fill(batches())
    return checker.results


def _values(critical: Reasons, warnings: Reasons, measures: dict[str, NDArray[Any]]) -> pa.Array:
    """Return for each row the values of the rules that it breaks."""
    rows = enumerate(zip(critical, warnings, strict=True))
    values = [
        [(name, float(measures[name][at])) for name in (*of_row, *warned) if name in measures]
        for at, (of_row, warned) in rows
    ]
    return pa.array(values, _VALUES)


@dataclass(frozen=True)
class _Part:
    """A chunk of the corpus on its way to the shelf, in Arrow's compact form."""

    rows: NDArray[np.int64]
    characters: NDArray[np.int64]  # of the texts
    broken: tuple[int, ...]  # positions of the rows that do not fit the columns; their texts are ""
    headers: tuple[int, ...]  # positions of the rows that name the columns again
    columns: list[pa.Array]  # the corpus's, further fields, and the texts


class _Categories:
    """Stops the stage as soon as the rows show that the category's column holds something else."""

    def __init__(self, seen: FileFormat, wanted: params.Validate) -> None:
        """Start without a row."""
        self._seen, self._name = seen, wanted.category
        self._groups: dict[str, None] = {}  # in the order in which they came
        self._rows = 0

    def check(self, part: _Part, refused: NDArray[np.bool_]) -> None:
        """Take in the groups of the rows that are not `refused`; raises UserError for too many and too long ones."""
        if self._name == "none":
            return
        groups = _groups_of(part.columns[self._seen.columns.index(self._name)], ~refused)
        longest = max(groups, key=len, default="")
        if len(longest) > _LONGEST_GROUP:
            row = part.rows[~refused][groups.index(longest)]
            raise UserError(
                f"{self._seen.path}, {'row' if self._seen.format == 'parquet' else 'line'} {row}: the column "
                f"{self._name!r} (validate.category) holds {len(longest):,} characters, {preview([longest])}, and a "
                f"category has {_LONGEST_GROUP} at most; shorten it, or set validate.category in params.yaml to "
                "another column or none"
            )
        self._groups |= dict.fromkeys(groups)
        self._rows += len(part.rows)
        if len(self._groups) > _MOST_GROUPS:
            raise UserError(
                f"{self._seen.path}: the column {self._name!r} (validate.category) is no category: its first "
                f"{self._rows:,} rows hold {len(self._groups):,} different values, {preview(list(self._groups), 3)}, "
                f"and a category has {_MOST_GROUPS} at most; set validate.category in params.yaml to a column with "
                "fewer or none, or give its rare values one name"
            )


def _groups_of(cells: pa.Array, kept: NDArray[np.bool_]) -> list[str]:
    """Return the groups of the rows that are `kept`: the category's cells, trimmed."""
    return [normalize_newlines(cell.strip()) for cell in cells.filter(pa.array(kept)).to_pylist()]


def _groups(inspected: Iterator[tuple[_Part, Inspection]]) -> Iterator[list[tuple[_Part, Inspection]]]:
    """Yield as many parts together as Great Expectations is asked about at once, or memory should hold."""
    group: list[tuple[_Part, Inspection]] = []
    rows = size = 0
    for part, inspection in inspected:
        group.append((part, inspection))
        rows += len(part.rows)
        size += sum(column.nbytes for column in part.columns) + len(inspection.fingerprints.texts)
        if rows >= _CHECKED_ROWS or size >= _CHECKED_BYTES:
            yield group
            group, rows, size = [], 0, 0
    if group:
        yield group


def _parts(summary: Summary, all_params: params.Params) -> Iterator[tuple[_Part, list[str]]]:
    """Yield the corpus's chunks with their texts, behind a progress bar on a terminal; count its rows in `summary`."""
    seen = summary.file_format
    make_text = text_builder(seen.columns, all_params.validate_)
    width = len(seen.columns)
    with tqdm(total=summary.size, desc="validate", unit="B", unit_scale=True, disable=None) as bar:
        for chunk in read_chunks(seen, all_params.data):
            summary.rows_in += len(chunk.rows)
            summary.blank_lines += chunk.blank_lines
            as_in_file = list(map(make_text, chunk.fields))
            texts = list(map(normalize_newlines, as_in_file))
            summary.fixes["line_ends"] += sum(map(ne, as_in_file, texts))
            headers = tuple(at for at, fields in enumerate(chunk.fields) if _is_header(fields, seen))
            further = [""] * len(texts)
            for position, fields in chunk.broken.items():
                chunk.fields[position] = [*fields, *[""] * width][:width]
                if fields[width:]:
                    further[position] = json.dumps(fields[width:], ensure_ascii=False)
            columns = [*zip(*chunk.fields, strict=True), further, texts]
            arrays = [pa.array(column, pa.string()) for column in columns]
            lengths = np.fromiter(map(len, texts), np.int64, len(texts))
            rows = np.array(chunk.rows, dtype=np.int64)
            yield _Part(rows, lengths, tuple(chunk.broken), headers, arrays), texts
            bar.update(chunk.bytes_read - bar.n)


def _is_header(fields: list[str], seen: FileFormat) -> bool:
    """Return whether a row holds the names of the columns, perhaps behind the byte order mark of another file."""
    if not seen.header or not fields[-1].endswith(seen.columns[-1]):  # quickly, for almost all rows
        return False
    return [field.lstrip("\ufeff").strip() for field in fields] == [name.strip() for name in seen.columns]


def _sort_out(
    shelf: _Shelf, duplicates: Duplicates, summary: Summary, clean: Path, all_params: params.Params
) -> tuple[list[dict[str, Any]], int, list[str]]:
    """Write clean rows to `clean` and refused ones to the quarantine, in order, and fill `summary`.

    Returns Great Expectations' results on duplicates, how many rows are quarantined, and a sample of the clean texts.
    """
    wanted = summary.config
    checker = Checker(duplicate_suite(wanted.rules))
    columns, fields = list(summary.file_format.columns), list(shelf.fields)
    if all_params.data.broken_rows == "quarantine":
        columns.append(_FURTHER_FIELDS)
        fields.append(_FURTHER_FIELDS)
    sample, explainer = _Sample(), Explainer(wanted.rules)
    schema = _CLEAN.append(_GROUP) if shelf.category else _CLEAN
    with (
        pq.ParquetWriter(clean, schema) as file,
        Quarantine(paths.QUARANTINE, columns) as quarantine,
        _Beside() as beside,
    ):
        for batch in shelf.batches():
            rows, lengths = batch["row"].to_numpy(), batch["characters"].to_numpy()
            found = duplicates.of(rows)
            critical, warnings = checker.check(
                pd.DataFrame({"duplicate": found.duplicate_of > 0, "near_duplicate": found.similarity}).astype(float)
            )
            reasons = list(map(_joined, batch["reasons"].to_pylist(), critical))
            refused = np.array([bool(row_reasons) for row_reasons in reasons])
            splits = assign_splits(batch["split_key"].to_numpy(), wanted.validation_share, wanted.test_share)
            kept = batch["text"].filter(pa.array(~refused))
            written = [rows[~refused], kept, splits[~refused].tolist()]
            if shelf.category:
                groups = _groups_of(batch[shelf.category], ~refused)
                summary.groups.update(groups)
                written.append(groups)
            beside.do(file.write_table, pa.table(written, schema=schema))
            sample.add(batch["key"].to_numpy()[~refused], kept)
            warned = list(map(_joined, batch["warnings"].to_pylist(), warnings))
            decisions = _Decisions(reasons, warned, batch["values"], found)
            for position in np.flatnonzero(refused).tolist():
                cells = [batch[name][position].as_py() for name in fields]
                details = explainer.details(reasons[position], *decisions.grounds(position))
                quarantine.add(int(rows[position]), reasons[position], details, cells)

            summary.rows_refused += int(refused.sum())
            summary.parts.add(rows, refused, lengths)
            for split in SPLITS:
                chosen = ~refused & (splits == split)
                summary.splits[split] += int(chosen.sum())
                summary.lengths[split].add(lengths[chosen])
            _note(summary, batch, explainer, decisions)
    texts_of_close = shelf.texts({row for _, row, _ in duplicates.closest})
    for similarity, row, earlier_row in duplicates.closest:
        summary.close_pairs.add(row, texts_of_close[row], earlier_row, similarity)
    for pairs in (summary.exact_pairs, summary.near_pairs, summary.close_pairs):
        pairs.complete(shelf.texts({pair.earlier_row for pair in pairs.kept}))
    return checker.results, quarantine.rows, sample.texts


def _joined(earlier: str, further: tuple[str, ...]) -> str:
    """Return a row's reasons, sorted and joined by a space."""
    return " ".join(sorted((*earlier.split(), *further))) if further else earlier


@dataclass(frozen=True)
class _Decisions:
    """What is decided of a chunk's rows, and on what grounds."""

    reasons: list[str]
    warned: list[str]
    values: pa.Array  # of _VALUES
    found: Findings

    def grounds(self, position: int) -> tuple[dict[str, float], int]:
        """Return the values of the rules that a row breaks, and the earlier row that it repeats (0 for none)."""
        values = dict(self.values[position].as_py())
        values["near_duplicate"] = float(self.found.similarity[position])
        earlier = self.found.duplicate_of[position] or self.found.near_duplicate_of[position]
        return values, int(earlier)


def _note(summary: Summary, batch: pa.RecordBatch, explainer: Explainer, decisions: _Decisions) -> None:
    """Count the reasons and warnings of a chunk's rows in `summary`, and keep examples."""
    found = decisions.found
    for position, row in enumerate(batch["row"].to_pylist()):
        reasons, warned = decisions.reasons[position], decisions.warned[position]
        if not (reasons or warned):
            continue
        text = batch["text"][position].as_py()
        grounds = decisions.grounds(position)
        for reason in reasons.split():
            summary.refused[reason] += 1
            summary.examples.add(row, reason, text, explainer.explain(reason, *grounds))
        if not reasons:
            for reason in warned.split():
                summary.warned[reason] += 1
                summary.warning_examples.add(row, reason, text, explainer.explain(reason, *grounds))
        if found.duplicate_of[position]:
            summary.exact_pairs.add(row, text, int(found.duplicate_of[position]))
        elif found.near_duplicate_of[position]:
            similarity = float(found.similarity[position])
            summary.near_pairs.add(row, text, int(found.near_duplicate_of[position]), similarity)


class _Sample:
    """The texts with the smallest keys: as good as drawn at random, and the same whatever their order."""

    def __init__(self) -> None:
        """Start empty."""
        self._keys: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self.texts: list[str] = []

    def add(self, keys: NDArray[np.uint64], texts: pa.Array) -> None:
        """Take in a chunk's texts, where their keys are small enough."""
        chosen = np.argsort(keys)[:_COUNTED_TEXTS]
        both = np.concatenate([self._keys, keys[chosen]])
        order = np.argsort(both)[:_COUNTED_TEXTS]
        known = len(self.texts)
        self.texts = [self.texts[at] if at < known else texts[chosen[at - known]].as_py() for at in order.tolist()]
        self._keys = both[order]


def _token_counts(texts: list[str]) -> list[int]:
    """Return how many tokens of the base each text has, with the one before and the one behind it, as for training.

    None where there is no `models/base` yet, which `dvc repro` makes first.
    """
    if not paths.BASE_TOKENIZER.exists():
        return []
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(paths.BASE_TOKENIZER))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # as text, like `tokenize`
    return [len(encoding) + 2 for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def _metrics(summary: Summary) -> dict[str, Any]:
    """Return the stage's metrics: the same numbers in the same order for the same corpus."""
    groups = {} if summary.config.category == "none" else {"groups": dict(sorted(summary.groups.items()))}
    return {
        "corpus": str(summary.file_format.path),
        "corpus_md5": summary.md5,  # as DVC names the file
        "rows_in": summary.rows_in,
        "rows_clean": summary.rows_clean,
        "rows_quarantined": summary.rows_refused,
        "reasons": dict(sorted(summary.refused.items())),
        "warnings": dict(sorted(summary.warned.items())),
        "fixes": dict(sorted((+summary.fixes).items())),
        "splits": {split: summary.splits[split] for split in SPLITS},
        **groups,
    }


def _check_corpus(summary: Summary, unaccounted: int) -> tuple[str, list[dict[str, Any]]]:
    """Return why the corpus as a whole is refused ("" where it is not), and Great Expectations' results.

    `unaccounted` are rows that were read and are in neither of the files that were written; raises RuntimeError if
    there is one.
    """
    wanted, corpus = summary.config, summary.file_format.path
    checker = Checker(corpus_suite(wanted))
    share = summary.rows_refused / max(1, summary.rows_in)
    statistics = {
        "rows_in": summary.rows_in,
        "rows_unaccounted": unaccounted,
        "refused_share": share,
        **{split: summary.splits[split] for split in SPLITS},
    }
    [broken], _ = checker.check(pd.DataFrame([statistics]))
    if "rows_unaccounted" in broken:
        raise RuntimeError(f"{unaccounted} rows are neither clean nor quarantined: {statistics}")
    if "refused_share" in broken:
        copies = f". {copies_sentence(summary)}" if 2 * summary.refused["duplicate"] >= summary.rows_refused else ""
        return (
            f"{corpus}: {share:.0%} of {summary.rows_in} rows are refused ({_counts(summary)}), more than "
            f"validate.max_refused allows ({wanted.max_refused:.0%}); see {paths.VALIDATE_REPORT}, "
            f"then mend the rows, or change the rule (validate.rules) or that bound in params.yaml{copies}"
        ), checker.results
    for split in SPLITS:
        if split in broken:
            return (
                f"{corpus}: no row falls in the {split} split ({summary.rows_clean} clean rows in all); "
                f"add rows (with these shares about {_rows_for_each_split(wanted)} give each split one), or change "
                "validate.validation_share and validate.test_share in params.yaml"
            ), checker.results
    return "", checker.results


def _counts(summary: Summary) -> str:
    """Return the reasons with their rows, for a sentence."""
    return ", ".join(f"{reason}: {count}" for reason, count in summary.refused.most_common())


def _rows_for_each_split(wanted: params.Validate) -> int:
    """Return how many rows leave the smallest split empty with a probability of 5 %: (1 - share)^rows = 0.05."""
    smallest = min(wanted.validation_share, wanted.test_share, 1 - wanted.validation_share - wanted.test_share)
    return math.ceil(math.log(0.05) / math.log(1 - smallest))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
