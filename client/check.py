"""`wardround check-site`: everything that is wrong with a site folder, in one pass.

For the hospital's data engineer: by file and column, with counts and never with values.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from client.check_privacy import check_privacy
from client.config import SiteConfig, load_site_config
from client.data import Cohort, cohort_findings, read_cohort
from client.findings import Finding, error, warning
from common.errors import Refusal, SiteConfigError
from common.metrics.attributions import PATIENTS, prefixes_of
from common.metrics.evaluation import declared_sizes, groups_of, statistic_of
from common.privacy.sections import PatientPrivacy
from common.study import Study


@dataclass(frozen=True, kw_only=True)
class SiteCheck:
    """What a check of a site folder says.

    Attributes:
        training: training patients, and how many of them have each granularity; None if there are
            errors.
        held_out: the same of the patients that are held out.
        cost: of one private run here, by label; empty where nobody is protected.
    """

    site: str
    findings: tuple[Finding, ...]
    training: dict[str, int] | None
    held_out: dict[str, int] | None
    cost: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_usable(self) -> bool:
        """Whether the site can take part: no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The check as plain values."""
        findings = [asdict(f) | {"sentence": f.sentence()} for f in self.findings]
        return {
            "site": self.site,
            "usable": self.is_usable,
            "training": self.training,
            "held_out": self.held_out,
            "cost": dict(self.cost),
            "findings": findings,
        }


def check_site(site_dir: Path, study: Study) -> SiteCheck:
    """The check of a site folder against a study.

    Raises:
        SiteConfigError: `site.toml` is missing or malformed, so its data cannot be found.
    """
    config = load_site_config(site_dir)
    cohort, findings = read_cohort(config, study)
    findings = findings + _policy_findings(config, study)
    cost: Mapping[str, str] = {}
    if cohort is not None:
        findings = findings + cohort_findings(cohort, config, study)
        findings = findings + _refusals(config, study, cohort) + _device_findings(config)
        private = check_privacy(config, study, cohort)
        findings, cost = [*findings, *private.findings], private.cost
    return SiteCheck(
        site=config.name,
        findings=tuple(findings),
        cost=cost,
        training=None if cohort is None else cohort.train.counts(),
        held_out=None if cohort is None else cohort.test.counts(),
    )


def _refusals(config: SiteConfig, study: Study, cohort: Cohort) -> list[Finding]:
    """Why the site would refuse every task: nobody should find out in a round."""
    policy = config.policy
    # How many patients the folder has, `cohort_findings` tells.
    num_patients = max(len(cohort.train), policy.min_patients)
    if isinstance(study.privacy, PatientPrivacy):
        decided = ("epsilon_budget", "cohort_size")
        missing = [name for name in decided if getattr(policy, name) is None]
        if missing:
            expected = f"{' and '.join(missing)} in [policy], because the study is private"
            action = "Add what your privacy officer decides: docs/privacy.md."
            return [error("site.toml", expected, "no such line", action)]
        num_patients = policy.cohort_size or num_patients
    try:
        policy.check_study(study, num_patients)
        policy.check_round(study.training.rounds)
    except Refusal as refusal:
        found = f"a policy that refuses it ({refusal.refusal_code})"
        action = f"{refusal} Change the policy if your privacy officer agrees."
        return [error("site.toml", "a policy that allows this study", found, action)]
    return []


def _device_findings(config: SiteConfig) -> list[Finding]:
    if not config.device.startswith("cuda"):
        return []
    from client.device import device_of

    try:
        device_of(config.device)
    except SiteConfigError:
        found = f"no {config.device} on this machine"
        action = 'Use "auto", "cpu" or another number.'
        return [error("site.toml", "the GPU of site.device", found, action)]
    return []


def _policy_findings(config: SiteConfig, study: Study) -> list[Finding]:
    declared = sorted({statistic_of(name) for name in declared_sizes(study)})
    unknown = sorted(set(config.policy.metrics) - {"*", *declared, *declared_sizes(study)})
    where = "site.toml, policy.metrics"
    findings: list[Finding] = []
    if unknown:
        expected = f"names of statistics ({', '.join(declared)}) or *"
        action = "Check the spelling: nothing leaves under an unknown name."
        findings.append(warning(where, expected, ", ".join(unknown), action))
    allowed = {name for name in declared_sizes(study) if config.policy.allows_metric(name)}
    counts = {group: f"{group}num_patients" for group in groups_of(study)}
    counts |= {prefix: prefix + PATIENTS for prefix in prefixes_of(study).values()}
    uncounted = [
        group
        for group, count in counts.items()
        if count not in allowed and any(n.startswith(group) for n in allowed)
    ]
    if uncounted:
        missing = sorted({statistic_of(counts[group]) for group in uncounted})
        expected = f"{' and '.join(missing)} among the statistics"
        found = f"none of {', '.join(group.rstrip('.') for group in uncounted)}"
        action = "Add it: without the number of patients no other statistic of them is sent."
        findings.append(warning(where, expected, found, action))
    return findings
