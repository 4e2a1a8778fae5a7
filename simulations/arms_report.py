"""The arms as files: one tidy CSV, and tables of mean ± sd over seeds in Markdown."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.files import write_atomically
from common.metrics.evaluation import statistics_of
from common.study import Study
from server.report.columns import title_of, with_values
from simulations.arms import ARMS, MEAN, POOLED, ArmResult


def write_arms(results: Sequence[ArmResult], out: Path, *, study: Study) -> Path:
    """Writes `arms.csv` and `arms.md`; returns the path of the latter."""
    write_atomically(out / "arms.csv", to_csv(results).encode(), durable=False)
    write_atomically(out / "arms.md", to_markdown(results, study=study).encode(), durable=False)
    return out / "arms.md"


def to_csv(results: Sequence[ArmResult]) -> str:
    """A line per arm, variant, seed, outcome, scope and metric; an undefined metric is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", "variant", "seed", "outcome", "scope", "metric", "value"])
    for r in results:
        for metric, value in r.metrics.items():
            cell = "" if value is None else repr(float(value))
            writer.writerow([r.arm, r.variant, r.seed, r.outcome, r.scope, metric, cell])
    return text.getvalue()


def to_markdown(results: Sequence[ArmResult], *, study: Study) -> str:
    """Tables of mean ± sd over seeds, by outcome: all patients, mean of sites, each hospital."""
    seeds = sorted({r.seed for r in results})
    parts = [
        f"# {study.study.title or study.name}: what joining brings",
        f"Held-out patients; mean ± sd over {len(seeds)} seeds "
        f"({', '.join(map(str, seeds))}). Exact metrics from pooled predictions.",
    ]
    for outcome, statistics in statistics_of(study).items():
        mine = [r for r in results if r.outcome == outcome]
        heading = f"{outcome}: " if len(study.outcomes) > 1 else ""
        columns = with_values(statistics.columns, (r.metrics for r in mine))
        unit = getattr(study.outcomes[outcome], "unit", "")
        parts += _outcome_parts(mine, columns, heading, unit)
    return "\n\n".join(parts) + "\n"


def _outcome_parts(
    results: Sequence[ArmResult], columns: Sequence[str], heading: str, unit: str
) -> list[str]:
    variants = list(dict.fromkeys(r.variant for r in results))
    scopes = list(dict.fromkeys(r.scope for r in results))
    sites = [s for s in scopes if s not in (POOLED, MEAN)]
    titles = {column: title_of(column, unit) for column in columns}
    parts = [_scope_table(results, scope, variants, titles, heading) for scope in (POOLED, MEAN)]
    if len(sites) <= _MOST_SITES:
        # Counts are the same whatever the arm.
        telling = [column for column in columns if not column.startswith("num_")][:2]
        parts += [
            _site_table(results, m, sites, variants, f"{heading}{titles[m]}") for m in telling
        ]
    return [*parts, _shares(results, sites, variants, heading)]


def _arms_of(results: Sequence[ArmResult]) -> list[str]:
    there = {r.arm for r in results}
    return [arm for arm in ARMS if arm in there]


def _scope_table(
    results: Sequence[ArmResult],
    scope: str,
    variants: Sequence[str],
    titles: Mapping[str, str],
    heading: str,
) -> str:
    title = f"{heading}{scope}"
    lines = [f"## {title[0].upper()}{title[1:]}", "", f"| arm | {' | '.join(titles.values())} |"]
    lines.append("|---|" + "---:|" * len(titles))
    for variant in variants:
        for arm in _arms_of([r for r in results if r.variant == variant]):
            rows = [r for r in results if (r.arm, r.variant, r.scope) == (arm, variant, scope)]
            cells = " | ".join(mean_sd([r.metrics[m] for r in rows]) for m in titles)
            lines.append(f"| {_label(arm, variant, variants)} | {cells} |")
    return "\n".join(lines)


def _site_table(
    results: Sequence[ArmResult],
    metric: str,
    sites: Sequence[str],
    variants: Sequence[str],
    title: str,
) -> str:
    lines = [f"## {title[0].upper()}{title[1:]} by hospital"]
    lines += ["", f"| arm | {' | '.join(sites)} |", "|---|" + "---:|" * len(sites)]
    value = {(r.arm, r.variant, r.scope, r.seed): r.metrics[metric] for r in results}
    seeds = sorted({r.seed for r in results})
    for variant in variants:
        for arm in _arms_of([r for r in results if r.variant == variant]):
            cells = [
                mean_sd(
                    [
                        value[arm, variant, site, seed]
                        for seed in seeds
                        if (arm, variant, site, seed) in value
                    ]
                )
                for site in sites
            ]
            lines.append(f"| {_label(arm, variant, variants)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shares(
    results: Sequence[ArmResult], sites: Sequence[str], variants: Sequence[str], heading: str
) -> str:
    """How often federated training served a hospital better than training alone, plainly said."""
    # Loss where it is a likelihood or an error; where only an order is predicted, the C-index.
    is_order = all(r.metrics.get("loss") is None for r in results)
    metric, better = ("c_index", "higher C-index") if is_order else ("loss", "lower loss")
    sign = -1 if is_order else 1
    sentences = []
    for variant in variants:
        value = {
            (r.arm, r.seed, r.scope): r.metrics.get(metric) for r in results if r.variant == variant
        }
        for arm in ("federated", "federated, personal"):
            pairs = [
                (ours, value["local only", seed, site])
                for (its, seed, site), ours in value.items()
                if its == arm and site in sites
            ]
            known = [(o, alone) for o, alone in pairs if o is not None and alone is not None]
            if not known:
                continue
            num_better = sum(sign * ours < sign * alone for ours, alone in known)
            sentences.append(
                f"{variant.capitalize()}: {arm} predictions had a {better} than those of the "
                f"hospital's own model in {num_better} of {len(known)} cases (hospital × seed)."
            )
    return f"## {heading}Is any hospital better off alone?\n\n" + "\n".join(sentences)


# A table with a column for each of more hospitals than this cannot be read.
_MOST_SITES = 12


def _label(arm: str, variant: str, variants: Sequence[str]) -> str:
    return arm if len(variants) == 1 else f"{arm}, {variant}"


def mean_sd(values: Sequence[float | None]) -> str:
    """Mean ± standard deviation of what is known, and of how many where some are not.

    One value has no spread to tell.

    >>> mean_sd([0.8, 0.9]), mean_sd([0.8, None]), mean_sd([None])
    ('0.850 ± 0.071', '0.800 (1 of 2)', '–')
    """
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    spread = f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else ""
    partly = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    return f"{np.mean(known):.3f}{spread}{partly}"
