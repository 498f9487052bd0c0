"""Stage `validate`: which rows of the corpus are clean, which are refused and why, and which split each text is in.

Rows in = clean + quarantined, always. Memory does not grow with the corpus: a first pass reads the rows, applies the
rules for single rows (Great Expectations) and spills them to a file; then duplicates are found; a second pass writes
the clean and the refused rows.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import file_digest
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import param_rules, params, paths
from pipeline.command import UserError, warn
from pipeline.intake.category import CategoryCheck, group_names
from pipeline.intake.columns import check_columns
from pipeline.intake.contradictions import Contradictions
from pipeline.intake.corpus_batches import CorpusBatch, read_batches
from pipeline.intake.duplicates import DuplicateMatches, Duplicates
from pipeline.intake.explain import Explainer
from pipeline.intake.quarantine import Quarantine
from pipeline.intake.row_metrics import RowMetrics
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
from pipeline.intake.spill_file import FURTHER_FIELDS, RULE_VALUES, BackgroundWriter, SpillFile
from pipeline.intake.splits import SPLITS, assign_splits, rows_for_each_split
from pipeline.intake.task_columns import TaskColumns, fields_of
from pipeline.intake.text_sample import BottomKSample, context_in, count_tokens
from pipeline.intake.workers import Inspection, inspect_all
from pipeline.reporting.intake_report import copies_sentence, page
from pipeline.reporting.intake_summary import Summary
from pipeline.workspace import run_stage

ONE_PROCESS_BYTES = 20_000_000  # a smaller corpus is done before further processes have started
CHECKED_ROWS = 75_000  # checked at once, at least: Great Expectations takes 0.1 s for any number up to about 100,000
CHECKED_BYTES = 32 << 20  # of texts that wait to be checked, at most: 75,000 rows of 100 kB would be 7.5 GB
_COUNTED_TEXTS = 2_000  # whose tokens the report shows
_CLEAN_SCHEMA = pa.schema([("row", pa.int64()), ("text", pa.string()), ("split", pa.string())])
_GROUP = pa.field("group", pa.string())  # appended if there is a category
_OUTPUTS = (paths.CLEAN, paths.QUARANTINE, paths.VALIDATE_METRICS, paths.EXPECTATIONS, paths.VALIDATE_REPORT)
Expectations = list[dict[str, Any]]  # Great Expectations' results


def main() -> None:
    """Run the stage."""
    config = params.load()
    summary = setup(config)
    with paths.scratch("validate") as scratch:
        rows = SpillFile(scratch / "rows.arrow", summary.file_format, config.validate_)
        duplicates = Duplicates(scratch, config.validate_.rules)
        clean = scratch / "clean.parquet"
        expectations = {"rows": first_pass(rows, duplicates, summary, config)}
        duplicates.find()
        expectations["duplicates"], quarantined = second_pass(rows, duplicates, summary, clean, config)
        summary.crowded = duplicates.crowded
        unaccounted = summary.rows_in - pq.read_metadata(clean).num_rows - quarantined
        summary.stopped, expectations["corpus"] = check_corpus(summary, unaccounted)
        write_results(summary, expectations)
        if summary.stopped:
            raise UserError(summary.stopped)
        clean.replace(paths.CLEAN)
    for sentence in summary.task_warnings():
        warn(sentence)
    refused = f", the others refused ({_reason_counts(summary)})" if summary.rows_refused else ""
    warn(f"{summary.rows_clean} of {summary.rows_in} rows are clean{refused}; see {paths.VALIDATE_REPORT}")


# --- setup


def setup(config: params.Params) -> Summary:
    """Delete the outputs of earlier runs, detect the corpus's format and check its columns."""
    corpus = Path(config.data.path)
    for output in _OUTPUTS:
        output.unlink(missing_ok=True)  # if this run stops, an earlier run's results must not pass for its own
    file_format = sniff_format(corpus, config.data, config.validate_)
    check_columns(file_format, config.validate_)
    if fix := paths.untracked(corpus):
        warn(f"{corpus} is not tracked by DVC, so its versions are not kept and no run can be reproduced; {fix}")
    for output in (paths.CLEAN, paths.QUARANTINE):
        output.parent.mkdir(parents=True, exist_ok=True)
    with corpus.open("rb") as file:
        md5 = file_digest(file, "md5").hexdigest()
    size = corpus.stat().st_size
    return Summary(file_format, config.validate_, size, md5, max_tokens=config.tokenize.max_length)


# --- first pass: each row on its own


