"""The outcomes of a site's patients, from columns of the patients' table to arrays.

Letters of shapes: B patients.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.findings import Finding, error, warning
from client.sources.numbers import categories_of, floats_of
from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome, SurvivalOutcome

LabelArrays = Mapping[str, NDArray[Any]]

# As `max_unusable_fraction` of granularities: beyond it, the unit is wrong rather than the values.
_MAX_OUTSIDE = 0.05
# Beyond it, hardly any time tells of anything: days for months, or the other way round.
_MAX_UNTELLING = 0.95
_FEWEST_TIMES = 20  # fewer may lie anywhere


def read_outcomes(
    table: pd.DataFrame, outcomes: Mapping[str, AnyOutcome], *, file: str
) -> tuple[dict[str, LabelArrays], list[Finding]]:
    """The arrays of each outcome, and what is wrong with their columns.

    Of several outcomes, a hospital may lack some altogether, and takes part without them; one that
    has none is told so as an error.
    """
    arrays, findings = {}, []
    lacking = [name for name, outcome in outcomes.items() if _is_lacking(table, outcome)]
    for name, outcome in outcomes.items():
        if name in lacking and len(lacking) < len(outcomes):
            arrays[name] = _unknown(outcome, len(table))
            expected = f"the outcome {name} ({', '.join(outcome.columns)})"
            findings.append(warning(file, expected, "none", "This site takes part without it."))
            continue
        arrays[name], found = read_outcome(table, outcome, file=file)
        findings += found
    return arrays, findings


def without_rare(
    outcomes: Mapping[str, LabelArrays],
    is_train_B: NDArray[np.bool_],
    smallest_group: int,
    *,
    file: str,
) -> tuple[dict[str, LabelArrays], list[Finding]]:
    """The outcomes, with what too few training patients have as unknown in training.

    The update of its head would be withheld, but not what encoders learn from it. Of a single
    outcome, all patients are too few, and then nothing is sent.
    """
    if len(outcomes) < 2:
        return dict(outcomes), []
    kept, findings = {}, []
    for name, arrays in outcomes.items():
        is_used_B = arrays["known_B"] & is_train_B
        kept[name] = arrays
        if 0 < is_used_B.sum() < smallest_group:
            kept[name] = {
                key: np.where(is_used_B, -1 if key == "label_B" else 0, value).astype(value.dtype)
                for key, value in arrays.items()
            }
            expected = f"{name} of {smallest_group} training patients or more, or of none"
            action = "It is not learned at this site (policy.smallest_group)."
            findings.append(warning(file, expected, f"{is_used_B.sum()}", action))
    return kept, findings


def _is_lacking(table: pd.DataFrame, outcome: AnyOutcome) -> bool:
    return any(c not in table.columns or table[c].isna().all() for c in outcome.columns)


def read_outcome(
    table: pd.DataFrame, outcome: AnyOutcome, *, file: str
) -> tuple[LabelArrays, list[Finding]]:
    """The arrays of one outcome, and what is wrong with its columns.

    Guarantees:
        - A patient whose outcome is not "known_B" has no value of it in any array.

    Returns:
        "known_B" bool, and by kind: classes "label_B" int64 (-1 unknown); regression "value_B"
        float32; survival "time_B" float32 and "event_B" bool; zero where unknown.
    """
    absent = [column for column in outcome.columns if column not in table.columns]
    if absent:
        columns = ", ".join(absent)
        return _unknown(outcome, len(table)), [
            error(file, f"the outcome column {columns}", "none", "Add it.")
        ]
    if isinstance(outcome, ClassOutcome):
        return _classes(table, outcome, file)
    if isinstance(outcome, RegressionOutcome):
        return _values(table, outcome, file)
    return _times(table, outcome, file)


def _unknown(outcome: AnyOutcome, num_patients: int) -> LabelArrays:
    known_B = np.zeros(num_patients, dtype=np.bool_)
    if isinstance(outcome, ClassOutcome):
        return {"known_B": known_B, "label_B": np.full(num_patients, -1, dtype=np.int64)}
    zeros_B = np.zeros(num_patients, dtype=np.float32)
    if isinstance(outcome, RegressionOutcome):
        return {"known_B": known_B, "value_B": zeros_B}
    return {"known_B": known_B, "time_B": zeros_B, "event_B": known_B.copy()}


def _classes(
    table: pd.DataFrame, outcome: ClassOutcome, file: str
) -> tuple[LabelArrays, list[Finding]]:
    column = table[outcome.column]
    where = f"{file}, column {outcome.column}"
    label_B = categories_of(column, outcome.classes)
    findings = _missing(column.isna().to_numpy(), where)
    num_unknown = int((label_B < 0).sum()) - int(column.isna().sum())
    if num_unknown:
        expected, found = f"one of {', '.join(outcome.classes)}", f"{num_unknown} other values"
        findings.append(error(where, expected, found, "Recode the column."))
    return {"known_B": label_B >= 0, "label_B": label_B}, findings


def _values(
    table: pd.DataFrame, outcome: RegressionOutcome, file: str
) -> tuple[LabelArrays, list[Finding]]:
    where = f"{file}, column {outcome.column}"
    value_B, findings = _numbers(table[outcome.column], where, outcome.unit)
    low, high = outcome.range
    num_outside = int(((value_B < low) | (value_B > high)).sum())
    if num_outside:
        expected = f"values in [{low:g}, {high:g}] {outcome.unit}"
        num_known = int((~np.isnan(value_B)).sum())
        found = f"{num_outside} of {num_known} values outside"
        if num_outside > _MAX_OUTSIDE * num_known:
            action = "Check the unit, or widen the range in the study."
            findings.append(error(where, expected, found, action))
        else:
            findings.append(warning(where, expected, found, "They are clipped."))
    known_B = ~np.isnan(value_B)
    clipped_B = np.where(known_B, np.clip(value_B, low, high), 0.0).astype(np.float32)
    return {"known_B": known_B, "value_B": clipped_B}, findings


def _times(
    table: pd.DataFrame, outcome: SurvivalOutcome, file: str
) -> tuple[LabelArrays, list[Finding]]:
    where = f"{file}, column {outcome.time_column}"
    time_B, findings = _numbers(table[outcome.time_column], where, outcome.unit)
    event_where = f"{file}, column {outcome.event_column}"
    column = table[outcome.event_column]
    event_B = np.asarray(column.map({"1": 1, "1.0": 1, "0": 0, "0.0": 0}).fillna(-1), dtype=int)
    num_other = int((event_B < 0).sum()) - int(column.isna().sum())
    if num_other:
        found = f"{num_other} other values"
        findings.append(error(event_where, "1 (event) or 0 (censored)", found, "Recode it."))
    num_negative = int((time_B < 0).sum())
    if num_negative:
        action = "Count time from the start of observation."
        findings.append(error(where, "times of 0 or more", f"{num_negative} below", action))
    num_half = int((np.isnan(time_B) != (event_B < 0)).sum())
    if num_half:
        found = f"{num_half} patients with one of them"
        action = "These patients count as unknown."
        findings.append(warning(event_where, "time and event together", found, action))
    if len(column) and column.isna().all():
        findings.append(error(event_where, "events", "none", "Fill the column in."))
    known_B = ~np.isnan(time_B) & (event_B >= 0)
    if known_B.any() and not (event_B[known_B] == 1).any():
        action = "Training goes on; the C-index is undefined for this site."
        findings.append(warning(event_where, "an event or more", "none", action))
    findings += _interval_findings(time_B[known_B], outcome, where)
    return {
        "known_B": known_B,
        "time_B": np.where(known_B, time_B, 0.0).astype(np.float32),
        "event_B": known_B & (event_B == 1),
    }, findings


def _interval_findings(
    times: NDArray[np.float64], outcome: SurvivalOutcome, where: str
) -> list[Finding]:
    """A warning where nearly all times lie in the first interval, or beyond the last one."""
    first, last = outcome.cut_points[0], outcome.cut_points[-1]
    expected = f"times in {outcome.unit}, spread over 0 to {last:g}"
    action = f"Check that the column is in {outcome.unit}."
    return [
        warning(where, expected, f"{num} of {len(times)} {place}", action)
        for num, place in (
            (int((times <= first).sum()), f"in the first interval (to {first:g})"),
            (int((times > last).sum()), f"beyond the last one ({last:g})"),
        )
        if len(times) >= _FEWEST_TIMES and num > _MAX_UNTELLING * len(times)
    ]


def _numbers(
    column: "pd.Series[Any]", where: str, unit: str
) -> tuple[NDArray[np.float64], list[Finding]]:
    """The numbers of a column, NaN where missing; text and infinities are errors."""
    values_B, num_text = floats_of(column)
    is_infinite_B = np.isinf(values_B)
    num_unusable = num_text + int(is_infinite_B.sum())
    values_B[is_infinite_B] = np.nan
    findings = _missing(column.isna().to_numpy(), where)
    if num_unusable:
        found = f"{num_unusable} cells of text or infinity"
        findings.append(error(where, f"numbers in {unit}", found, "Fix the column."))
    return values_B, findings


def _missing(missing_B: NDArray[np.bool_], where: str) -> list[Finding]:
    num_missing = int(missing_B.sum())
    if num_missing == 0:
        return []
    if num_missing == len(missing_B):
        return [error(where, "outcomes", "none", "Fill the column in.")]
    found = f"{num_missing} patients without one"
    return [warning(where, "an outcome", found, "It is not learned from them.")]
