"""The page of the stage `validate`: what came in, what was refused and why, and what to do next."""

import sys

import numpy as np

from pipeline import paths
from pipeline.intake.splits import SPLITS
from pipeline.reporting.formatting import percent
from pipeline.reporting.histogram import Histogram, bars_on_one_axis
from pipeline.reporting.intake_summary import Summary
from pipeline.reporting.pages import render
from pipeline.reporting.rule_descriptions import describe_rule

_COPIES = {"duplicate", "near_duplicate"}  # nothing to fix: the earlier row stays
_FEW_ROWS = 100  # of a split, below which figures measured on it are uncertain


def page(summary: Summary) -> str:
    """Return the page: one HTML file without scripts that needs no network; equal for an equal summary."""
    rules = summary.config.rules
    tokens = Histogram()
    tokens.add(np.array(summary.token_counts, dtype=np.int64))
    refused_bars, length_bars = summary.parts.bars()
    return render(
        "validate.html",
        summary=summary,
        file_format=summary.file_format,
        config=summary.config,
        splits=SPLITS,
        rules={reason: describe_rule(reason, summary.config) for reason in {*summary.refused, *summary.warned}},
        ignored=[name for name, rule in rules if rule.severity == "ignore"],
        length_bars=bars_on_one_axis(summary.lengths),
        tokens=tokens,
        token_bars=bars_on_one_axis({"tokens": tokens}, up_to=summary.max_tokens)["tokens"],
        refused_bars=refused_bars,
        part_length_bars=length_bars,
        part_rows=[int(rows) for rows in summary.parts.rows[: len(summary.parts)]],
        advice=advice(summary),
        low_letters=summary.lowest_letter_shares(),
        quarantine=paths.QUARANTINE,
        clean=paths.CLEAN,
    )


def advice(summary: Summary) -> list[str]:
    """Return what to do next, a sentence each; what recovers most rows comes first."""
    rows = summary.rows_in
    sentences = [_as_sentence(warning) for warning in summary.task_warnings()]
    for reason, count in sorted(summary.refused.items(), key=lambda item: (-item[1], item[0])):
        if count / rows >= 0.01 and reason not in _COPIES:
            rule = describe_rule(reason, summary.config)
            sentences.append(
                f"{reason} ({percent(count / rows)} of the rows): {rule.remedy} Setting: {rule.settings[0]}."
            )
    if summary.refused["duplicate"] / max(1, rows) >= 0.05:
        sentences.append(f"{copies_sentence(summary)}.")
    if advised := _length_sentence(summary):
        sentences.append(advised)
    smallest = min(summary.splits[split] for split in SPLITS)
    if 0 < smallest < _FEW_ROWS:
        sentences.append(
            f"The smallest split has {smallest} texts, so figures measured on it are uncertain: add rows, or raise "
            "validate.validation_share or validate.test_share."
        )
    if set(summary.refused) - _COPIES:
        sentences.append(
            f"To get refused rows back, fix them in {summary.file_format.path}: {paths.QUARANTINE} has each with its "
            "row number and reasons. Then run dvc repro."
        )
    return sentences


def _as_sentence(warning: str) -> str:
    said = warning.removeprefix("warning: ")
    return f"{said[0].upper()}{said[1:]}."


def _length_sentence(summary: Summary) -> str:
    """Return what to do about texts longer than a row, "" where they are few; a length is within the base's context."""
    texts, limit, context = len(summary.token_counts), summary.max_tokens, summary.context or sys.maxsize
    cut = sum(count > limit for count in summary.token_counts)
    if cut <= 0.05 * texts:
        return ""
    length = min(int(np.quantile(summary.token_counts, 0.95, method="higher")), context)
    whole = percent(sum(count <= length for count in summary.token_counts) / texts)
    longer = f"{length}, the base's context, would keep {whole} whole" if length == context else ""
    longer = longer or f"{length} would keep 95 % whole"
    return (
        f"{percent(cut / texts)} of the texts are longer than tokenize.max_length ({limit} tokens) and lose their ends:"
        f" {f'{longer}, and ' if length > limit else ''}tokenize.strategy: pack continues them in another row."
    )


def copies_sentence(summary: Summary) -> str:
    """Return how many rows are refused as exact copies, and which setting keeps them."""
    return (
        f"{percent(summary.refused['duplicate'] / summary.rows_in)} of the rows have the text of an earlier one: to "
        "keep them all, as a weight by frequency, set validate.rules.duplicate.severity: warning in params.yaml (all "
        "copies of a text stay in one split)"
    )
