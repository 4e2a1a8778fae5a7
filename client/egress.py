"""What may leave the hospital. Every reply passes `release`, and there is no other way out.

Each rule is one small function. A reply that breaks a rule which honest code cannot break is
blocked; counts of small groups are withheld, and large updates scaled, by the policy.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.policy import Policy
from common.arrays import Arrays, Manifest, slices_of
from common.errors import Refusal, RefusalCode
from common.metrics.evaluation import SECONDS, declared_sizes, groups_of
from common.metrics.subgroups import group_prefixes, is_of_group
from common.models.patient_model import SHARED, block_owner
from common.normalisation import MOMENTS
from common.study import Study
from common.wire import OK, Reply, TaskKind

Floats = NDArray[np.float64]

logger = logging.getLogger(__name__)

DTYPES = {TaskKind.TRAIN: np.dtype(np.float32), TaskKind.ENROL: np.dtype(np.float64)}


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What a study's replies may hold: manifests by kind of task, counts, and statistics.

    Attributes:
        splits: of each outcome and feature, the prefix of all patients and those of the groups.
        is_private: whether all that a reply holds went through a private mechanism; nothing of it
            may then depend on the patients once more, as the withholding of small groups would.
    """

    manifests: Mapping[TaskKind, Manifest]
    counts: frozenset[str]
    metrics: Mapping[str, int]
    metric_groups: tuple[str, ...]
    splits: tuple[tuple[str, tuple[str, ...]], ...] = ()
    is_private: bool = False

    @classmethod
    def of(cls, study: Study, *, update: Manifest, moments: Manifest) -> "Declared":
        """The declaration that follows from a study and the manifests of its arrays."""
        federated = study.normalisation.method == "federated"
        return cls(
            manifests={TaskKind.TRAIN: update} | ({TaskKind.ENROL: moments} if federated else {}),
            counts=frozenset({SHARED, *study.granularities, *study.outcomes}),
            metrics=declared_sizes(study),
            metric_groups=tuple(groups_of(study)),
            splits=group_prefixes(study),
            is_private=study.privacy.mode == "patient",
        )


def release(reply: Reply, policy: Policy, declared: Declared) -> Reply:
    """The reply as it may leave: checked, small groups withheld, the update's norm bounded.

    Guarantees:
        - Only declared counts, statistics and arrays leave, in their declared shapes and types,
          finite.
        - A refusal carries a code and nothing else.
        - A count of 1 to `smallest_group` - 1 leaves as 0, and the update of that granularity's
          encoder as zeros, as do the moments of a feature that so few patients have. If so few lack
          a granularity, all count as having it; and if so few of those who have it lack a feature,
          all of them count, with about the same mean and deviation.
        - Statistics of an outcome over fewer held-out patients than `smallest_group` do not leave,
          nor do any without the number of patients that they are over.
        - Statistics of a group of patients leave with an evaluation alone, if the group is no
          small one, and if what all patients have beyond the groups that leave is no small group.
        - The L2 norm of an update is at most `max_update_norm`.
        - Nothing of a private reply is withheld or rounded by what it says of patients.

    Raises:
        Refusal: EGRESS_BLOCKED or UPDATE_NOT_FINITE.
    """
    if reply.status != OK:
        return _code_alone(reply)
    for check in (
        _check_arrays,
        _check_type,
        _check_finite,
        _check_counts,
        _check_signs,
        _check_statistics,
        _check_finite_statistics,
        _check_groups,
    ):
        check(reply, declared)
    if declared.is_private:
        return _bound_norm(_withhold_unlisted_outcomes(reply, policy, declared), policy)
    if reply.kind is TaskKind.ENROL and reply.arrays is not None:
        moments = released_moments(reply.arrays, reply.counts, policy)
        reply = replace(reply, arrays=moments)
    reply = _withhold_small_counts(reply, policy)
    reply = _withhold_metrics(reply, policy, declared)
    return _bound_norm(reply, policy)


def _code_alone(reply: Reply) -> Reply:
    """A refusal says its code and nothing else: no text, no number, no array.

    Threat: I-1.
    """
    return replace(reply, arrays=None, counts={}, metrics={})


def _check_arrays(reply: Reply, declared: Declared) -> None:
    """The arrays are those declared for the kind of task, by name, order and shape; or none.

    Threat: I-1, S1-2. Refuses: EGRESS_BLOCKED.
    """
    found = None if reply.arrays is None else reply.arrays.manifest
    if found != declared.manifests.get(reply.kind):
        _block("arrays that are not those declared for this kind of task")


def _check_type(reply: Reply, declared: Declared) -> None:
    """The arrays have the type of their kind of task: no text, no wider number.

    Threat: I-1. Refuses: EGRESS_BLOCKED.
    """
    if reply.arrays is not None and reply.arrays.flat.dtype != DTYPES[reply.kind]:
        _block("arrays of another type than declared")


def _check_finite(reply: Reply, declared: Declared) -> None:
    """The arrays hold neither NaN, whose spare bits could carry a message, nor infinity.

    Threat: I-1, C-1. Refuses: UPDATE_NOT_FINITE.
    """
    if reply.arrays is not None and not reply.arrays.is_finite():
        raise Refusal(
            RefusalCode.UPDATE_NOT_FINITE,
            "Expected finite arrays, found NaN or infinity. Lower the learning rate of the study.",
        )


