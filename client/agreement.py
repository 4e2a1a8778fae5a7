"""What a hospital agrees to when it accepts a study, in words for the person who does.

Everything follows from the study, from this hospital's policy and from what `client.egress` lets
out; nothing here looks at a patient. What the study's authors wrote is shown as plain text.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from client.attribution_words import attribution_texts
from client.config import SiteConfig
from client.egress import Declared
from client.plain_text import plain
from client.policy import Policy
from common.arrays import Manifest, size_of
from common.code_version import code_fingerprint, release
from common.errors import StudyError
from common.messages import TaskKind
from common.metrics.evaluation import SECONDS
from common.metrics.subgroups import group_statistics_of, splits_of
from common.models.patient_model import PatientModel, block_owner, trainable_manifest
from common.normalisation import moments_manifest
from common.privacy.plan import describe
from common.privacy.sections import PatientPrivacy, SitePrivacy
from common.study import Study

_MOST_DIFFERENCES = 20
_KIB = 1024


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """One study, as a person of one hospital is asked about it.

    Attributes:
        privacy: the promise to patients, in a paragraph.
        plan: what this site would really do, by label.
        leaves: what leaves the hospital, a sentence each.
        compared_with: the hash of an accepted study of the same name; None if there is none.
        differences: keys with their values, there and here.
        code, release: of the software at this hospital that would do it.
    """

    study_hash: str
    name: str
    title: str
    outcomes: tuple[str, ...]
    granularities: tuple[str, ...]
    training: str
    privacy: str
    plan: Mapping[str, str]
    leaves: tuple[str, ...]
    compared_with: str | None
    differences: tuple[str, ...]
    code: str
    release: str

    def to_json(self) -> dict[str, Any]:
        """The agreement as plain values."""
        return asdict(self)


def agreement_on(
    study: Study,
    config: SiteConfig,
    *,
    plan: Mapping[str, str] | None = None,
    accepted: Sequence[Study] = (),
) -> Agreement:
    """What this hospital would agree to.

    Guarantees:
        - Every statistic, count and array that `client.egress` lets out is named with its size.
        - No text of the study reaches a terminal with its control characters.

    Args:
        plan: what this site would do, where a check has found out more than follows from the
            policy (what is left of the budget).
        accepted: the studies that are accepted already, oldest first.

    Raises:
        StudyError: the study's model cannot be built, or its promise cannot be kept.
    """
    named = [other for other in accepted if other.name == study.name and other != study]
    before = named[-1] if named else None
    training = study.training
    return Agreement(
        study_hash=study.hash,
        name=study.name,
        title=plain(study.study.title),
        outcomes=tuple(f"{plain(name)} ({o.kind})" for name, o in study.outcomes.items()),
        granularities=tuple(f"{plain(name)} ({g.kind})" for name, g in study.granularities.items()),
        training=(
            f"{training.rounds} rounds, strategy {study.strategy.name} "
            f"({study.strategy.combine}), optimizer {training.optimizer} at learning rate "
            f"{training.learning_rate:g}"
        ),
        privacy=privacy_of(study),
        plan=dict(plan_here(study, config) if plan is None else plan),
        leaves=what_leaves(study, config.policy),
        compared_with=None if before is None else before.hash,
        differences=() if before is None else differences(before, study),
        code=code_fingerprint(),
        release=release(),
    )


def privacy_of(study: Study) -> str:
    """The study's promise to patients, in one paragraph."""
    privacy = study.privacy
    if isinstance(privacy, PatientPrivacy):
        bound = "at most " if privacy.epsilon is not None else ""
        return (
            f"Mode patient: each patient is protected, from the coordinator and everyone else. "
            f"The study asks for {bound}{_asked(privacy)} at delta {privacy.delta:g} for a whole "
            "run, for adding or removing one patient; the policy of this hospital can only make it "
            "stricter. What was spent on these data is never given back."
        )
    if isinstance(privacy, SitePrivacy):
        return (
            f"Mode site: NO PATIENT IS PROTECTED. The coordinator sees exact updates and "
            f"statistics; noise of its own ({_asked(privacy)}, delta {privacy.delta:g}, for adding "
            "or removing one site) hides in the final model whether this hospital took part. No "
            "bound on what is told of a patient holds after a run."
        )
    return (
        "Mode none: NO PATIENT IS PROTECTED. Exact updates, counts and statistics leave (small "
        "groups are withheld), epsilon is infinite, and no bound on what is told of a patient "
        "holds after a run."
    )


def _asked(privacy: PatientPrivacy | SitePrivacy) -> str:
    if privacy.epsilon is None:
        return f"noise multiplier {privacy.noise_multiplier:g}"
    return f"epsilon {privacy.epsilon:g}"


def plan_here(study: Study, config: SiteConfig) -> dict[str, str]:
    """What this site would do to its patients, by label.

    Raises:
        StudyError: the study cannot keep its promise, here or anywhere.
    """
    policy = config.policy
    if isinstance(study.privacy, PatientPrivacy) and policy.cohort_size is None:
        return {"plan": "none yet: policy.cohort_size is not decided"}
    plan = policy.plan_of(study, policy.cohort_size or 1)
    return dict(describe(plan))


