"""A site's folder as a person reads it."""

from pathlib import Path

from client.config import load_site_config
from client.data import Cohort, cohort_findings, read_cohort
from client.findings import Finding
from common.study import Study


def read(folder: Path, study: Study) -> tuple[Cohort | None, list[Finding]]:
    """The patients of a folder, and all that a person is told of it."""
    config = load_site_config(folder)
    cohort, findings = read_cohort(config, study)
    return cohort, findings + ([] if cohort is None else cohort_findings(cohort, config, study))