def first_pass(rows: SpillFile, duplicates: Duplicates, summary: Summary, config: params.Params) -> Expectations:
    """Apply the rules for single rows, write every row to `rows`, and add it to `duplicates`."""
    rules = config.validate_.rules
    checker = Checker(row_suite(rules))
    category = CategoryCheck(summary.file_format, config.validate_)
    task_columns = TaskColumns(summary.file_format, config.validate_)
    processes = (os.cpu_count() or 1) if summary.size > ONE_PROCESS_BYTES else 0
    batches = read_batches(summary.file_format, config, summary.size)

    def checked_columns() -> Iterator[list[Any]]:
        for group in _groups(inspect_all(batches, config.validate_, processes)):
            for batch, inspection, critical, warnings in _check_rows(checker, group, rules):
                for position, reasons in task_columns.reasons(batch.columns).items():
                    if position not in batch.broken and position not in batch.headers:
                        critical[position] = (*critical[position], *reasons)
                refused = np.array([bool(reasons) for reasons in critical])
                category.add(batch, refused)
                duplicates.add(batch.rows, inspection.fingerprints, refused)
                _count_rows(summary, batch, inspection)
                yield [
                    batch.rows,
                    batch.lengths,
                    task_columns.split_keys(batch.columns, inspection.fingerprints.digests[:, 0]),
                    inspection.fingerprints.digests[:, 1],
                    _broken_rule_values(critical, warnings, inspection.metrics),
                    list(map(" ".join, critical)),
                    list(map(" ".join, warnings)),
                    *batch.columns,
                ]

    rows.write(checked_columns())
    return checker.results


def _groups(
    inspected: Iterator[tuple[CorpusBatch, Inspection]],
) -> Iterator[list[tuple[CorpusBatch, Inspection]]]:
    """Yield lists of batches that are checked together, up to what memory should hold."""
    group: list[tuple[CorpusBatch, Inspection]] = []
    rows = size = 0
    for batch, inspection in inspected:
        group.append((batch, inspection))
        rows += len(batch.rows)
        size += sum(column.nbytes for column in batch.columns) + len(inspection.fingerprints.texts)
        if rows >= CHECKED_ROWS or size >= CHECKED_BYTES:
            yield group
            group, rows, size = [], 0, 0
    if group:
        yield group


def _check_rows(
    checker: Checker, group: list[tuple[CorpusBatch, Inspection]], rules: param_rules.Rules
) -> Iterator[tuple[CorpusBatch, Inspection, Reasons, Reasons]]:
    """Yield each batch with the reasons for which each row is refused, and its warnings."""
    frames = [pd.DataFrame(inspection.metrics, index=range(len(batch.rows))) for batch, inspection in group]
    all_critical, all_warnings = map(iter, checker.check(pd.concat(frames, ignore_index=True)))
    for batch, inspection in group:
        critical = list(islice(all_critical, len(batch.rows)))
        warnings = list(islice(all_warnings, len(batch.rows)))
        marked = {"critical": critical, "warning": warnings}.get(rules.repeated_header.severity)
        if marked is not None:
            for position in batch.headers:
                marked[position] = (*marked[position], REPEATED_HEADER)
        for position in batch.broken:
            critical[position], warnings[position] = (BROKEN_ROW,), ()
        yield batch, inspection, critical, warnings


def _count_rows(summary: Summary, batch: CorpusBatch, inspection: Inspection) -> None:
    """Add a batch to what `summary` knows of all rows."""
    summary.rows_in += len(batch.rows)
    summary.blank_lines += batch.blank_lines
    summary.fixes["line_ends"] += batch.fixed_line_ends
    if "few_letters" in inspection.metrics:
        summary.low_letters.add(inspection.metrics["few_letters"], batch.rows, batch.columns[-1])


def _broken_rule_values(critical: Reasons, warnings: Reasons, metrics: RowMetrics) -> pa.Array:
    """Return for each row the values of the rules that it breaks."""
    values = [
        [(name, float(metrics[name][at])) for name in (*reasons, *warned) if name in metrics]
        for at, (reasons, warned) in enumerate(zip(critical, warnings, strict=True))
    ]
    return pa.array(values, RULE_VALUES)


# --- second pass: duplicates, and what is written