def what_leaves(study: Study, policy: Policy) -> tuple[str, ...]:
    """What leaves the hospital in one run, a sentence each.

    Raises:
        StudyError: the study's model cannot be built.
    """
    try:
        update = trainable_manifest(PatientModel(study))
    except (RuntimeError, MemoryError, ValueError, OverflowError) as fault:
        raise StudyError(
            f"Expected a model that can be built here, found {type(fault).__name__}. The study "
            "asks for too large a one."
        ) from None
    declared = Declared.of(study, update=update, moments=moments_manifest(study))
    names = sorted(declared.counts)
    kind = "a public weight" if declared.is_private else "the number of patients"
    sentences = [
        f"in each reply: {len(names)} counts, {kind} of each of {', '.join(names)}",
        f"{study.training.rounds} times, after each training: {_update_text(update)}",
    ]
    moments = declared.manifests.get(TaskKind.ENROL)
    if moments is not None:
        blocks = ", ".join(f"{block.name} {block.size}" for block in moments)
        noise = " with noise" if declared.is_private else ""
        sentences.append(
            f"once, at enrolment: {size_of(moments)} moments of features{noise} ({blocks})"
        )
    when = "after the last round, with noise" if declared.is_private else "in each round"
    sentences += [f"{when}: {text}" for text in _statistics_texts(declared, policy)]
    sentences += _group_texts(study, policy)
    sentences += attribution_texts(study, policy)
    sentences.append(
        "with each of them: this site's name, ids of the run and the task, a receipt of the "
        "ledger; or a refusal code alone; all of it signed by this site"
    )
    return tuple(sentences)


def _update_text(update: Manifest) -> str:
    sizes: Counter[str] = Counter()
    for block in update:
        sizes[block_owner(block.name)] += block.size
    of_parts = ", ".join(
        f"{'shared' if owner == 'patients' else owner} {n:,}" for owner, n in sizes.items()
    )
    total = size_of(update)
    return f"an update of {total:,} numbers, {4 * total / _KIB:,.0f} KiB ({of_parts})"


def _statistics_texts(declared: Declared, policy: Policy) -> list[str]:
    """The statistics that the policy lets out, by outcome, and what it keeps."""
    texts = []
    for group in ("", *declared.metric_groups):
        sizes = {
            name: size
            for name, size in declared.metrics.items()
            if (name.startswith(group) if group else name in SECONDS)
        }
        allowed = [
            f"{n.removeprefix(group)} {s}" for n, s in sizes.items() if policy.allows_metric(n)
        ]
        kept = [n.removeprefix(group) for n in sizes if not policy.allows_metric(n)]
        if sizes:
            label = f"statistics of {group.rstrip('.')}" if group else "times of work"
            kept_text = f"; kept by the policy: {', '.join(kept)}" if kept else ""
            texts.append(f"{label}: {', '.join(allowed) or 'nothing'}{kept_text}")
    return texts


def _group_texts(study: Study, policy: Policy) -> list[str]:
    """The statistics of groups of patients, by outcome: the same ones of each group."""
    if not study.evaluation.subgroups:
        return []
    if not splits_of(study):
        return ["of groups of patients that the study names: nothing, because of its privacy"]
    named = "; ".join(
        f"{feature} ({', '.join(plain(group.label) for group in groups)})"
        for feature, groups in splits_of(study).items()
    )
    keys = [group.key for groups in splits_of(study).values() for group in groups]
    texts = []
    for outcome, statistics in group_statistics_of(study).items():
        allowed = [
            f"{name} {prod(shape)}"
            for name, shape in statistics.shapes().items()
            if all(policy.allows_metric(f"{key}.{outcome}.{name}") for key in keys)
        ]
        texts.append(
            f"at each evaluation, which follows the last round: statistics of {outcome} in each of "
            f"{len(keys)} groups of patients, by {named}: {', '.join(allowed) or 'nothing'}; none "
            f"of a group of fewer than {policy.smallest_group}, nor any from which one would follow"
        )
    return texts


def differences(before: Study, after: Study) -> tuple[str, ...]:
    """The keys that differ, with both values, a line each; at most 20 of them, and how many more.

    >>> from common.study_file import load_study, override
    >>> demo = load_study("demo")
    >>> differences(demo, override(demo, training__rounds=3))
    ('training.rounds: 12 -> 3',)
    """
    old, new = (
        _flat(study.model_dump(mode="json", exclude_none=True)) for study in (before, after)
    )
    lines = [
        f"{plain(key, most=80)}: {_shown(old, key)} -> {_shown(new, key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) or (key in old) != (key in new)
    ]
    if not lines and before != after:
        return ("the order of granularities, features or outcomes",)
    rest = len(lines) - _MOST_DIFFERENCES
    return (*lines[:_MOST_DIFFERENCES], *((f"and {rest} more",) if rest > 0 else ()))


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return plain(flat[key], most=60) if key in flat else "(nothing)"
