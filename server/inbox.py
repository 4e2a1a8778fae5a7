"""What the coordinator accepts from a site: every reply passes `fault_of` before it is used.

A site whose reply is not finite, of another shape or of absurd weight is dropped, not the round.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.app import Message
from flwr.common.constant import ErrorCode

from common import wire
from common.arrays import Manifest
from common.contract import SITE_NAME_PATTERN
from common.errors import MessageError, RefusalCode
from common.messages import OK, Reply, Task, TaskKind
from common.metrics.attributions import is_attribution
from common.metrics.subgroups import is_of_group
from common.models.patient_model import SHARED
from common.privacy.sections import PatientPrivacy
from common.study import Study
from server import plausible_moments, plausible_statistics
from server.correspondence import Correspondence

# The reason of an absence: nothing has been heard of the node for long.
SILENT = "silent"


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
        return None, SILENT if is_silent else "error"
    try:
        reply = wire.reply_from_records(message.content)
    except MessageError:
        return None, "malformed"
    fault = _fault_of_sender(reply, expected) or _fault_of_signature(
        reply, expected, correspondence
    )
    if fault:
        return None, f"rejected: {fault}"
    if reply.status != OK:
        if reply.status not in _REFUSALS:
            return None, "malformed"
        # A site cannot say which task it was that it could not read.
        fault = _fault_of_task(reply, expected)
        is_known = reply.status == RefusalCode.MESSAGE_MALFORMED or not fault
        return None, reply.status if is_known else f"rejected: {fault}"
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
    faults = (fault for rule in _RULES if (fault := rule(reply, expected)))
    return next(faults, "")


def _fault_of_sender(reply: Reply, expected: Expected) -> str:
    """A reply names the site that was asked: nobody answers for another.

    Threat: C-3.
    """
    is_other = expected.site is not None and reply.site != expected.site
    return "answers for another site" if is_other else ""


def _fault_of_signature(reply: Reply, expected: Expected, correspondence: Correspondence) -> str:
    """A reply is signed by the site that was asked, by its key in the roster; refusals as well.

    Threat: C-3, N-1.
    """
    is_signed = correspondence.is_from(reply, expected.site)
    return "" if is_signed else "not signed by the site"


def _fault_of_task(reply: Reply, expected: Expected) -> str:
    """A reply is to this very task: kind, run, round and nonce, which differs between any two.

    Threat: C-3, N-1.
    """
    task = expected.task
    asked = (task.kind, task.run_id, task.round, task.nonce)
    is_ours = (reply.kind, reply.run_id, reply.round, reply.nonce) == asked
    return "" if is_ours else "answers another task"


def _fault_of_name(reply: Reply, expected: Expected) -> str:
    """The name of a site is well-formed: it becomes part of reports and of names of files.

    Threat: C-3.
    """
    return "" if re.fullmatch(SITE_NAME_PATTERN, reply.site) else "a malformed site name"


def _fault_of_manifest(reply: Reply, expected: Expected) -> str:
    """The arrays are those that were asked for, by name, order and shape; or none.

    Threat: C-1.
    """
    found = None if reply.arrays is None else reply.arrays.manifest
    return "" if found == expected.manifest else "arrays of another shape"


def _fault_of_type(reply: Reply, expected: Expected) -> str:
    """The arrays have the type that was asked for.

    Threat: C-1.
    """
    is_other = reply.arrays is not None and reply.arrays.flat.dtype.name != expected.dtype
    return "arrays of another type" if is_other else ""


def _fault_of_numbers(reply: Reply, expected: Expected) -> str:
    """The arrays hold neither NaN nor infinity: one would spoil the model of all.

    Threat: C-1.
    """
    is_finite = reply.arrays is None or reply.arrays.is_finite()
    return "" if is_finite else "arrays that are not finite"


def _fault_of_norm(reply: Reply, expected: Expected) -> str:
    """The L2 norm of an update is at most the study's strategy.max_update_norm.

    Threat: C-1, C-4.
    """
    if reply.kind is not TaskKind.TRAIN or reply.arrays is None:
        return ""
    most = expected.study.strategy.max_update_norm
    return "an update of absurd norm" if reply.arrays.norm > most else ""


def _fault_of_counts(reply: Reply, expected: Expected) -> str:
    """An enrolment and an update count the study's granularities and outcomes; an evaluation none.

    Threat: C-2.
    """
    counts, study = reply.counts, expected.study
    if reply.kind is TaskKind.EVALUATE:
        return "counts in an evaluation" if counts else ""
    is_complete = set(counts) == {SHARED, *study.granularities, *study.outcomes}
    return "" if is_complete else "counts of other granularities or outcomes"


def _fault_of_weight(reply: Reply, expected: Expected) -> str:
    """A site's weight is the public one that the study gives it, where patients are protected.

    Threat: C-2.
    """
    privacy = expected.study.privacy
    if not reply.counts or not isinstance(privacy, PatientPrivacy):
        return ""
    weight = privacy.weight_of(reply.site)
    is_public = reply.counts[SHARED] == weight and set(reply.counts.values()) <= {0, weight}
    return "" if is_public else "counts that are not the public weight"


def _fault_of_number(reply: Reply, expected: Expected) -> str:
    """A site has 1 to max_patients_per_site patients, and no group of more than these.

    Threat: C-2.
    """
    if not reply.counts:
        return ""
    study, most = expected.study, reply.counts[SHARED]
    is_private = isinstance(study.privacy, PatientPrivacy)
    is_plausible = is_private or 0 < most <= study.strategy.max_patients_per_site
    if not is_plausible or any(not 0 <= count <= most for count in reply.counts.values()):
        return "an absurd number of patients"
    return ""


def _fault_of_changed_counts(reply: Reply, expected: Expected) -> str:
    """A site has the counts that it enrolled with, in every round.

    Threat: C-2.
    """
    if not reply.counts or expected.counts is None:
        return ""
    is_changed = dict(reply.counts) != dict(expected.counts)
    return "other counts than it enrolled with" if is_changed else ""


def _fault_of_moments(reply: Reply, expected: Expected) -> str:
    """Moments are of values in [-1, 1], so a site can move the normalisation by its weight only.

    Threat: C-1, C-2.
    """
    if reply.kind is not TaskKind.ENROL or reply.arrays is None:
        return ""
    named = reply.arrays.unpack()
    return plausible_moments.fault_of(named, reply.counts, site=reply.site, study=expected.study)


def _fault_of_early_statistics(reply: Reply, expected: Expected) -> str:
    """Where patients are protected, statistics come with the one evaluation alone.

    Threat: S0-2.
    """
    is_private = isinstance(expected.study.privacy, PatientPrivacy)
    is_early = is_private and reply.metrics and reply.kind is not TaskKind.EVALUATE
    return "statistics before the last round" if is_early else ""


def _fault_of_early_groups(reply: Reply, expected: Expected) -> str:
    """Statistics of groups, and of what predictions rest on, come with an evaluation alone.

    Threat: S0-2.
    """
    if reply.kind is TaskKind.EVALUATE:
        return ""
    if any(map(is_of_group, reply.metrics)):
        return "statistics of groups before the last round"
    return "attributions before the last round" if any(map(is_attribution, reply.metrics)) else ""


def _fault_of_statistics(reply: Reply, expected: Expected) -> str:
    """Statistics are declared, finite, and agree with one another: none comes that would not merge.

    Attributions are of as many patients as were evaluated at most, none beyond the bound.

    Threat: C-1.
    """
    return plausible_statistics.fault_of(reply.metrics, expected.study)


def _fault_of_evaluated(reply: Reply, expected: Expected) -> str:
    """Statistics are over max_patients_per_site patients at most: as many weigh in the report.

    Threat: C-2.
    """
    is_absurd = plausible_statistics.are_of_too_many(reply.metrics, expected.study)
    return "an absurd number of patients" if is_absurd else ""


# In the order in which they are asked: what follows relies on what came before.
_RULES: tuple[Callable[[Reply, Expected], str], ...] = (
    _fault_of_task,
    _fault_of_name,
    _fault_of_manifest,
    _fault_of_type,
    _fault_of_numbers,
    _fault_of_norm,
    _fault_of_counts,
    _fault_of_weight,
    _fault_of_number,
    _fault_of_changed_counts,
    _fault_of_moments,
    _fault_of_early_statistics,
    _fault_of_statistics,
    _fault_of_early_groups,
    _fault_of_evaluated,
)
_REFUSALS = frozenset(code.value for code in RefusalCode)
