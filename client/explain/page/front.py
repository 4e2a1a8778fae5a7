"""The beginning and the end of the page: how good the model is here, and how it was looked at."""

from collections.abc import Sequence

import numpy as np

from client.attributions import MOST_PATIENTS
from client.explain.attention import Attention
from client.explain.groups import measures_of
from client.explain.page.words import estimate_text
from client.explain.subject import Subject
from common.metrics.resampling import NUM_RESAMPLES, Estimate
from common.page.document import Block, Figure, Figures, Items, Paragraph, Section
from common.page.words import listed, several


def front_section(subject: Subject) -> Section:
    """Who was looked at, and the first measures of each outcome."""
    study, test = subject.study, subject.test
    has = {name: int(a["present_B"].sum()) for name, a in test.cohort.arrays.items()}
    absent = [name for name, count in has.items() if count == 0]
    figures = [
        Figure(name="held-out patients", value=f"{len(test.ids):,}"),
        Figure(name="training patients", value=f"{len(subject.train.ids):,}"),
    ]
    for name in study.outcomes:
        known_B = test.known(name)
        if known_B.sum() < subject.smallest_group:
            continue
        for measure, estimate in list(measures_of(subject, name, known_B).items())[:1]:
            figures.append(_figure(f"{name}: {measure}", estimate, int(known_B.sum())))
    blocks: list[Block] = [
        Paragraph(text=study.study.description, look="lead"),
        Figures(figures=figures),
        Paragraph(text=_who(subject, absent)),
    ]
    if not study.study.description:
        blocks.pop(0)
    blocks += [Paragraph(text=note, look="warn") for note in subject.notes]
    return Section(key="front", title="At a glance", blocks=blocks)


def _figure(name: str, estimate: Estimate, num_patients: int) -> Figure:
    if estimate.value is None:
        return Figure(name=name, value="–", more="not defined for these patients")
    text = estimate_text(estimate)
    value, _, interval = text.partition(" ")
    more = f"95 % interval {interval.strip('()')}" if interval else ""
    return Figure(name=name, value=value, more=f"{more}; {num_patients:,} patients".lstrip("; "))


def _who(subject: Subject, absent: list[str]) -> str:
    whose = "This hospital's own model" if subject.is_own else "The shared model"
    text = (
        f"{whose} of the study {subject.study.name}, looked at on this hospital's held-out "
        "patients: no one of them was learned from here, and nothing below was chosen or fitted on "
        "them."
    )
    if absent:
        text += f" None of them has {listed(absent)}."
    return text


def method_section(subject: Subject, attention: Sequence[Attention]) -> Section:
    """How it was looked at, in a few sentences that a statistician can check."""
    items = [
        "Features: integrated gradients (captum), Gauss-Legendre, steps doubled until the sum "
        "misses less than 1 % of the patient's difference, or of the mean one if that is more.",
        f"Attributions are of at most {MOST_PATIENTS} held-out patients, evenly spread over the "
        "file.",
        "Granularities: exact Shapley values over all subsets.",
        f"Intervals: percentile bootstrap over patients, {several(NUM_RESAMPLES, 'resample')}; "
        "Wilson's in calibration curves; log-log of Greenwood's for Kaplan-Meier. The model and "
        "the thresholds are taken as given: intervals tell of the patients alone.",
        f"Groups of fewer than {subject.smallest_group} patients are not judged.",
    ]
    if not attention:
        items.append(
            f"The study's fusion is '{subject.study.model.fusion}', which has no attention to show."
            if subject.study.model.fusion != "attention"
            else "There are too few held-out patients to show attention."
        )
    has_site = any(np.any(i != 0) for i in subject.intercepts.values())
    if has_site:
        items.append(
            "Predictions have this hospital's own intercept, fitted to its training patients."
        )
    return Section(key="method", title="How it was looked at", blocks=[Items(items=items)])
