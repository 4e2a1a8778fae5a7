"""A results page from a data set: import, train, measure, compare, write."""

from collections.abc import Callable
from pathlib import Path

from common.errors import RunError
from common.study_file import load_study, override
from simulations.results.bootstrap import compare
from simulations.results.measure import measure, shares
from simulations.results.page import Page, Reference
from simulations.results.report import Findings, write_results
from simulations.results.run import Parts, make_parts


def make_results(
    page: Page,
    *,
    source: Path,
    out: Path,
    num_seeds: int,
    jobs: int,
    published: Path,
    rounds: int | None = None,
    on_progress: Callable[[int, int, str], None] = lambda *_: None,
) -> Path:
    """Returns the path of `results.md`, beside which `results.csv` stands.

    Guarantees:
        - A part that lies finished in `out` is not made again; the page is the same.

    Args:
        source: the folder of the data set.
        published: the folder with FLamby's published results, where the page shows them.
        rounds: overrides the study's; the page says so.

    Raises:
        DataError: a file of the data set is missing or cannot be read.
        RunError: every method failed.
    """
    study = override(load_study(page.study), training__rounds=rounds)
    splits = page.splits(num_seeds)
    parts = make_parts(
        page, study, source=source, out=out, splits=splits, jobs=jobs, on_progress=on_progress
    )
    measured, repeats = measure(parts.held, page, study)
    if not repeats:
        reasons = ", ".join(sorted({failure.reason for failure in parts.failures}))
        raise RunError(
            f"Expected results of some method, found that all failed ({reasons}). Try the study "
            "with `wardround simulate` on the site folders below --out to see why."
        )
    references: list[Reference] = []
    if page.references is not None:
        references += page.references(study, parts.sites[splits[0].fold], published)
    findings = Findings(
        page=page,
        study=study,
        splits=splits,
        repeats=list(repeats.values()),
        measured=measured,
        differences=compare(page, study, repeats, singles=_singles(page, parts)),
        shares=shares(measured),
        references=references,
        failures=parts.failures,
    )
    return write_results(findings, out)


def _singles(page: Page, parts: Parts) -> list[str]:
    """The arms with one granularity that were made."""
    names = {method.name for method in page.methods if method.is_single}
    made = {arm for held in parts.held.values() for part in held for arm in part.predictions}
    return [method.name for method in page.methods if method.name in names & made]
