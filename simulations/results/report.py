"""The page itself: `results.md`, and every number of it in one tidy `results.csv`."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.code_version import code_fingerprint, release
from common.files import write_atomically
from common.metrics.evaluation import statistics_of
from common.study import Study
from common.study_file import shipped_text
from server.report.columns import title_of
from simulations.arms import MEAN, POOLED
from simulations.results.bootstrap import Difference
from simulations.results.held_out import HeldOut
from simulations.results.measure import Measured, Share, groups_of, primary_metric
from simulations.results.page import Aim, Page, Reference, Split
from simulations.results.people import people_table
from simulations.results.run import Failure

_MOST_SITES = 12
_SETTINGS = ("[normalisation]", "[model]", "[training]", "[strategy]", "[personal]")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that a page tells."""

    page: Page
    study: Study
    splits: Sequence[Split]
    repeats: Sequence[HeldOut]
    measured: Sequence[Measured]
    differences: Sequence[Difference]
    shares: Sequence[Share]
    references: Sequence[Reference]
    failures: Sequence[Failure]


def write_results(findings: Findings, out: Path) -> Path:
    """Writes `results.csv` and `results.md`; returns the path of the latter."""
    write_atomically(out / "results.csv", to_csv(findings).encode(), durable=False)
    write_atomically(out / "results.md", to_markdown(findings).encode(), durable=False)
    return out / "results.md"