@dataclass(frozen=True)
class _Decisions:
    """What is decided about the rows of a chunk, and on what grounds."""

    reasons: list[str]
    warnings: list[str]
    refused: NDArray[np.bool_]
    splits: NDArray[np.object_]
    values: pa.Array  # of RULE_VALUES
    matches: DuplicateMatches

    def grounds(self, position: int) -> tuple[dict[str, float], int]:
        """Return the values of the rules that a row breaks, and the earlier row that it repeats (0 for none)."""
        values = dict(self.values[position].as_py())
        values["near_duplicate"] = float(self.matches.similarity[position])
        earlier = self.matches.duplicate_of[position] or self.matches.near_duplicate_of[position]
        return values, int(earlier)


def second_pass(
    rows: SpillFile, duplicates: Duplicates, summary: Summary, clean: Path, config: params.Params
) -> tuple[Expectations, int]:
    """Write the clean and the refused rows, in order, and complete `summary`.

    Args:
        rows: The rows from the first pass.
        duplicates: The duplicates among them.
        summary: What is counted for the metrics and the report.
        clean: Where the clean rows are written.
        config: All settings.

    Returns:
        Great Expectations' results on duplicates, and how many rows are quarantined.
    """
    checker = Checker(duplicate_suite(config.validate_.rules))
    explainer = Explainer(config.validate_.rules)
    sample = BottomKSample(_COUNTED_TEXTS)
    columns = dict(zip(rows.fields, summary.file_format.columns, strict=True))  # of the spill file and of the corpus
    if config.data.broken_rows == "quarantine":
        columns[FURTHER_FIELDS] = FURTHER_FIELDS
    task_columns = TaskColumns(summary.file_format, config.validate_)
    contradictions = Contradictions(task_columns, duplicates.duplicate_of)
    schema = pa.schema([*_CLEAN_SCHEMA, *([_GROUP] if rows.category else []), *fields_of(task_columns.columns)])
    with (
        pq.ParquetWriter(clean, schema) as clean_file,
        Quarantine(paths.QUARANTINE, list(columns.values())) as quarantine,
        BackgroundWriter() as background,
    ):
        for batch in rows.batches():
            decisions = _decide(batch, duplicates, checker, config.validate_)
            clean_rows = _clean_table(batch, decisions, rows, task_columns, schema)
            contradictions.add(batch, rows.fields, decisions.reasons, decisions.matches.duplicate_of)
            background.submit(clean_file.write_table, clean_rows)
            sample.add(batch["key"].to_numpy()[~decisions.refused], clean_rows["text"])
            for position in np.flatnonzero(decisions.refused).tolist():
                cells = [batch[field][position].as_py() for field in columns]
                reasons = decisions.reasons[position]
                details = explainer.details(reasons, *decisions.grounds(position))
                quarantine.add(batch["row"][position].as_py(), reasons, details, cells)
            _count_decisions(summary, batch, decisions, clean_rows)
            _keep_examples(summary, batch, explainer, decisions)
    _complete_pairs(summary, duplicates, rows)
    summary.contradictions = contradictions
    summary.token_counts = count_tokens(sample.texts, paths.BASE_TOKENIZER)
    summary.context = context_in(paths.BASE_CONFIG)
    return checker.results, quarantine.rows


def _decide(batch: pa.RecordBatch, duplicates: Duplicates, checker: Checker, config: params.Validate) -> _Decisions:
    """Return what is decided about the rows of a chunk."""
    matches = duplicates.matches(batch["row"].to_numpy())
    frame = pd.DataFrame({"duplicate": matches.duplicate_of > 0, "near_duplicate": matches.similarity})
    critical, warnings = checker.check(frame.astype(float))
    reasons = list(map(_merge_reasons, batch["reasons"].to_pylist(), critical))
    return _Decisions(
        reasons=reasons,
        warnings=list(map(_merge_reasons, batch["warnings"].to_pylist(), warnings)),
        refused=np.array([bool(row_reasons) for row_reasons in reasons]),
        splits=assign_splits(batch["split_key"].to_numpy(), config.validation_share, config.test_share),
        values=batch["values"],
        matches=matches,
    )


def _merge_reasons(earlier: str, further: tuple[str, ...]) -> str:
    """Return a row's reasons, sorted and joined by a space."""
    return " ".join(sorted((*earlier.split(), *further))) if further else earlier


def _clean_table(
    batch: pa.RecordBatch, decisions: _Decisions, rows: SpillFile, task_columns: TaskColumns, schema: pa.Schema
) -> pa.Table:
    """Return the clean rows of a chunk as they are written."""
    kept = ~decisions.refused
    columns = [batch["row"].to_numpy()[kept], batch["text"].filter(pa.array(kept)), decisions.splits[kept].tolist()]
    if rows.category:
        columns.append(group_names(batch[rows.category], kept))
    return pa.table([*columns, *task_columns.clean(batch, rows.fields, kept)], schema=schema)


