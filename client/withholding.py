"""What the policy keeps back of a reply that is as declared: small groups, and what tells of them.

Each rule is one small function; `client.egress` asks them in turn.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client.policy import Policy
from common.arrays import Arrays, slices_of
from common.messages import Reply, TaskKind
from common.metrics.attributions import PATIENTS, STATISTICS
from common.metrics.evaluation import SECONDS
from common.models.patient_model import SHARED, block_owner
from common.normalisation import MOMENTS

Floats = NDArray[np.float64]
Metrics = Mapping[str, tuple[float, ...]]

logger = logging.getLogger(__name__)


def released_counts(counts: Mapping[str, int], policy: Policy) -> dict[str, int]:
    """A small group's count leaves as 0, and one that all but a small group have as all patients.

    Who lacks something is a group, too: 44 with labs of 45 patients tell of one. A group is small
    below the policy's smallest_group.

    Threat: S0-2.
    """
    num_patients = counts.get(SHARED, 0)
    released = dict(counts)
    for name, count in counts.items():
        if count < policy.smallest_group:
            released[name] = 0
        elif num_patients - count < policy.smallest_group:
            released[name] = num_patients
    return released


def withhold_small_counts(reply: Reply, policy: Policy) -> Reply:
    """The update of an encoder that a small group trained leaves as zeros, and its count as 0.

    Threat: S0-1, S0-2.
    """
    counts = released_counts(reply.counts, policy)
    small = {name for name, count in reply.counts.items() if count > 0 == counts[name]}
    arrays = reply.arrays
    if small and arrays is not None and reply.kind is TaskKind.TRAIN:
        flat = arrays.flat.copy()
        for block, place in slices_of(arrays.manifest):
            if block_owner(block.name) in small:
                flat[place] = 0.0
        arrays = Arrays(manifest=arrays.manifest, flat=flat)
    return replace(reply, counts=counts, arrays=arrays)


def released_moments(moments: Arrays, counts: Mapping[str, int], policy: Policy) -> Arrays:
    """Moments of a feature that few have leave as zeros, and that few lack one is not told.

    A feature may be rarer than its granularity, and a sum over one patient is that value. Where a
    few of those who have the granularity lack a feature, they count as if they had its mean.

    Args:
        counts: the site's own, as they were before `released_counts`.

    Threat: S0-2.
    """
    group = policy.smallest_group
    released = released_counts(counts, policy)
    named = dict(moments.unpack())
    for name in {block.rpartition(".")[0] for block in named}:
        count_F, sum_F, squares_F = (
            named[f"{name}.{moment}"].astype(np.float64) for moment in MOMENTS
        )
        most = float(released.get(name, 0))
        is_small_F = count_F < group
        is_near_F = ~is_small_F & (count_F < most) & (count_F > most - group)
        mean_F, square_F = _blurred(sum_F, squares_F, np.maximum(count_F, 1.0))
        for moment, value_F, blurred_F in (
            ("count", count_F, np.full_like(count_F, most)),
            ("sum", sum_F, most * mean_F),
            ("sum_squares", squares_F, most * square_F),
        ):
            kept_F = np.where(is_near_F, blurred_F, value_F)
            named[f"{name}.{moment}"] = np.where(is_small_F, 0.0, kept_F)
    return Arrays.pack({b.name: named[b.name] for b in moments.manifest}, dtype=np.float64)


def _blurred(sum_F: Floats, squares_F: Floats, count_F: Floats) -> tuple[Floats, Floats]:
    """Mean and mean square, to a 64th of the deviation.

    From all digits of a mean of whole numbers its denominator, the count, could be told.
    """
    mean_F = sum_F / count_F
    deviation_F = np.sqrt(np.maximum(squares_F / count_F - mean_F**2, 0.0))
    # A deviation of 0 is left at the smallest step that half ranges are looked at with.
    step_F = np.exp2(np.floor(np.log2(np.maximum(deviation_F, 2.0**-10)))) / 64
    mean_F = np.clip(np.round(mean_F / step_F) * step_F, -1.0, 1.0)
    deviation_F = np.round(deviation_F / step_F) * step_F
    return mean_F, np.minimum(mean_F**2 + deviation_F**2, 1.0)


def withhold_unlisted_outcomes(reply: Reply, policy: Policy, outcomes: Sequence[str]) -> Reply:
    """Noised statistics of an outcome leave all together if the policy lists each, else none.

    Args:
        outcomes: prefixes of statistics that stand together.

    Threat: S0-2.
    """
    kept: dict[str, tuple[float, ...]] = {}
    for prefix in outcomes:
        of_outcome = {name: v for name, v in reply.metrics.items() if name.startswith(prefix)}
        if all(policy.allows_metric(name) for name in of_outcome):
            kept |= of_outcome
    return replace(reply, metrics=kept)


def withhold_metrics(
    reply: Reply,
    policy: Policy,
    *,
    outcomes: Sequence[str],
    splits: Sequence[tuple[str, tuple[str, ...]]],
    attributions: Mapping[str, str],
) -> Reply:
    """Statistics leave if the policy lists them and their outcome is known of enough patients.

    Enough is smallest_group; without the number of patients, none of that outcome leaves.

    Args:
        outcomes: prefixes of statistics that stand together.
        splits: of each outcome and feature, the prefix of all patients and those of the groups.
        attributions: the prefix of an outcome's attributions, by that of all patients.

    Threat: S0-2.
    """
    smallest = policy.smallest_group
    allowed = {name: v for name, v in reply.metrics.items() if policy.allows_metric(name)}
    kept = {name: values for name, values in allowed.items() if name in SECONDS}
    for prefix in outcomes:
        # Without it, the others could not be merged with those of other sites.
        num_patients = allowed.get(f"{prefix}num_patients", (0.0,))[0]
        if num_patients >= smallest:
            kept |= {name: values for name, values in allowed.items() if name.startswith(prefix)}
    for whole, groups in splits:
        for group in _released_groups(whole, groups, kept, allowed, smallest):
            kept |= {name: values for name, values in allowed.items() if name.startswith(group)}
    for whole, prefix in attributions.items():
        num_patients = kept.get(f"{whole}num_patients", (0.0,))[0]
        told = {name: allowed[prefix + name] for name in STATISTICS if prefix + name in allowed}
        released = released_attributions(told, num_patients, smallest)
        kept |= {prefix + name: values for name, values in released.items()}
    return replace(reply, metrics=kept)


def _released_groups(
    whole: str,
    groups: tuple[str, ...],
    kept: Metrics,
    allowed: Metrics,
    smallest_group: int,
) -> list[str]:
    """Groups of patients leave if each, and what all patients have beyond them, is no small group.

    Where a few would follow from all less the groups, the smallest of these stays as well. With
    the patients themselves at hand, client.subgroups looks at groups of several features together.

    Threat: S0-2.
    """
    sizes = {group: allowed.get(f"{group}num_patients", (0.0,))[0] for group in groups}
    released = sorted((g for g in groups if sizes[g] >= smallest_group), key=lambda g: -sizes[g])
    num_patients = kept.get(f"{whole}num_patients", (0.0,))[0]
    while released and 0 != num_patients - sum(sizes[g] for g in released) < smallest_group:
        released.pop()
    return released if num_patients else []


def released_attributions(
    told: Metrics, num_patients: float, smallest_group: int
) -> dict[str, tuple[float, ...]]:
    """Attributions of a feature that a small group has, or all but a small group, leave as zeros.

    Of an outcome that does not leave, and without the numbers of patients, none do. With the
    patients themselves at hand, client.attribution_sums looks at who stands behind each sum.

    Args:
        told: the statistics of one outcome, by name.
        num_patients: of whom that outcome is known, as it leaves; 0 where it does not.

    Threat: S0-2.
    """
    if PATIENTS not in told or not num_patients:
        return {}
    count_F = np.array(told[PATIENTS])
    rest_F = num_patients - count_F
    is_kept_F = (count_F >= smallest_group) & ((rest_F == 0) | (rest_F >= smallest_group))
    return {
        name: tuple(np.where(is_kept_F, np.array(values), 0.0).tolist())
        for name, values in told.items()
    }


def bound_norm(reply: Reply, policy: Policy) -> Reply:
    """An update of a larger L2 norm than max_update_norm is scaled down to it.

    Threat: S0-1, C-4.
    """
    if reply.kind is not TaskKind.TRAIN or reply.arrays is None:
        return reply
    norm = reply.arrays.norm
    if norm <= policy.max_update_norm:
        return reply
    logger.warning("an update was scaled down to the norm that policy.max_update_norm allows")
    # Rounding to float32 may add a part in 10^7, so the target is a little below the bound.
    factor = policy.max_update_norm / norm * (1 - 1e-6)
    flat = (reply.arrays.flat.astype(np.float64) * factor).astype(np.float32)
    return replace(reply, arrays=Arrays(manifest=reply.arrays.manifest, flat=flat))
