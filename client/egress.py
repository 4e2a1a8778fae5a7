"""What may leave the hospital. Every reply passes `release`, and there is no other way out.

Each rule is one small function. A reply that breaks a rule which honest code cannot break is
blocked, here; counts of small groups are withheld, and large updates scaled, by the policy
(`client.withholding`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from client.policy import Policy
from client.withholding import (
    bound_norm,
    released_moments,
    withhold_metrics,
    withhold_small_counts,
    withhold_unlisted_outcomes,
)
from common.arrays import Manifest
from common.errors import Refusal, RefusalCode
from common.messages import OK, Reply, TaskKind
from common.metrics.attributions import (
    STATISTICS,
    bound_of,
    is_attribution,
    prefixes_of,
    raise_if_impossible,
)
from common.metrics.evaluation import declared_sizes, groups_of
from common.metrics.statistics import EvaluationSums
from common.metrics.subgroups import group_prefixes, is_of_group
from common.models.patient_model import SHARED
from common.study import Study

DTYPES = {TaskKind.TRAIN: np.dtype(np.float32), TaskKind.ENROL: np.dtype(np.float64)}


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What a study's replies may hold: manifests by kind of task, counts, and statistics.

    Attributes:
        splits: of each outcome and feature, the prefix of all patients and those of the groups.
        attributions: of each outcome, the prefix of all patients, that of attributions, and the
            most that one patient may count in them.
        is_private: whether all that a reply holds went through a private mechanism; nothing of it
            may then depend on the patients once more, as the withholding of small groups would.
    """

    manifests: Mapping[TaskKind, Manifest]
    counts: frozenset[str]
    metrics: Mapping[str, int]
    metric_groups: tuple[str, ...]
    splits: tuple[tuple[str, tuple[str, ...]], ...] = ()
    attributions: tuple[tuple[str, str, float], ...] = ()
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
            attributions=tuple(
                (f"{outcome}.", prefix, bound_of(study.outcomes[outcome]))
                for outcome, prefix in prefixes_of(study).items()
            ),
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
        - Attributions leave with an evaluation alone, as zeros of a feature that a small group has
          or all but a small group, and no patient counts more than the bound of the outcome.
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
        _check_attributions,
    ):
        check(reply, declared)
    if declared.is_private:
        reply = withhold_unlisted_outcomes(reply, policy, declared.metric_groups)
        return bound_norm(reply, policy)
    if reply.kind is TaskKind.ENROL and reply.arrays is not None:
        moments = released_moments(reply.arrays, reply.counts, policy)
        reply = replace(reply, arrays=moments)
    reply = withhold_metrics(
        withhold_small_counts(reply, policy),
        policy,
        outcomes=declared.metric_groups,
        splits=declared.splits,
        attributions={whole: prefix for whole, prefix, _ in declared.attributions},
    )
    return bound_norm(reply, policy)


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


def _check_attributions(reply: Reply, declared: Declared) -> None:
    """Attributions are in the reply to an evaluation alone, and are sums that patients can have.

    No patient counts more than the bound of the outcome: one alone can move no sum further.

    Threat: S0-2, I-1. Refuses: EGRESS_BLOCKED.
    """
    if reply.kind is not TaskKind.EVALUATE and any(map(is_attribution, reply.metrics)):
        _block("attributions outside of an evaluation")
    for _, prefix, bound in declared.attributions:
        sums = {
            name: np.array(reply.metrics[prefix + name])
            for name in STATISTICS
            if prefix + name in reply.metrics
        }
        try:
            raise_if_impossible(EvaluationSums(sums=sums), bound)
        except ValueError:
            _block("attributions that no patients can have")


def withheld(worked: Reply, released: Reply) -> list[str]:
    """The names of counts and statistics that the policy kept back or changed."""
    counts = {name for name, n in worked.counts.items() if released.counts.get(name) != n}
    metrics = {name for name, v in worked.metrics.items() if released.metrics.get(name) != v}
    return sorted(counts | metrics)


def _block(found: str) -> None:
    raise Refusal(
        RefusalCode.EGRESS_BLOCKED,
        f"Expected a reply of declared parts, found {found}. Nothing was sent; report this.",
    )
