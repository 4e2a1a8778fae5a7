"""How an experiment was made, as sections of its page: settings and their cost, audits, method."""

from math import floor
from typing import Any

from common.page.document import Block, Items, Paragraph, Section, Table
from common.page.words import several
from common.privacy.plan import ADJACENCY
from server.report.columns import title_of
from server.report.privacy import cost_of
from simulations.arms_report import mean_sd
from simulations.experiments.experiment import Experiment, Point
from simulations.experiments.settings import clip_of, steps_text
from simulations.results.measure import primary_metric

_MOST_TRIALS = 200


def settings_section(experiment: Experiment) -> Section:
    """Which settings were compared, which were chosen, and what that cost."""
    blocks: list[Block] = [_chosen(experiment), Paragraph(text=_cost(experiment))]
    trials = _trials(experiment)
    if trials is not None:
        blocks.append(trials)
    return Section(key="settings", title="Settings, and what choosing them costs", blocks=blocks)


def _chosen(experiment: Experiment) -> Table:
    head = ("", "clip", "rounds", "a round", "learning rate", "batch", "settings compared")
    rows = []
    for point in (*experiment.points, experiment.reference):
        training, clip = point.study.training, clip_of(point.study)
        rows.append(
            (
                point.name,
                "–" if clip is None else f"{clip:g}",
                str(training.rounds),
                steps_text(training),
                f"{training.learning_rate:g}",
                str(training.batch_size),
                str(max(len(point.trials), 1)),
            )
        )
    return Table(caption="Settings with which each point was made", head=head, rows=rows)


def _cost(experiment: Experiment) -> str:
    """What choosing has cost, in words."""
    counts = {point.num_trainings for point in experiment.points}
    if counts == {0} or not counts:
        return (
            "No settings were compared here: private runs have those of the study "
            f"{experiment.sweep.bases.private.name}. How these were chosen is not part of epsilon."
        )
    most = max(counts)
    inner = experiment.sweep.inner
    told = (
        f"For each point up to {several(most, 'private training')} on the same patients chose the "
        f"setting, by inner validation ({several(inner.num_folds, 'fold')} of the training "
        "patients; held-out patients took no part). "
    )
    if experiment.sweep.charges_tuning:
        return told + (
            "Their events are composed with those of the run: the reported epsilon is what "
            "releasing this one model costs with all of its trials."
        )
    return told + (
        "They are not part of the epsilon that is reported. With --tuning-cost charge they are."
    )


def _trials(experiment: Experiment) -> Table | None:
    _, metric = primary_metric(experiment.sweep.bases.reference)
    points = (*experiment.points, experiment.reference)
    trials = {(t.question, t.setting): t for point in points for t in point.trials}
    if not trials:
        return None
    chosen = {(point.target, point.setting) for point in points}
    rows = [
        (
            t.question,
            t.setting.name,
            mean_sd(list(t.validated.values)),
            "chosen" if (t.target, t.setting) in chosen else "",
        )
        for t in list(trials.values())[:_MOST_TRIALS]
    ]
    return Table(
        caption=f"Inner validation: {title_of(metric)} over folds",
        head=("", "setting", f"{title_of(metric)}, mean ± sd", ""),
        rows=rows,
        is_words=True,
    )


def audit_section(experiment: Experiment) -> Section:
    """What an attack on the mechanism proves that epsilon is at least; empty if not audited."""
    audited = [point for point in experiment.points if point.audit]
    blocks: list[Block] = []
    if audited:
        blocks = [
            Paragraph(
                text="The training code itself, with planted patients (canaries) who are as easy "
                "to tell as the accounting allows: how well they are told proves that epsilon is "
                "at least so much. A bound above the claim is a fault in noise, clipping or "
                "accounting."
            ),
            Table(
                caption="Audit of the mechanism",
                head=("", "claimed", "at least", "patients", "confidence", "claim stands"),
                rows=[_audit_row(point, point.audit or {}) for point in audited],
            ),
        ]
        found = [point.audit or {} for point in audited]
        limits = {str(audit["limits"]) for audit in found if "limits" in audit}
        blocks += [Paragraph(text=text, look="note") for text in sorted(limits)]
    return Section(key="audit", title="Audit", blocks=blocks)


def _audit_row(point: Point, audit: Any) -> tuple[str, ...]:
    if audit["failed"]:
        return (point.name, "–", "–", "–", "–", f"no audit: {audit['failed']}")
    return (
        point.name,
        _claimed(audit["epsilon_claimed"]),
        at_least(audit["epsilon_lower_bound"]),
        f"{audit['cohort_size']:,}",
        f"{audit['measures']['confidence']:g}",
        _stands(audit),
    )


def _stands(audit: Any) -> str:
    """Whether a claim stands; where noise is not what a bound assumes, nobody knows.

    >>> _stands({"succeeded": True, "epsilon_lower_bound": None})
    'not known: noise is not normal'
    """
    if not audit["succeeded"]:
        return "yes"
    return "no" if audit["epsilon_lower_bound"] is not None else "not known: noise is not normal"


def at_least(bound: float | str | None) -> str:
    """A lower bound as tables show it, rounded down: rounding proves nothing.

    >>> at_least(0.7386), at_least("inf"), at_least(None)
    ('0.738', '∞', '–')
    """
    if bound is None:
        return "–"
    return "∞" if isinstance(bound, str) else f"{floor(bound * 1000) / 1000:.3f}"


def _claimed(epsilon: float | str | None) -> str:
    return "∞" if isinstance(epsilon, str) else cost_of(epsilon)


def method_section(experiment: Experiment) -> Section:
    """Everything that somebody needs to judge the numbers, and to make them again."""
    sweep, bases = experiment.sweep, experiment.sweep.bases
    noise = ", ".join(experiment.noise) or "none"
    items = [
        f"Privacy of patients: {ADJACENCY}; delta {bases.delta:g} at each hospital; epsilon is of "
        "all that one run releases.",
        f"Noise: {noise}, so that runs can be repeated. Seeded noise protects nobody; a real site "
        "draws it from a cryptographic source.",
        f"With privacy: study {bases.private.name} (hash {bases.private.hash[:16]}); without: "
        f"{bases.reference.name} (hash {bases.reference.hash[:16]}), each with its own settings.",
        "Each point is an ordinary run, with its own folder and ledgers, in runs/; its seeds share "
        "splits and patients, and differ in initial weights, batches and noise.",
        "Metrics are exact, of the pooled predictions of a simulation: real hospitals would send "
        "noised histograms.",
        "Each private hospital alone is trained with the same plan as in the federation.",
    ]
    if sweep.pareto is not None:
        items.append(
            f"Points are the front of {sweep.pareto.num_trials} trials of NSGA-II over utility in "
            "inner validation and epsilon."
        )
    return Section(key="method", title="How this was made", blocks=[Items(items=items)])
