"""The rules as suites of Great Expectations: each rule is a bound on a column of numbers, named as in `params.yaml`.

The suites do not depend on pandas: they apply to any table with those columns, in Spark or a database too.
Expectations carry the rule's severity; `meta` holds the reason that the quarantine and the metrics name.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline import param_rules, params
from pipeline.intake import identifiers

if TYPE_CHECKING:  # Great Expectations takes seconds to import, and worker processes do not need it
    import great_expectations as gx
    import pandas as pd

Reasons = list[tuple[str, ...]]

BROKEN_ROW = "broken_row"  # reason of a row that does not fit the columns, with data.broken_rows: quarantine
REPEATED_HEADER = "repeated_header"  # rule for a row that holds the names of the columns again

# Positions only: no values in the results.
_RESULT_FORMAT = {
    "result_format": "COMPLETE",
    "exclude_unexpected_values": True,
    "return_unexpected_index_query": False,
}


def row_bounds(rules: param_rules.Rules) -> dict[str, dict[str, float]]:
    """Return the bounds on the metrics of `row_metrics.compute_row_metrics`, by rule."""
    return {
        "empty": {"max_value": 0},
        "too_short": {"min_value": rules.too_short.min_characters},
        "too_long": {"max_value": rules.too_long.max_characters},
        "encoding_damage": {"max_value": rules.encoding_damage.max_damaged},
        "control_characters": {"max_value": rules.control_characters.max_controls},
        "few_letters": {"min_value": rules.few_letters.min_letters},
        "script": {"min_value": rules.script.min_share},
        "language": {"max_value": 0},
        "email": {"max_value": 0},
        "phone": {"max_value": 0},
        "card": {"max_value": 0},
        "iban": {"max_value": 0},
        "secret": {"max_value": 0},
        **{name: {"max_value": 0} for name in identifiers.RULES},
    }


def row_suite(rules: param_rules.Rules) -> "gx.ExpectationSuite":
    """Return the suite of `row_bounds`, for the rules that are not ignored."""
    return _suite("rows", [(name, _severity(rules, name), bound) for name, bound in row_bounds(rules).items()])


def duplicate_bounds(rules: param_rules.Rules) -> dict[str, dict[str, Any]]:
    """Return the bounds of `duplicate_suite`, by rule."""
    return {
        "duplicate": {"max_value": 0},
        "near_duplicate": {"max_value": rules.near_duplicate.similarity, "strict_max": True},
    }


def duplicate_suite(rules: param_rules.Rules) -> "gx.ExpectationSuite":
    """Return the suite of `duplicate_bounds`: on `duplicate` (1 for a copy of an earlier text) and `near_duplicate`.

    The latter is the similarity to the most similar earlier text (0 to 1), or 1 for a near-copy and 0 for none.
    """
    bounds = duplicate_bounds(rules).items()
    return _suite("duplicates", [(name, _severity(rules, name), bound) for name, bound in bounds])


def corpus_suite(config: params.Validate) -> "gx.ExpectationSuite":
    """Return the suite of bounds on the statistics of the whole corpus, a table of one row.

    `rows_unaccounted` is rows in - clean - quarantined; `train`, `validation` and `test` are numbers of rows.
    """
    bounds: list[tuple[str, dict[str, Any]]] = [
        ("rows_in", {"min_value": 1}),
        ("rows_unaccounted", {"min_value": 0, "max_value": 0}),
        ("refused_share", {"min_value": 0, "max_value": config.max_refused}),
        ("train", {"min_value": 1}),
        ("validation", {"min_value": 1}),
        ("test", {"min_value": 1}),
    ]
    return _suite("corpus", [(name, "critical", bound) for name, bound in bounds])


def _severity(rules: param_rules.Rules, name: str) -> str:
    rule: param_rules.Rule = getattr(rules, name)
    return rule.severity


def _suite(name: str, bounds: Sequence[tuple[str, str, dict[str, Any]]]) -> "gx.ExpectationSuite":
    import great_expectations as gx
    from great_expectations import expectations as gxe

    # Every bound holds for an empty table, so one row at least must be there.
    not_empty = gxe.ExpectTableRowCountToBeBetween(min_value=1, severity="critical", meta={"reason": "no_rows"})
    return gx.ExpectationSuite(
        name=name,
        expectations=[
            not_empty,
            *(
                gxe.ExpectColumnValuesToBeBetween(column=column, severity=severity, meta={"reason": column}, **bound)
                for column, severity, bound in bounds
                if severity != "ignore"
            ),
        ],
    )


class Checker:
    """Applies a suite to one frame of metrics after another, in one context of Great Expectations.

    `results` holds Great Expectations' own result for each frame, without positions and without what differs from run
    to run (ids, times), so the same corpus gives the same bytes.
    """

    def __init__(self, suite: "gx.ExpectationSuite") -> None:
        """Set up the context, which takes about 0.1 s once Great Expectations is imported."""
        import great_expectations as gx

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_pandas("row_metrics").add_dataframe_asset("chunk")
        self._definition = context.validation_definitions.add(
            gx.ValidationDefinition(
                name=suite.name,
                data=asset.add_batch_definition_whole_dataframe("whole"),
                suite=context.suites.add(suite),
            )
        )
        self.results: list[dict[str, Any]] = []

    def check(self, frame: "pd.DataFrame") -> tuple[Reasons, Reasons]:
        """Return the names of the rules that each row of `frame` breaks, sorted: the critical ones and the warnings.

        Raises RuntimeError if a rule cannot be applied, so that no row passes because a column, the rows or a number
        are missing.
        """
        frame = frame.reset_index(drop=True)  # Great Expectations reports labels of the index
        if not len(frame):  # `frame.empty` is also true for rows without columns, as when all rules are ignored
            raise RuntimeError(f"there are no {self._definition.name} to apply the rules to")
        result = self._definition.run(batch_parameters={"dataframe": frame}, result_format=_RESULT_FORMAT)
        broken: dict[str, dict[int, list[str]]] = {"critical": {}, "warning": {}}
        outcomes = []
        for outcome in sorted(result.results, key=lambda outcome: str(outcome.expectation_config.meta["reason"])):
            config = outcome.expectation_config
            reason = config.meta["reason"]
            for position in _broken_positions(outcome, reason):
                broken[config.severity].setdefault(position, []).append(reason)
            outcomes.append(_without_ids(outcome.to_json_dict()))
        self.results.append(
            {
                "suite": result.suite_name,
                "success": result.success,
                "statistics": dict(result.statistics),
                "great_expectations_version": result.meta["great_expectations_version"],
                "results": outcomes,
            }
        )
        critical, warnings = broken["critical"], broken["warning"]
        return (
            [tuple(critical.get(position, ())) for position in range(len(frame))],
            [tuple(warnings.get(position, ())) for position in range(len(frame))],
        )


def _broken_positions(outcome: Any, reason: str) -> list[int]:
    """Return the positions of the rows that break a rule; raises RuntimeError if the outcome does not tell."""
    details = outcome.result
    # A metric that fails has no `raised_exception`, but an entry under another name.
    if outcome.exception_info.get("raised_exception") is not False or not details:
        raise RuntimeError(f"Great Expectations could not apply the rule {reason}: {outcome.exception_info}")
    if details.get("missing_count"):
        raise RuntimeError(f"{details['missing_count']} rows have no number for the rule {reason}")
    positions: list[int] = details.get("unexpected_index_list") or []
    if outcome.success != (not positions):
        raise RuntimeError(f"the rule {reason} does not say which rows break it: {details}")
    return positions


def _without_ids(outcome: dict[str, Any]) -> dict[str, Any]:
    """Return an expectation's outcome without ids and positions."""
    config = outcome["expectation_config"]
    return {
        "type": config["type"],
        "kwargs": {key: value for key, value in config["kwargs"].items() if key != "batch_id"},
        "meta": config["meta"],
        "severity": config["severity"],
        "success": outcome["success"],
        "result": {key: value for key, value in outcome["result"].items() if "unexpected_index" not in key},
    }
