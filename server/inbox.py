"""What the coordinator accepts from a site: every reply passes `fault_of` before it is used.

A site whose reply is not finite, of another shape or of absurd weight is dropped, not the round.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Message
from flwr.common.constant import ErrorCode
from numpy.typing import NDArray

from common import wire
from common.arrays import Manifest
from common.contract import SITE_NAME_PATTERN
from common.errors import MessageError, RefusalCode
from common.metrics.evaluation import PERSONAL, declared_sizes, from_flat
from common.models.patient_model import SHARED
from common.normalisation import MOMENTS, NOISE_VARIANCE
from common.privacy.sections import PatientPrivacy
from common.study import Study
from common.wire import Reply, Task
from server.correspondence import Correspondence


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What an honest reply to one task looks like.

    Attributes:
        site: who is asked: the name under which the node enrolled, or the roster has it; None for
            a node that is to say who it is.
        manifest: of the arrays that must come, or None if none may.
        counts: those of the enrolment; None while enrolling, or if no counts may come.
    """

    task: Task
    study: Study
    site: str | None
    manifest: Manifest | None
    dtype: str
    counts: Mapping[str, int] | None


def open_reply(
    message: Message | None, expected: Expected, correspondence: Correspondence
) -> tuple[Reply | None, str]:
    """The reply and "", or None and the reason for which the site is absent.

    A reason is "late", "silent", "error", "malformed", "rejected: …", or the refusal code of the
    site.

    Guarantees:
        - Nothing of a reply is believed, no refusal either, unless it names the site that was asked
          and, where replies are signed, that site has signed it.
    """
    if message is None:
        return None, "late"
    if message.has_error():
        # What a SuperLink says of a node that is gone, and our exchange of one that is silent.
        is_silent = message.error.code == ErrorCode.NODE_UNAVAILABLE
        return None, "silent" if is_silent else "error"
    try:
        reply = wire.reply_from_records(message.content)
    except MessageError:
        return None, "malformed"
    if expected.site is not None and reply.site != expected.site:
        return None, "rejected: answers for another site"
    if not correspondence.is_from(reply, expected.site):
        return None, "rejected: not signed by the site"
    if reply.status != wire.OK:
        if reply.status not in _REFUSALS:
            return None, "malformed"
        # A site cannot say which task it was that it could not read.
        is_known = reply.status == RefusalCode.MESSAGE_MALFORMED or _answers(reply, expected.task)
        return None, reply.status if is_known else f"rejected: {_ANOTHER_TASK}"
    fault = fault_of(reply, expected)
    return (None, f"rejected: {fault}") if fault else (reply, "")


def claimed_site(message: Message) -> str | None:
    """The well-formed name under which a site answers, a refusal too; None if there is none."""
    try:
        name = wire.reply_from_records(message.content).site
    except (MessageError, ValueError):
        return None
    return name if re.fullmatch(SITE_NAME_PATTERN, name) else None


def fault_of(reply: Reply, expected: Expected) -> str:
    """What is wrong with a reply, in a few words; "" for nothing."""
    if not _answers(reply, expected.task):
        return _ANOTHER_TASK
    if re.fullmatch(SITE_NAME_PATTERN, reply.site) is None:
        return "a malformed site name"
    return (
        _fault_of_arrays(reply, expected)
        or _fault_of_counts(reply, expected)
        or _fault_of_moments(reply, expected.study)
        or _fault_of_metrics(reply, expected.study)
    )


def _answers(reply: Reply, task: Task) -> bool:
    """Whether a reply is to this very task: nonces differ between any two."""
    asked = (task.kind, task.run_id, task.round, task.nonce)
    return (reply.kind, reply.run_id, reply.round, reply.nonce) == asked


def _fault_of_arrays(reply: Reply, expected: Expected) -> str:
    if (None if reply.arrays is None else reply.arrays.manifest) != expected.manifest:
        return "arrays of another shape"
    if reply.arrays is None:
        return ""
    if reply.arrays.flat.dtype.name != expected.dtype:
        return "arrays of another type"
    if not reply.arrays.is_finite():
        return "arrays that are not finite"
    is_update = reply.kind is wire.TaskKind.TRAIN
    if is_update and reply.arrays.norm() > expected.study.strategy.max_update_norm:
        return "an update of absurd norm"
    return ""


