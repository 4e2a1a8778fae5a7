"""`wardround check-site`: everything that is wrong with a site folder, in one pass.

For the hospital's data engineer: by file and column, with counts and never with values.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from client.config import SiteConfig, load_site_config
from client.data import cohort_findings, read_cohort
from client.findings import Finding, warning
from common.metrics import SECONDS, declared_shapes
from common.study import Study


@dataclass(frozen=True, kw_only=True)
class SiteCheck:
    """What a check of a site folder says.

    Attributes:
        training: training patients, and how many of them have each granularity; None if there are
            errors.
        held_out: the same of the patients that are held out.
    """

    site: str
    findings: tuple[Finding, ...]
    training: dict[str, int] | None
    held_out: dict[str, int] | None

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
    if cohort is not None:
        findings = findings + cohort_findings(cohort, config)
    return SiteCheck(
        site=config.name,
        findings=tuple(findings),
        training=None if cohort is None else cohort.train.counts(),
        held_out=None if cohort is None else cohort.test.counts(),
    )


def _policy_findings(config: SiteConfig, study: Study) -> list[Finding]:
    declared = declared_shapes(study.num_classes, study.evaluation.score_bins)
    unknown = sorted(set(config.policy.metrics) - {"*", *declared, *SECONDS})
    if not unknown:
        return []
    expected = f"names of statistics ({', '.join([*declared, *SECONDS])}) or *"
    action = "Check the spelling: nothing leaves under an unknown name."
    return [warning("site.toml, policy.metrics", expected, ", ".join(unknown), action)]
