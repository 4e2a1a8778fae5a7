"""The experiment as a page: in plain words, as curves, as tables, and how it was made.

A pure function of the experiment: no clock, no machine, so that the same experiment gives the same
bytes.
"""

from collections.abc import Sequence
from statistics import fmean

from common.metrics.evaluation import statistics_of
from common.page.document import Block, Charts, Items, Page, Paragraph, Section, Table
from common.page.words import listed, several
from server.report.columns import title_of, with_values
from server.report.html.report import FOOTER
from server.report.privacy import cost_of
from simulations.arms import MEAN, POOLED
from simulations.arms_report import mean_sd
from simulations.experiments.attack_section import attack_section, auc_cell, recovered_cell
from simulations.experiments.experiment import Experiment, Point, Sweep
from simulations.experiments.figures import (
    LOCAL,
    MOST_SITES,
    POOLED_ARM,
    chart_of_scope,
    epsilon_of_point,
    sites_of,
    values_of,
)
from simulations.experiments.method import at_least, audit_section, method_section, settings_section
from simulations.experiments.runs import FEDERATED, is_diverged
from simulations.results.measure import primary_metric

SCOPES = {POOLED: "all patients", MEAN: "mean of hospitals"}


def experiment_page(experiment: Experiment) -> Page:
    """The page of a privacy experiment."""
    study = experiment.sweep.bases.reference
    num_seeds = experiment.sweep.num_seeds
    return Page(
        title=f"{study.study.title or study.name}: what privacy costs",
        subtitle=[
            f"Held-out patients; mean ± standard deviation over {several(num_seeds, 'seed')}. "
            "Simulated on one machine: no hospital's real budget was spent."
        ],
        sections=[
            Section(key="summary", title="In plain words", blocks=_summary(experiment)),
            Section(key="curve", title="Utility and privacy", blocks=_curve(experiment)),
            Section(key="hospitals", title="Each hospital", blocks=_hospitals(experiment)),
            Section(key="metrics", title="Other metrics", blocks=_metrics(experiment)),
            settings_section(experiment),
            audit_section(experiment),
            attack_section(experiment),
            Section(key="failures", title="What failed", blocks=_failures(experiment)),
            method_section(experiment),
        ],
        footer=f"Written by Wardround from the runs of this experiment alone. {FOOTER}",
    )


def _summary(experiment: Experiment) -> list[Block]:
    metric = primary_metric(experiment.sweep.bases.reference)
    plain = _mean(experiment.reference, FEDERATED, metric)
    title = title_of(metric[1])
    items = []
    for point in experiment.points:
        value, alone = _mean(point, FEDERATED, metric), _mean(point, LOCAL, metric)
        if value is None:
            items.append(f"{point.name}: every run failed.")
            continue
        beside = "" if plain is None else f", {_apart(value - plain)} without privacy"
        than = (
            ""
            if alone is None
            else (f"; each hospital alone, with the same privacy, reaches {alone:.3f}")
        )
        items.append(f"{point.name}: {title} {value:.3f}{beside}{than}.")
    return [
        Paragraph(
            look="lead",
            text=f"How well the model of all hospitals tells {metric[0].replace('_', ' ')}, as "
            f"the mean of hospitals ({title}), when every patient is protected.",
        ),
        Items(items=items),
        Paragraph(
            look="note",
            text="A smaller epsilon is more privacy. What a patient is promised: whether or not "
            "they took part changes the chance of anything that is released by at most a factor "
            "e^epsilon, but for a chance of delta.",
        ),
    ]


def _apart(difference: float) -> str:
    """How two means differ, in words.

    >>> _apart(-0.0214), _apart(0.0001)
    ('0.021 below that', 'the same as')
    """
    if abs(difference) < 0.0005:
        return "the same as"
    return f"{abs(difference):.3f} {'below' if difference < 0 else 'above'} that"


def _curve(experiment: Experiment) -> list[Block]:
    charts = [
        chart
        for scope, words in SCOPES.items()
        if (chart := chart_of_scope(experiment, scope, f"Utility over epsilon, {words}"))
    ]
    return [*([Charts(charts=charts)] if charts else []), _table(experiment)]


def _table(experiment: Experiment) -> Table:
    """A row for each point, and three for what privacy is compared with."""
    sweep, reference = experiment.sweep, experiment.reference
    metric = primary_metric(sweep.bases.reference)
    title = title_of(metric[1])
    head = ["", "epsilon spent", *(["with tuning"] if sweep.charges_tuning else []), "noise"]
    head += [*SCOPES.values(), "each alone, mean"]
    head += ["audit: at least"] if sweep.is_audited else []
    head += ["LiRA, AUC", "recovered"] if sweep.attacks == "all" else []
    rows = [_point_row(experiment, point, metric) for point in experiment.points]
    names = {
        FEDERATED: "no privacy, federated",
        POOLED_ARM: "no privacy, all pooled",
        LOCAL: "no privacy, each alone",
    }
    blank = ["∞", *(["∞"] if sweep.charges_tuning else []), "–"]
    for arm, name in names.items():
        cells = [mean_sd(values_of(reference, arm, scope, metric)) for scope in SCOPES]
        attacked = _attack_cells(sweep, reference if arm == FEDERATED else None)
        rows.append([name, *blank, *cells, "–", *attacked])
    return Table(
        caption=f"{title} of {metric[0]} by privacy",
        head=head,
        rows=rows,
        note="Epsilon spent is what the ledger says of the hospital whose patients paid most. "
        "Hospitals that train alone have models without a common scale: judge them by the mean of "
        "hospitals."
        + (
            " An audit's bound holds at its confidence for a hospital of the same size, all of "
            "whose patients are canaries."
            if sweep.is_audited
            else ""
        ),
    )