def to_csv(findings: Findings) -> str:
    """A line per arm, outcome, group, scope, run and metric; an undefined metric is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", "outcome", "group", "scope", "run", "metric", "value"])
    for m in findings.measured:
        for metric, value in m.metrics.items():
            writer.writerow([m.arm, m.outcome, m.group, m.scope, m.run, metric, _cell(value)])
    outcome, metric = primary_metric(findings.study)
    for d in findings.differences:
        head = [f"federated minus {d.other}", outcome, d.comparison.group, POOLED, "bootstrap"]
        for name, value in (("difference", d.value), ("low", d.low), ("high", d.high)):
            writer.writerow([*head, f"{metric}_{name}", _cell(value)])
    for r in findings.references:
        for scope, value in ((POOLED, r.pooled), (MEAN, r.sites)):
            writer.writerow([r.name, outcome, "", scope, "reference", metric, _cell(value)])
    return text.getvalue()


def to_markdown(findings: Findings) -> str:
    """The page: how far, who, the tables, is any hospital better off alone, and the settings."""
    study, page = findings.study, findings.page
    parts = [f"# {study.study.title or study.name}: results", study.study.description]
    parts += [_how_it_was_done(findings), *page.notes, *_how_far(findings), *_failures(findings)]
    parts.append(people_table(findings.repeats, study))
    for outcome in study.outcomes:
        for group in groups_of(page, outcome, study):
            parts.append(_arms_table(findings, outcome, group.name))
        parts.append(_sites_table(findings, outcome))
    parts += [_shares(findings.shares), _settings(findings)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _how_it_was_done(findings: Findings) -> str:
    splits, page = findings.splits, findings.page
    num_folds, num_seeds = len({s.fold for s in splits}), len({s.seed for s in splits})
    sentences = [
        f"{len(splits)} runs of each arm ({num_seeds} seeds, {num_folds} of {page.num_folds} "
        "test folds); mean ± sd over runs. Exact metrics, from predictions of held-out patients.",
    ]
    if page.num_folds > 1:
        sentences.append(
            "“Out of fold” is over all patients together, each predicted by the models that were "
            "trained without their fold."
        )
    if num_folds < page.num_folds:
        sentences.append("Not all folds were run: a quick try, not a result.")
    if findings.study.training.rounds != _shipped_rounds(findings):
        sentences.append(
            f"With {findings.study.training.rounds} rounds in place of the study's "
            f"{_shipped_rounds(findings)}: a quick try, not a result."
        )
    sentences.append(f"Wardround {release()}, code {code_fingerprint()}.")
    return " ".join(sentences)


def _how_far(findings: Findings) -> list[str]:
    outcome, metric = primary_metric(findings.study)
    lines = ["## How far", "", f"Federated minus the other arm: {title_of(metric)} of {outcome}, "]
    lines[-1] += "paired bootstrap over patients"
    lines[-1] += " (all runs of a patient are drawn together)." if findings.repeats[1:] else "."
    lines += ["", "| against | patients | difference | 95 % interval | aim | reached |"]
    lines.append("|---|---|---:|---:|---:|---|")
    for d in findings.differences:
        other = d.other if d.other == d.comparison.other else f"{d.comparison.other}: {d.other}"
        who = f"{d.comparison.group} ({d.num_patients})"
        aim = d.comparison.aim
        goal = "" if aim is None else f"> {aim:g}"
        lines.append(f"| {other} | {who} | {_interval(d)} | {goal} | {_reached(d.value, aim)} |")
    if findings.page.aims:
        lines += ["", "| aim | at least | found | reached |", "|---|---:|---:|---|"]
    for aimed in findings.page.aims:
        values = _values_of_aim(findings, aimed)
        found = float(np.mean(values)) if values else None
        is_reached = "–" if found is None else ("yes" if found >= aimed.at_least else "no")
        lines.append(
            f"| {aimed.text} | {aimed.at_least:g} | {_mean_sd(list(values))} | {is_reached} |"
        )
    return ["\n".join(lines)]


def _values_of_aim(findings: Findings, aim: Aim) -> list[float]:
    outcome, metric = primary_metric(findings.study)
    scope = MEAN if aim.of_sites else POOLED
    rows = _rows(findings, outcome, scope=scope, is_repeat=True)
    return [v for m in rows if m.arm == aim.arm and (v := m.metrics[metric]) is not None]


def _interval(difference: Difference) -> str:
    d = difference
    if d.value is None or d.low is None or d.high is None:
        return "– | –"
    return f"{d.value:+.3f} | {d.low:+.3f} to {d.high:+.3f}"


def _reached(value: float | None, aim: float | None) -> str:
    if aim is None:
        return ""
    return "–" if value is None else ("yes" if value > aim else "no")


def _failures(findings: Findings) -> list[str]:
    if not findings.failures:
        return []
    lines = ["## Failures", "", "| method | run | what happened |", "|---|---|---|"]
    lines += [f"| {f.method} | {f.split.name} | {f.reason} |" for f in findings.failures]
    return ["\n".join(lines)]


def _arms_table(findings: Findings, outcome: str, group: str) -> str:
    columns = _columns(findings, outcome)
    rows = [m for m in _rows(findings, outcome, group=group) if m.scope == POOLED]
    has_folds = findings.page.num_folds > 1
    kinds = ("mean ± sd", "out of fold") if has_folds else ("mean ± sd",)
    titles = [
        f"{title_of(c)}, {kind}" if has_folds else title_of(c) for c in columns for kind in kinds
    ]
    num_runs = len(findings.splits)
    lines = [f"## {_capital(outcome)}: {group}", "", f"| arm | {' | '.join(titles)} |"]
    lines.append("|---|" + "---:|" * len(titles))
    for arm in dict.fromkeys(m.arm for m in findings.measured):
        mine = [m for m in rows if m.arm == arm]
        if not mine:
            continue
        cells = []
        for column in columns:
            for is_repeat in (False, True)[: len(kinds)]:
                found = [m.metrics[column] for m in mine if m.is_repeat == is_repeat]
                cells.append(_mean_sd(found, num_runs=None if is_repeat else num_runs))
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    if outcome == next(iter(findings.study.outcomes)) and group == rows_of_everybody(findings):
        for r in findings.references:
            cells = [_with_sd(r.pooled, r.pooled_sd), *[""] * (len(titles) - 1)]
            lines.append(f"| {r.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rows_of_everybody(findings: Findings) -> str:
    """The name of the group that has all held-out patients."""
    return groups_of(findings.page, next(iter(findings.study.outcomes)), findings.study)[0].name


def _sites_table(findings: Findings, outcome: str) -> str:
    """The most telling metric by hospital; over the folds of a repeat together."""
    metric = _columns(findings, outcome)[0]
    rows = _rows(findings, outcome, is_repeat=True)
    sites = findings.repeats[0].sites()
    scopes = [*(sites if len(sites) <= _MOST_SITES else []), MEAN]
    lines = [f"## {_capital(outcome)}: {title_of(metric)} by hospital", ""]
    lines += [f"| arm | {' | '.join(scopes)} |", "|---|" + "---:|" * len(scopes)]
    for arm in dict.fromkeys(m.arm for m in rows):
        mine = [m for m in rows if m.arm == arm]
        cells = [_mean_sd([m.metrics[metric] for m in mine if m.scope == s]) for s in scopes]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    if outcome == next(iter(findings.study.outcomes)):
        for r in findings.references:
            cells = [*[""] * (len(scopes) - 1), _with_sd(r.sites, r.sites_sd)]
            lines.append(f"| {r.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shares(found: Sequence[Share]) -> str:
    lines = ["## Is any hospital better off alone?", ""]
    for s in found:
        better = "lower loss" if s.metric == "loss" else "higher C-index"
        lines.append(
            f"- {s.outcome}: {s.arm} predictions had a {better} than those of the hospital's own "
            f"model in {s.num_better} of {s.num_cases} cases (hospital × run)."
        )
    return "\n".join(lines)


def _settings(findings: Findings) -> str:
    lines = shipped_text(findings.page.study).splitlines()
    start = min(n for n, line in enumerate(lines) if line.strip() in _SETTINGS)
    while start and lines[start - 1].startswith("#"):
        start -= 1
    text = "\n".join(lines[start:])
    return (
        "## Settings\n\nOne setting for all arms and folds, as in the study file; how it was "
        "chosen is what the comments there say. A setting may be chosen on training patients "
        f"alone.\n\n```toml\n{text}\n```"
    )


def _rows(
    findings: Findings,
    outcome: str,
    *,
    group: str | None = None,
    scope: str | None = None,
    is_repeat: bool | None = None,
) -> list[Measured]:
    group = rows_of_everybody(findings) if group is None else group
    return [
        m
        for m in findings.measured
        if (m.outcome, m.group) == (outcome, group)
        and scope in (None, m.scope)
        and is_repeat in (None, m.is_repeat)
    ]


def _columns(findings: Findings, outcome: str) -> Sequence[str]:
    chosen = findings.page.columns.get(outcome)
    return chosen or statistics_of(findings.study)[outcome].columns


def _shipped_rounds(findings: Findings) -> int:
    from common.study_file import load_study

    return load_study(findings.page.study).training.rounds


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _with_sd(value: float, sd: float | None) -> str:
    return f"{value:.3f}" if sd is None else f"{value:.3f} ± {sd:.3f}"


def _mean_sd(values: Sequence[float | None], *, num_runs: int | None = None) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    partly = f" ({len(known)} of {num_runs})" if num_runs and len(known) < num_runs else ""
    sd = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return _with_sd(float(np.mean(known)), sd) + partly


def _cell(value: float | None) -> str:
    return "" if value is None else repr(float(value))