def _check_counts(reply: Reply, declared: Declared) -> None:
    """There are counts of patients, of the study's granularities and of its outcomes alone.

    Threat: I-1, S0-2. Refuses: EGRESS_BLOCKED.
    """
    if not set(reply.counts) <= declared.counts:
        _block("counts that are not declared")


def _check_signs(reply: Reply, declared: Declared) -> None:
    """A count is 0 or more.

    Threat: I-1, C-2. Refuses: EGRESS_BLOCKED.
    """
    if any(count < 0 for count in reply.counts.values()):
        _block("a negative count")


def _check_statistics(reply: Reply, declared: Declared) -> None:
    """There are declared statistics alone, each of its declared number of elements.

    Threat: I-1, S0-2. Refuses: EGRESS_BLOCKED.
    """
    for name, values in reply.metrics.items():
        if declared.metrics.get(name) != len(values):
            _block("a statistic that is not declared, or of another size")


def _check_finite_statistics(reply: Reply, declared: Declared) -> None:
    """A statistic holds neither NaN nor infinity.

    Threat: I-1, C-1. Refuses: EGRESS_BLOCKED.
    """
    if not all(np.isfinite(values).all() for values in reply.metrics.values()):
        _block("a statistic that is not finite")


def _check_groups(reply: Reply, declared: Declared) -> None:
    """Statistics of groups (sex, age) are in the reply to an evaluation alone.

    Threat: S0-2. Refuses: EGRESS_BLOCKED.
    """
    if reply.kind is not TaskKind.EVALUATE and any(is_of_group(name) for name in reply.metrics):
        _block("statistics of groups of patients outside of an evaluation")


def released_counts(counts: Mapping[str, int], policy: Policy) -> dict[str, int]:
    """The counts as they may leave: small groups as nobody, and groups that few lack as everybody.

    What few lack is a small group as well: 44 with labs of 45 patients tell of one. A group is
    small below the policy's smallest_group.

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


def _withhold_small_counts(reply: Reply, policy: Policy) -> Reply:
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
    """The moments as they may leave: of a feature that few have nothing, and not that few lack it.

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


def _withhold_unlisted_outcomes(reply: Reply, policy: Policy, declared: Declared) -> Reply:
    """The statistics of each outcome of which the policy lists all: noised ones stand together.

    Threat: S0-2.
    """
    kept: dict[str, tuple[float, ...]] = {}
    for group in declared.metric_groups:
        of_group = {name: v for name, v in reply.metrics.items() if name.startswith(group)}
        if all(policy.allows_metric(name) for name in of_group):
            kept |= of_group
    return replace(reply, metrics=kept)


def _withhold_metrics(reply: Reply, policy: Policy, declared: Declared) -> Reply:
    """Statistics leave if the policy lists them and their outcome is known of enough patients.

    Enough is smallest_group; without the number of patients, none of that outcome leaves.

    Threat: S0-2.
    """
    allowed = {name: v for name, v in reply.metrics.items() if policy.allows_metric(name)}
    kept = {name: values for name, values in allowed.items() if name in SECONDS}
    for group in declared.metric_groups:
        # Without it, the others could not be merged with those of other sites.
        num_patients = allowed.get(f"{group}num_patients", (0.0,))[0]
        if num_patients >= policy.smallest_group:
            kept |= {name: values for name, values in allowed.items() if name.startswith(group)}
    for whole, groups in declared.splits:
        for group in _released_groups(whole, groups, kept, allowed, policy.smallest_group):
            kept |= {name: values for name, values in allowed.items() if name.startswith(group)}
    return replace(reply, metrics=kept)


def _released_groups(
    whole: str,
    groups: tuple[str, ...],
    kept: Mapping[str, tuple[float, ...]],
    allowed: Mapping[str, tuple[float, ...]],
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


def _bound_norm(reply: Reply, policy: Policy) -> Reply:
    """An update of a larger L2 norm than max_update_norm is scaled down to it.

    Threat: S0-1, C-4.
    """
    if reply.kind is not TaskKind.TRAIN or reply.arrays is None:
        return reply
    norm = reply.arrays.norm()
    if norm <= policy.max_update_norm:
        return reply
    logger.warning("an update was scaled down to the norm that policy.max_update_norm allows")
    # Rounding to float32 may add a part in 10^7, so the target is a little below the bound.
    factor = policy.max_update_norm / norm * (1 - 1e-6)
    flat = (reply.arrays.flat.astype(np.float64) * factor).astype(np.float32)
    return replace(reply, arrays=Arrays(manifest=reply.arrays.manifest, flat=flat))


def withheld(worked: Reply, released: Reply) -> list[str]:
    """The names of counts and statistics that the policy kept back or changed."""
    counts = {name for name, n in worked.counts.items() if released.counts.get(name) != n}
    return sorted(counts | (set(worked.metrics) - set(released.metrics)))


def _block(found: str) -> None:
    raise Refusal(
        RefusalCode.EGRESS_BLOCKED,
        f"Expected a reply of declared parts, found {found}. Nothing was sent; report this.",
    )
