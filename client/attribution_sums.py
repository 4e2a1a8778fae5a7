"""What predictions rest on, as sums over held-out patients that may leave: few stand behind none.

A sum over many patients may still be about one: where hardly anybody else adds to it, or where it
is the difference of two sums. Here, where the patients are, each column is looked at before any is
told. The door (`client.egress`) looks at numbers once more.

Not looked at: what a hospital's colleague who knows all patients but one can work out; how two
outcomes compare in a part of their patients, where as a whole they are of clearly different ones;
nor what several studies tell together. That takes noise, so patient-level privacy, under which
nothing of this is told.

Letters of shapes: B patients (those explained), F columns (of `found`: features).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from client.attribution_sets import (
    Bools,
    Floats,
    Key,
    denominators,
    has_of,
    of_same_patients,
    signs_of,
)
from client.attributions import MOST_PATIENTS, Attributions, Judge, attributions, evenly_spread
from client.evaluation import Outcomes
from client.policy import Policy
from client.subgroups import Members
from common.metrics.attributions import (
    ABSOLUTE,
    DIRECTED,
    PATIENTS,
    ROUNDING,
    SIGNED,
    STATISTICS,
    Column,
    bound_of,
    columns_of,
    prefixes_of,
)
from common.metrics.statistics import EvaluationSums
from common.study import Study

# One patient may be this part of a sum at most.
MOST_OF_ONE = 0.5
# As many patients as make up a group must each add this part of their mean: nobody hides behind
# those who add next to nothing.
_LEAST_OF_MEAN = 0.01
# What two features add is the same in other digits.
_DUST = 1e-9


def attribution_sums(
    judge: Judge,
    outcomes: Outcomes,
    *,
    members: Members,
    told: Mapping[str, Mapping[str, EvaluationSums]],
    policy: Policy,
) -> dict[str, EvaluationSums]:
    """The sums over the held-out patients of known outcome, by outcome.

    Of an outcome whose attributions the policy does not let out, nothing is worked out.

    Guarantees:
        - A column is told if at least `smallest_group` patients have it and, unless nobody is
          attributed anything, as many are, none is more than `MOST_OF_ONE` of the sum, and none of
          the largest `smallest_group` less than a hundredth of their mean; else it is all zeros.
        - A granularity is the sum of those of its features that are told, and what it adds is what
          they add: no difference of columns is about others.
        - Where features of fewer than `smallest_group` patients oppose one another, the size of
          the granularity is that of its features: nor does it follow who these few are.
        - No patient counts more than `common.metrics.attributions.bound_of`.
        - The sign of few patients is told as that of the others: neither how often nor how much a
          score is raised, lowered or goes with a value follows for fewer than `smallest_group`.
        - Numbers of patients are told of sets that differ from one another, from all and from
          groups that are told by nobody, or by at least `smallest_group`; who has a column counts
          among the next larger set otherwise. (All it changes is what a mean is over.)
        - Any two outcomes are summed over the same patients, those of whom both are known, or over
          sets that differ by at least `smallest_group`; where groups are told of more patients than
          are summed for that reason, all means are over everybody.
        - Sums are rounded to a 128th of the largest power of two within the sum of sizes.

    Args:
        members: who belongs to which group of patients.
        told: the groups of patients that are told as well, by key and outcome.
    """
    sums, smallest_group = dict[str, EvaluationSums](), policy.smallest_group
    indexes = {
        outcome: index
        for outcome, prefix in prefixes_of(judge.study).items()
        if policy.allows_metric(prefix + PATIENTS)
        for index in [explained(np.flatnonzero(outcomes[outcome]["known_B"]), smallest_group)]
        if len(index) >= smallest_group
    }
    together = of_same_patients(indexes, smallest_group)
    is_any_less = any(len(together[outcome]) < len(indexes[outcome]) for outcome in indexes)
    for outcome, index in together.items():
        if len(index) < smallest_group:
            continue
        groups = [
            of_feature
            for keys in members.values()
            if (of_feature := [b[index] for k, b in keys.items() if outcome in told.get(k, {})])
        ]
        found = attributions(judge, outcome, index)
        sums[outcome] = column_sums(
            found,
            has_of(judge.patients, judge.study, index),
            signs_of(judge, index),
            judge.study,
            bound=bound_of(judge.study.outcomes[outcome]),
            groups=groups,
            smallest_group=smallest_group,
            over_everybody=is_any_less and any(told.values()),
        )
    return sums


def explained(known: NDArray[np.int64], smallest_group: int) -> NDArray[np.int64]:
    """Of whom attributions are summed: everybody, or many of them and not all but a few."""
    num_patients = len(known)
    if num_patients <= MOST_PATIENTS:
        return known
    most = min(MOST_PATIENTS, num_patients - smallest_group)
    return known[evenly_spread(num_patients, max(most, 0))]


def column_sums(
    found: Attributions,
    has: Mapping[Key, Bools],
    above: Mapping[Key, Floats],
    study: Study,
    *,
    bound: float,
    groups: Sequence[Sequence[Bools]],
    smallest_group: int,
    over_everybody: bool = False,
) -> EvaluationSums:
    """The sums of one outcome.

    Args:
        has: which patients have a column, (B,).
        above: of each number, whether the patient's value is above the baseline, (B,): 1 or -1.
        groups: of patients that are told, (B,), by feature.
        over_everybody: the mean of each column is over all patients, whoever has it.
    """
    columns = columns_of(study)
    value = _told_values(found, has, columns, bound, smallest_group)
    over = (
        {key: np.ones_like(has_B) for key, has_B in has.items()}
        if over_everybody
        else denominators(has, columns, groups, smallest_group)
    )
    sums = {name: np.zeros(len(columns)) for name in STATISTICS}
    for f, column in enumerate(columns):
        key = (column.granularity, column.feature)
        if key not in value:
            continue
        size_B = np.abs(value[key])
        sign_B = _smoothed(np.sign(value[key]), size_B, smallest_group)
        sums[PATIENTS][f] = over[key].sum()
        sums[ABSOLUTE][f] = size_B.sum()
        sums[SIGNED][f] = (size_B * sign_B).sum()
        if column.has_direction:
            above_B = _smoothed(above[key], size_B, smallest_group)
            along_B = _smoothed(sign_B * above_B, size_B, smallest_group)
            sums[DIRECTED][f] = (size_B * along_B).sum()
    return EvaluationSums(sums=_added_up(_rounded(sums, bound), columns))


def _told_values(
    found: Attributions,
    has: Mapping[Key, Bools],
    columns: Sequence[Column],
    bound: float,
    smallest_group: int,
) -> dict[Key, Floats]:
    """What each patient counts for each column that may be told, (B,)."""
    wanted = {(c.granularity, c.feature) for c in columns}
    told: dict[Key, Floats] = {}
    whole: dict[str, Floats] = {}
    # Of those features that are told.
    sizes: dict[str, Floats] = {}
    for (granularity, feature), value_B in zip(found.features, found.value_BF.T, strict=True):
        key: Key = (granularity, feature)
        counted_B = np.clip(value_B, -bound, bound)
        if key in wanted:
            if not _may_be_told(counted_B, has[key], smallest_group):
                continue
            told[key] = counted_B
            sizes[granularity] = sizes.get(granularity, 0.0) + np.abs(counted_B)
        whole[granularity] = whole.get(granularity, np.zeros(len(value_B))) + counted_B
    for granularity, value_B in whole.items():
        counted_B = np.clip(value_B, -bound, bound)
        if granularity in sizes:
            counted_B = _with_few_lost(counted_B, sizes[granularity], smallest_group)
        is_within = bool((np.abs(counted_B) <= bound).all())
        if is_within and _may_be_told(counted_B, has[granularity, None], smallest_group):
            told[granularity, None] = counted_B
    return told


def _with_few_lost(value_B: Floats, size_B: Floats, smallest_group: int) -> Floats:
    """What a granularity adds; in the size of its features where it is less for few patients.

    Sums of sizes would tell how far the features of these few oppose one another.
    """
    lost_B = size_B - np.abs(value_B)
    lost_B[lost_B < _DUST * size_B] = 0.0
    if lost_B.any() and _is_of_few(lost_B, smallest_group):
        return np.copysign(size_B, value_B)
    return value_B


def _may_be_told(value_B: Floats, has_B: Bools, smallest_group: int) -> bool:
    size_B = np.abs(value_B)
    is_of_nobody = not size_B.any()
    return bool(has_B.sum() >= smallest_group) and (
        is_of_nobody or not _is_of_few(size_B, smallest_group)
    )


def _is_of_few(size_B: Floats, smallest_group: int) -> bool:
    """Whether few patients are behind a sum of sizes, or for the most part one."""
    largest = np.sort(size_B)[-smallest_group:]
    of_few = len(largest) < smallest_group or largest[0] <= _LEAST_OF_MEAN * largest.mean()
    return bool(of_few or size_B.max(initial=0.0) > MOST_OF_ONE * size_B.sum())


def _smoothed(sign_B: Floats, size_B: Floats, smallest_group: int) -> Floats:
    """The signs; where those of one kind are of few, all are of the other kind."""
    up_B, down_B = size_B * (sign_B > 0), size_B * (sign_B < 0)
    is_few_up, is_few_down = (
        bool(side_B.any()) and _is_of_few(side_B, smallest_group) for side_B in (up_B, down_B)
    )
    if is_few_up and is_few_down:
        # Of so few in all, nobody is told to be of either kind.
        return np.zeros_like(sign_B)
    if is_few_up or is_few_down:
        return np.full_like(sign_B, -1.0 if is_few_up else 1.0)
    return sign_B


def _rounded(sums: Mapping[str, Floats], bound: float) -> dict[str, Floats]:
    """Sums of sizes and of signs to the same step, which follows from the size's power of two.

    From all digits of a sum of few different values it could be told who has which.
    """
    absolute_F = sums[ABSOLUTE]
    exponent_F = np.floor(np.log2(np.where(absolute_F > 0, absolute_F, 1.0)))
    step_F = np.exp2(exponent_F) * ROUNDING
    # And no zero with a sign.
    rounded = {k: np.round(v / step_F) * step_F + 0.0 for k, v in sums.items() if k != PATIENTS}
    rounded[ABSOLUTE] = np.minimum(rounded[ABSOLUTE], sums[PATIENTS] * bound)
    for name in (SIGNED, DIRECTED):
        rounded[name] = np.clip(rounded[name], -rounded[ABSOLUTE], rounded[ABSOLUTE])
    return {PATIENTS: sums[PATIENTS], **rounded}


def _added_up(sums: dict[str, Floats], columns: Sequence[Column]) -> dict[str, Floats]:
    """Puts what features add in place of what their granularity adds.

    Both from the patients, they would differ by the few of whom a feature does not tell.
    """
    signed_F = sums[SIGNED].copy()
    for f, column in enumerate(columns):
        of_whole = [g for g, c in enumerate(columns) if c.granularity == column.granularity]
        if column.feature is None and len(of_whole) > 1:
            most = sums[ABSOLUTE][f]
            signed_F[f] = np.clip(sums[SIGNED][of_whole[1:]].sum(), -most, most)
    return sums | {SIGNED: signed_F}
