"""What a study would cost the patients of this hospital, and whether figures and ledger allow it.

Nobody should find out in a round that the budget does not suffice. Reads alone: it must never open
a ledger for writing, nor make a key.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from client.config import SiteConfig
from client.data import Cohort
from client.findings import Finding, error, warning
from client.ledger.fingerprint import data_fingerprint, on_these_data
from client.ledger.verification import chain_of, readable_books, verify
from client.ledger.view import epsilon_text
from common.errors import SiteConfigError, StudyError
from common.privacy.accounting import epsilon_of
from common.privacy.events import Charge
from common.privacy.plan import PrivacyPlan, describe
from common.privacy.sections import PatientPrivacy
from common.signing import SigningKey
from common.study import Study

_SIZE, _BUDGET, _RUNS, _LACKS = (
    f"site.toml, {key}"
    for key in (
        "policy.cohort_size",
        "policy.epsilon_budget",
        "policy.max_runs_without_privacy",
        "data.lacks",
    )
)


@dataclass(frozen=True, kw_only=True)
class PrivacyCheck:
    """What one private run of a study would be at this hospital.

    Attributes:
        cost: the plan and what it does to the budget, by label, for people; empty where no patient
            would be protected, or no plan can be made yet.
    """

    findings: tuple[Finding, ...]
    cost: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class _History:
    """What the ledger of the data set holds; nothing before there is one.

    Attributes:
        fingerprint: of the data as they are now; "" without a ledger.
        cohort_size: the figure that the ledger has kept.
        num_unprotected: runs without privacy so far.
    """

    charges: tuple[Charge, ...] = ()
    fingerprint: str = ""
    cohort_size: int | None = None
    num_unprotected: int = 0
    findings: tuple[Finding, ...] = ()


def check_privacy(config: SiteConfig, study: Study, cohort: Cohort) -> PrivacyCheck:
    """The check of a hospital's figures and of its ledger against the study's privacy.

    Guarantees:
        - A budget that does not suffice for a whole run is an error exactly where the site would
          not enrol.
        - Nothing is written.
    """
    history = _history_of(config)
    findings = list(history.findings)
    if not isinstance(study.privacy, PatientPrivacy):
        findings += _plain_findings(config, study, history)
        return PrivacyCheck(findings=tuple(findings), cost={})
    findings += _enrolment_findings(config, study.privacy)
    findings += _lacks_findings(config, cohort.train.counts())
    if config.policy.cohort_size is None or config.policy.epsilon_budget is None:
        # `client.check` names what is missing.
        return PrivacyCheck(findings=tuple(findings), cost={})
    findings += _size_findings(config.policy.cohort_size, len(cohort.train), history)
    try:
        plan = config.policy.plan_of(study, config.policy.cohort_size)
    except StudyError as fault:
        expected, found = "a study that can be private at this hospital", "one that cannot"
        findings.append(error("study", expected, found, str(fault)))
        return PrivacyCheck(findings=tuple(findings), cost={})
    cost = dict(describe(plan))
    if not history.findings:
        told, short = _budget(config, plan, history, config.policy.epsilon_budget)
        cost["budget"] = told
        findings += short
    return PrivacyCheck(findings=tuple(findings), cost=cost)


def _history_of(config: SiteConfig) -> _History:
    """What was ever charged to the data set, or why the site would not open its ledger."""
    try:
        chain = chain_of(config.state_dir, config.dataset_id)
        if not chain.entries and not chain.faults:
            return _History()
        key = SigningKey.load(config.state_dir / "keys" / "site.pem")
    except SiteConfigError as fault:
        expected = "a ledger and a key that this site can go on with"
        found = "one of them unreadable"
        return _History(findings=(error("state_dir", expected, found, str(fault)),))
    # A torn end is mended, and written down, when the site opens.
    whole = replace(chain, torn=b"")
    faults = verify(
        config.state_dir, dataset_id=config.dataset_id, public_key=key.public_key, chain=whole
    )
    if faults:
        action = "The site does not start with it: `wardround ledger SITE_DIR` tells more."
        found = "; ".join(faults[:2])
        return _History(findings=(error("the ledger", "a whole ledger", found, action),))
    books, _ = readable_books(chain)
    size = config.policy.cohort_size
    if None not in (size, books.cohort_size) and size != books.cohort_size:
        expected = f"{books.cohort_size}, which the ledger has kept"
        action = "Put the old figure back: the ledger does not open with another."
        return _History(findings=(error(_SIZE, expected, str(size), action),))
    return _History(
        charges=books.charges(),
        fingerprint=data_fingerprint(config.data_paths, key=key),
        cohort_size=books.cohort_size,
        num_unprotected=len(books.unprotected_runs()),
    )


def _budget(
    config: SiteConfig, plan: PrivacyPlan, history: _History, budget: float
) -> tuple[str, list[Finding]]:
    """What a run does to the budget, in words, and a finding where it does not suffice."""
    delta = config.policy.delta_budget
    spent = epsilon_of(history.charges, delta)
    run = on_these_data(plan.whole(), history.fingerprint)
    after = epsilon_of([*history.charges, *run], delta)
    told = (
        f"{epsilon_text(spent)} of {budget:g} spent, {epsilon_text(after)} after this run (epsilon "
        f"at delta {delta:g})"
    )
    if after <= budget:
        return told, []
    if math.isinf(spent):
        found = "a ledger in which no bound holds any more"
        action = "Exact values of these patients were released: `wardround ledger SITE_DIR`."
    else:
        found = f"{epsilon_text(spent)} spent and {epsilon_text(after)} with this run"
        action = (
            "Take no part, set a smaller epsilon_per_run (more noise), or raise the budget, as "
            "your privacy officer decides."
        )
    expected = f"a budget of {budget:g} that suffices for a whole run"
    return told, [error(_BUDGET, expected, found, action)]


def _size_findings(cohort_size: int, num_patients: int, history: _History) -> list[Finding]:
    """A warning where the public figure is more than a third beside the real one."""
    if 3 * abs(cohort_size - num_patients) <= num_patients:
        return []
    expected = f"about as many as there are training patients ({num_patients})"
    action = "Privacy holds all the same, but this hospital's updates are scaled wrongly."
    if history.cohort_size is None:
        action += " Correct it now: the ledger keeps the first figure."
    return [warning(_SIZE, expected, str(cohort_size), action)]


def _lacks_findings(config: SiteConfig, counts: Mapping[str, int]) -> list[Finding]:
    """What `lacks` says and the training patients do not, and the other way round."""
    unsaid = [name for name, n in counts.items() if not n and name not in config.lacks]
    there = [name for name in sorted(config.lacks) if counts.get(name)]
    unknown = sorted(config.lacks - set(counts))
    findings = []
    if unsaid and counts["patients"]:
        expected = f"{', '.join(unsaid)} in lacks, because no training patient has it"
        action = "Name it: else nothing but noise is sent as this hospital's share of it."
        findings.append(warning(_LACKS, expected, "no such name", action))
    if there:
        expected = "in lacks only what no training patient has"
        action = "Take it out: else what these patients add is not used."
        findings.append(warning(_LACKS, expected, ", ".join(there), action))
    if unknown:
        expected = "in lacks granularities and outcomes of this study"
        action = "Check the spelling, unless another study has it."
        findings.append(warning(_LACKS, expected, ", ".join(unknown), action))
    return findings


def _enrolment_findings(config: SiteConfig, privacy: PatientPrivacy) -> list[Finding]:
    if not privacy.enrolment or config.name in privacy.enrolment:
        return []
    expected = f"a public number of patients for {config.name}"
    action = "Its updates will weigh as one patient's do: ask for a figure, or mend site.name."
    return [warning("the study's privacy.enrolment", expected, "none", action)]


def _plain_findings(config: SiteConfig, study: Study, history: _History) -> Sequence[Finding]:
    """What a study without protection does to a budget that somebody has decided, and its limit."""
    findings: list[Finding] = []
    most = config.policy.max_runs_without_privacy
    if history.num_unprotected >= most:
        expected = "a run without privacy that is left"
        found = f"{history.num_unprotected} of at most {most} on these data"
        action = "A new run is refused. Raise it if your privacy officer agrees."
        findings.append(error(_RUNS, expected, found, action))
    if config.policy.epsilon_budget is None or not config.policy.allow_without_privacy:
        return findings
    expected = "a study that protects each patient, because these data have a budget"
    action = "Exact values are released, and no bound holds after it: no private study enrols then."
    found = f"privacy mode '{study.privacy.mode}'"
    return [*findings, warning(_BUDGET, expected, found, action)]
