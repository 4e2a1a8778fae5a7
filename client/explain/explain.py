"""`wardround explain`: one page and its tables about a hospital's own held-out patients.

What is computed stays in memory until all of it is there; then it is written to one folder, and to
nothing else: no log, no audit line, no run.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from client.config import load_site_config
from client.explain import tables
from client.explain.attention import Attention, attention_of
from client.explain.calibration import Calibration, calibration_of
from client.explain.decisions import Decision, decisions_of
from client.explain.groups import Group, grouping_features, groups_of
from client.explain.page.courses import quantities_section, survival_section
from client.explain.page.front import front_section, method_section
from client.explain.page.judgement import calibration_section, decisions_section, groups_section
from client.explain.page.reliance import attention_section, pictures_section, reliance_section
from client.explain.pictures import Picture, contact_sheet
from client.explain.place import check_place, write_folder
from client.explain.regression import Quantities, quantities_of
from client.explain.reliance import Reliance, explained_patients, reliance_of
from client.explain.subject import Subject, load_subject
from client.explain.survival import Survival, survival_of
from common.granularities import ImagesGranularity
from common.outcomes import ClassOutcome, RegressionOutcome, SurvivalOutcome
from common.page.document import Page, html_of

PAGE_FILE = "explain.html"
# Told of each step as it begins.
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Explained:
    """What was written.

    Attributes:
        num_patients: the held-out patients.
        notes: sentences that whoever asked should read.
    """

    page: Path
    num_patients: int
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """All that is known of a model and a hospital's held-out patients, by outcome."""

    reliance: dict[str, Reliance]
    attention: list[Attention]
    pictures: dict[str, list[Picture]]
    calibration: dict[str, Calibration]
    decisions: dict[str, list[Decision]]
    survival: dict[str, Survival]
    quantities: dict[str, Quantities]
    groups: dict[str, list[Group]]


def explain_site(
    site_dir: Path,
    run: Path,
    out: Path,
    *,
    sensitivity: float | None = None,
    by: Sequence[str] = (),
    shared: bool = False,
    on_progress: Progress = lambda step: None,
) -> Explained:
    """Writes `explain.html` and its tables about a site's held-out patients to the folder `out`.

    Guarantees:
        - The folder can be opened by its owner alone, and lies in nobody else's (`check_place`).
        - Either all files are written, or none.
        - The same patients give the same bytes, with one thread, unless `site.threads` says more.
        - Nothing that was chosen or fitted depends on a held-out patient.
        - No log and no error text holds a value of a patient; the run and the site's books stay as
          they were.

    Args:
        run: the folder of a finished run (`model.safetensors`, `study.toml`, `results.json`).
        sensitivity: also choose a threshold that reaches it among training patients, in (0, 1].
        by: features to group patients by; none: sex and age, where the study has them.
        shared: the shared model also where the site has one of its own.

    Raises:
        SiteConfigError: the site folder is malformed, `out` is not a place for it, or captum is not
            installed.
        DataError: the data cannot be used, or nobody is held out.
        RunError, StudyError: `run` holds no such model, or the study lacks a feature of `by`.
    """
    config = load_site_config(site_dir)
    check_place(out, config, run)
    with _threads(config.threads or 1):
        subject = load_subject(config, run, shared=shared)
        features = grouping_features(subject.study, by)
        found = explanation_of(subject, sensitivity, features, on_progress)
    on_progress("writing")
    write_folder(out, {PAGE_FILE: page_of(subject, found), **_tables(subject, found)})
    num_patients = len(subject.test.ids)
    return Explained(page=out / PAGE_FILE, num_patients=num_patients, notes=subject.notes)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Lets torch compute with so many threads; with one, equal patients give equal bytes."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def explanation_of(
    subject: Subject, sensitivity: float | None, features: Sequence[str], on_progress: Progress
) -> Explanation:
    """All parts of an explanation, each of the outcomes that it is about."""
    outcomes, index = subject.study.outcomes, explained_patients(subject)
    reliance = {}
    for name in outcomes:
        on_progress(f"attributions of {name}")
        reliance[name] = reliance_of(subject, name, index)
    first = reliance[next(iter(outcomes))]
    images = [
        name for name, g in subject.study.granularities.items() if isinstance(g, ImagesGranularity)
    ]
    classes = [name for name, o in outcomes.items() if isinstance(o, ClassOutcome)]
    on_progress("calibration, thresholds, groups")
    return Explanation(
        reliance=reliance,
        attention=attention_of(subject),
        pictures={name: contact_sheet(subject, name, first) for name in images},
        calibration={name: calibration_of(subject, name) for name in classes},
        decisions={name: decisions_of(subject, name, sensitivity) for name in classes},
        survival={
            name: survival_of(subject, name)
            for name, o in outcomes.items()
            if isinstance(o, SurvivalOutcome)
        },
        quantities={
            name: quantities_of(subject, name)
            for name, o in outcomes.items()
            if isinstance(o, RegressionOutcome)
        },
        groups={name: groups_of(subject, name, features) for name in outcomes},
    )


def page_of(subject: Subject, found: Explanation) -> str:
    """The page; equal arguments give equal texts."""
    return html_of(
        Page(
            title=f"{subject.study.study.title or subject.study.name}: {subject.config.name}",
            subtitle=(
                f"What the model of this run makes of {len(subject.test.ids):,} held-out patients",
                "For this hospital's eyes alone: this page names patients. Nothing of it was sent.",
            ),
            sections=[
                front_section(subject),
                reliance_section(subject, found.reliance),
                attention_section(subject, found.attention),
                pictures_section(subject, found.pictures),
                calibration_section(subject, found.calibration),
                decisions_section(subject, found.decisions),
                survival_section(subject, found.survival),
                quantities_section(subject, found.quantities),
                groups_section(subject, found.groups),
                method_section(subject, found.attention),
            ],
            footer="Written by wardround explain, at the hospital. Not a medical device; not for "
            "decisions about patients.",
        )
    )


def _tables(subject: Subject, found: Explanation) -> dict[str, str]:
    """The tables by file name; none that would be empty."""
    files = {
        f"attributions-{name}.csv": tables.attributions_csv(subject, name, reliance)
        for name, reliance in found.reliance.items()
    }
    if found.attention:
        files["attention.csv"] = tables.attention_csv(found.attention)
    if found.calibration:
        files["calibration.csv"] = tables.calibration_csv(found.calibration)
        files["thresholds.csv"] = tables.decisions_csv(found.decisions)
    if found.survival:
        files["survival.csv"] = tables.survival_csv(subject, found.survival)
    if found.quantities:
        files["quantities.csv"] = tables.quantities_csv(found.quantities)
    if any(found.groups.values()):
        files["groups.csv"] = tables.groups_csv(found.groups)
    return files