def _point_row(experiment: Experiment, point: Point, metric: tuple[str, str]) -> list[str]:
    spent = max((r.epsilon_spent for r in point.runs if r.epsilon_spent), default=None)
    noise = {s["noise_multiplier"] for r in point.runs for s in r.made["spent"].values()}
    row = [point.name, cost_of(spent)]
    row += [cost_of(epsilon_of_point(point))] if experiment.sweep.charges_tuning else []
    row.append(_range(sorted(noise)))
    row += [mean_sd(values_of(point, FEDERATED, scope, metric)) for scope in SCOPES]
    row.append(mean_sd(values_of(point, LOCAL, MEAN, metric)))
    return [*row, *_attack_cells(experiment.sweep, point)]


def _attack_cells(sweep: Sweep, point: Point | None) -> list[str]:
    """What was asked of attacks; dashes where nobody was attacked."""
    bound = (point.audit or {}).get("epsilon_lower_bound") if point else None
    cells = [at_least(bound)] if sweep.is_audited else []
    if sweep.attacks == "all":
        cells += [auc_cell(point), recovered_cell(point)] if point else ["–", "–"]
    return cells


def _range(values: Sequence[float]) -> str:
    """The noise of all hospitals: one number, or from the least to the most.

    >>> _range([1.5]), _range([1.5, 2.25, 3.0]), _range([])
    ('1.5', '1.5 to 3', '–')
    """
    if not values:
        return "–"
    return f"{values[0]:.4g}" if len(values) == 1 else f"{values[0]:.4g} to {values[-1]:.4g}"


def _hospitals(experiment: Experiment) -> list[Block]:
    metric = primary_metric(experiment.sweep.bases.reference)
    sites = sites_of(experiment)
    if len(sites) > MOST_SITES:
        return [Paragraph(text=f"{len(sites)} hospitals: their numbers are in experiment.csv.")]
    charts = [chart for site in sites if (chart := chart_of_scope(experiment, site, site))]
    answers = [
        *((p.name, p, FEDERATED) for p in experiment.points),
        *((f"{p.name}, alone", p, LOCAL) for p in experiment.points),
        ("no privacy", experiment.reference, FEDERATED),
        ("no privacy, alone", experiment.reference, LOCAL),
    ]
    rows = [
        [name, *(mean_sd(values_of(answer, arm, site, metric)) for site in sites)]
        for name, answer, arm in answers
    ]
    table = Table(caption=f"{title_of(metric[1])} by hospital", head=["", *sites], rows=rows)
    return [*([Charts(charts=charts)] if charts else []), table]


def _metrics(experiment: Experiment) -> list[Block]:
    """Tables of all metrics of all outcomes, as the mean of hospitals."""
    study = experiment.sweep.bases.reference
    blocks: list[Block] = []
    for outcome, statistics in statistics_of(study).items():
        parts = [
            r["metrics"]
            for run in experiment.reference.runs
            for r in run.made["results"]
            if r["outcome"] == outcome
        ]
        columns = [c for c in with_values(statistics.columns, parts) if not c.startswith("num_")]
        unit = getattr(study.outcomes[outcome], "unit", "")
        rows = [
            [
                point.name,
                *(mean_sd(values_of(point, FEDERATED, MEAN, (outcome, c))) for c in columns),
            ]
            for point in (*experiment.points, experiment.reference)
        ]
        head = ["", *(title_of(c, unit) for c in columns)]
        blocks.append(
            Table(caption=f"{outcome}: federated, mean of hospitals", head=head, rows=rows)
        )
    return blocks


def _failures(experiment: Experiment) -> list[Block]:
    """Every run and trial that came to nothing; no block where there is none."""
    items = []
    for point in (*experiment.points, experiment.reference):
        for run in point.runs:
            arms = {r["arm"] for r in run.made["results"] if is_diverged(r["metrics"])}
            if run.made["failed"]:
                items.append(f"{point.name}, seed {run.seed}: {run.made['failed']}")
            elif arms:
                items.append(f"{point.name}, seed {run.seed}: {listed(sorted(arms))} diverged")
        for trial in point.trials:
            if trial.validated.failed:
                why = listed(sorted(set(trial.validated.failed)))
                items.append(f"{trial.question}, {trial.setting.name}, inner validation: {why}")
    items = list(dict.fromkeys(items))
    return [Items(items=items)] if items else []


def _mean(point: Point, arm: str, metric: tuple[str, str]) -> float | None:
    known = [v for v in values_of(point, arm, MEAN, metric) if v is not None]
    return fmean(known) if known else None