def _fault_of_counts(reply: Reply, expected: Expected) -> str:
    counts, study = reply.counts, expected.study
    if reply.kind is wire.TaskKind.EVALUATE:
        return "counts in an evaluation" if counts else ""
    if set(counts) != {SHARED, *study.granularities, *study.outcomes}:
        return "counts of other granularities or outcomes"
    if isinstance(study.privacy, PatientPrivacy):
        weight = study.privacy.weight_of(reply.site)
        if counts[SHARED] != weight or not set(counts.values()) <= {0, weight}:
            return "counts that are not the public weight"
    elif not 0 < counts[SHARED] <= study.strategy.max_patients_per_site:
        return "an absurd number of patients"
    if any(not 0 <= count <= counts[SHARED] for count in counts.values()):
        return "an absurd number of patients"
    if expected.counts is not None and dict(counts) != dict(expected.counts):
        return "other counts than it enrolled with"
    return ""


def _fault_of_moments(reply: Reply, study: Study) -> str:
    """Moments are of values in [-1, 1], so a site can move the normalisation by its weight only."""
    if reply.kind is not wire.TaskKind.ENROL or reply.arrays is None:
        return ""
    named = reply.arrays.unpack()
    if isinstance(study.privacy, PatientPrivacy):
        return _fault_of_noised_moments(named, reply.site, study, study.privacy)
    for name, granularity in study.granularities.items():
        if not granularity.numeric:
            continue
        count, total, squares = (named[f"{name}.{moment}"] for moment in MOMENTS)
        # Values travel through float32, which may put them a little outside of their range.
        most = 1.01 * count
        is_counted = ((count >= 0) & (count <= reply.counts[name])).all()
        is_bounded = ((np.abs(total) <= most) & (squares >= 0) & (squares <= most)).all()
        if not is_counted or not is_bounded:
            return "moments outside of the plausible ranges"
    return ""


def _fault_of_noised_moments(
    named: Mapping[str, NDArray[np.floating]], site: str, study: Study, privacy: PatientPrivacy
) -> str:
    """Nobody knows how many patients are behind noise: the bound is public, and noise goes beyond.

    A site that the study gives a number of patients may have ten times as many.
    """
    largest = float(study.strategy.max_patients_per_site)
    most = min(10.0 * privacy.enrolment.get(site, largest), largest)
    variance = float(named[NOISE_VARIANCE][0])
    if not 0 <= variance <= largest**2:
        return "moments with absurd noise"
    # A count has 1.22 times the noise of a sum.
    reach = 12.0 * variance**0.5
    for name, granularity in study.granularities.items():
        if not granularity.numeric:
            continue
        count, total, squares = (named[f"{name}.{moment}"] for moment in MOMENTS)
        bound = 1.01 * np.maximum(count, 0.0) + 2 * reach
        is_counted = variance > 0 and ((count >= -reach) & (count <= most + reach)).all()
        is_bounded = (np.abs(total) <= bound) & (squares >= -reach) & (squares <= bound)
        if not is_counted or not is_bounded.all():
            return "moments outside of the plausible ranges"
    return ""


def _fault_of_metrics(reply: Reply, study: Study) -> str:
    """Statistics are merged later, by the report: none may come that it cannot take."""
    is_private = isinstance(study.privacy, PatientPrivacy)
    if is_private and reply.metrics and reply.kind is not wire.TaskKind.EVALUATE:
        return "statistics before the last round"
    sizes = declared_sizes(study)
    least = -_LARGEST_STATISTIC if is_private else 0.0
    for name, values in reply.metrics.items():
        if sizes.get(name) != len(values):
            return "statistics that are not declared"
        if not all(least <= value <= _LARGEST_STATISTIC for value in values):
            return "statistics that are negative or not finite"
    try:
        for model in ("", PERSONAL):
            from_flat(study, reply.metrics, model=model)
    except ValueError:
        return "statistics that disagree with one another"
    return ""


_ANOTHER_TASK = "answers another task"
_REFUSALS = frozenset(code.value for code in RefusalCode)
# Sums over all rounds of all sites stay finite.
_LARGEST_STATISTIC = 1e15