def _count_decisions(summary: Summary, batch: pa.RecordBatch, decisions: _Decisions, clean_rows: pa.Table) -> None:
    """Add a chunk's decisions to the figures of `summary`."""
    lengths = batch["characters"].to_numpy()
    summary.rows_refused += int(decisions.refused.sum())
    summary.parts.add(batch["row"].to_numpy(), decisions.refused, lengths)
    summary.labels.add(clean_rows)
    summary.queries.add(clean_rows)
    if _GROUP.name in clean_rows.column_names:
        summary.groups.update(clean_rows[_GROUP.name].to_pylist())
    for split in SPLITS:
        chosen = ~decisions.refused & (decisions.splits == split)
        summary.splits[split] += int(chosen.sum())
        summary.lengths[split].add(lengths[chosen])


def _keep_examples(summary: Summary, batch: pa.RecordBatch, explainer: Explainer, decisions: _Decisions) -> None:
    """Count the reasons and warnings of a chunk's rows in `summary`, and keep examples."""
    matches = decisions.matches
    for position, row in enumerate(batch["row"].to_pylist()):
        reasons, warnings = decisions.reasons[position], decisions.warnings[position]
        if not (reasons or warnings):
            continue
        text = batch["text"][position].as_py()
        grounds = decisions.grounds(position)
        for reason in reasons.split():
            summary.refused[reason] += 1
            summary.examples.add(row, reason, text, explainer.explain(reason, *grounds))
        if not reasons:
            for reason in warnings.split():
                summary.warned[reason] += 1
                summary.warning_examples.add(row, reason, text, explainer.explain(reason, *grounds))
        if matches.duplicate_of[position]:
            summary.exact_pairs.add(row, text, int(matches.duplicate_of[position]))
        elif matches.near_duplicate_of[position]:
            similarity = float(matches.similarity[position])
            summary.near_pairs.add(row, text, int(matches.near_duplicate_of[position]), similarity)


def _complete_pairs(summary: Summary, duplicates: Duplicates, rows: SpillFile) -> None:
    """Add the closest pairs that both stay, and the earlier texts of all pairs."""
    texts = rows.texts({row for _, row, _ in duplicates.closest})
    for similarity, row, earlier_row in duplicates.closest:
        summary.close_pairs.add(row, texts[row], earlier_row, similarity)
    for pairs in (summary.exact_pairs, summary.near_pairs, summary.close_pairs):
        pairs.complete(rows.texts({pair.earlier_row for pair in pairs.kept}))


# --- the corpus as a whole


def check_corpus(summary: Summary, unaccounted: int) -> tuple[str, Expectations]:
    """Return why the corpus as a whole is refused ("" if it is not), and Great Expectations' results.

    `unaccounted` is the number of rows that were read and not written; raises RuntimeError if there are any.
    """
    config, corpus = summary.config, summary.file_format.path
    checker = Checker(corpus_suite(config))
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
            f"{corpus}: {share:.0%} of {summary.rows_in} rows are refused ({_reason_counts(summary)}), more than "
            f"validate.max_refused allows ({config.max_refused:.0%}); see {paths.VALIDATE_REPORT}, then fix the rows, "
            f"or change the rule (validate.rules) or that bound in params.yaml{copies}"
        ), checker.results
    rows_needed = rows_for_each_split(config.validation_share, config.test_share)
    if problem := summary.task_problem():
        return f"{corpus}: {problem}; add rows, or name another column in params.yaml", checker.results
    for split in SPLITS:
        if split in broken:
            return (
                f"{corpus}: no row falls in the {split} split ({summary.rows_clean} clean rows in all); "
                f"add rows (with these shares about {rows_needed} give each split one), or change "
                "validate.validation_share and validate.test_share in params.yaml"
            ), checker.results
    return "", checker.results


def _reason_counts(summary: Summary) -> str:
    """Return the reasons with their numbers of rows, for a sentence."""
    return ", ".join(f"{reason}: {count}" for reason, count in summary.refused.most_common())


# --- results


def write_results(summary: Summary, expectations: dict[str, Expectations]) -> None:
    """Write the metrics, Great Expectations' results and the report page."""
    _write_json(paths.VALIDATE_METRICS, _metrics(summary))
    _write_json(paths.EXPECTATIONS, expectations)
    paths.VALIDATE_REPORT.write_text(page(summary), encoding="utf-8")


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
        **summary.task_metrics(),
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
