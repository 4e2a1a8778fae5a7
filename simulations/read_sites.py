"""The patients of several site folders, or everything that is wrong with any of them."""

from pathlib import Path

from client.config import load_site_config
from client.data import Cohort, read_cohort, usable_cohort
from common.errors import DataError, SiteConfigError
from common.run_folder import site_folders
from common.study import Study


def read_cohorts(study: Study, sites: Path) -> dict[str, Cohort]:
    """The patients of each site folder below `sites`, by its name.

    Raises:
        DataError: the data of some cannot be used; every one of them is named, and every reason.
    """
    cohorts: dict[str, Cohort] = {}
    faults: list[str] = []
    for folder in site_folders(sites):
        try:
            cohorts[folder.name] = usable_cohort(*read_cohort(load_site_config(folder), study))
        except (DataError, SiteConfigError) as fault:
            faults.append(f"{folder.name}: {fault}")
    if faults:
        raise DataError("\n".join(faults))
    return cohorts
