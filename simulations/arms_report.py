"""The arms as files: one tidy CSV, and tables of mean ± sd over seeds in Markdown."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.files import write_atomically
from simulations.arms import ARMS, MEAN, POOLED, ArmResult

_METRICS = ("accuracy", "auroc", "auprc", "f1", "calibration_error")
_TITLES = {"accuracy": "accuracy", "auroc": "AUROC", "auprc": "AUPRC", "f1": "F1"}


def write_arms(results: Sequence[ArmResult], out: Path, *, title: str) -> Path:
    """Writes `arms.csv` and `arms.md`; returns the path of the latter."""
    write_atomically(out / "arms.csv", to_csv(results).encode(), durable=False)
    write_atomically(out / "arms.md", to_markdown(results, title=title).encode(), durable=False)
    return out / "arms.md"


def to_csv(results: Sequence[ArmResult]) -> str:
    """One line per arm, variant, seed, scope and metric; an undefined metric is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", "variant", "seed", "scope", "metric", "value"])
    for r in results:
        for metric, value in r.metrics.items():
            cell = "" if value is None else repr(float(value))
            writer.writerow([r.arm, r.variant, r.seed, r.scope, metric, cell])
    return text.getvalue()


def to_markdown(results: Sequence[ArmResult], *, title: str) -> str:
    """Tables of mean ± sd over seeds: all patients, mean of sites, then each hospital."""
    seeds = sorted({r.seed for r in results})
    variants = list(dict.fromkeys(r.variant for r in results))
    scopes = list(dict.fromkeys(r.scope for r in results))
    sites = [s for s in scopes if s not in (POOLED, MEAN)]
    parts = [
        f"# {title}: what joining brings",
        f"Held-out patients; mean ± sd over {len(seeds)} seeds "
        f"({', '.join(map(str, seeds))}). Exact metrics from pooled predictions.",
    ]
    for scope in (POOLED, MEAN):
        parts.append(_scope_table(results, scope, variants))
    for metric in ("accuracy", "auroc"):
        parts.append(_site_table(results, metric, sites, variants))
    parts.append(_shares(results, sites, variants))
    return "\n\n".join(parts) + "\n"


def _scope_table(results: Sequence[ArmResult], scope: str, variants: Sequence[str]) -> str:
    titles = [_TITLES.get(m, m.replace("_", " ")) for m in _METRICS]
    lines = [f"## {scope[0].upper()}{scope[1:]}", "", f"| arm | {' | '.join(titles)} |"]
    lines.append("|---|" + "---:|" * len(_METRICS))
    for variant in variants:
        for arm in ARMS:
            rows = [r for r in results if (r.arm, r.variant, r.scope) == (arm, variant, scope)]
            cells = " | ".join(_mean_sd([r.metrics[m] for r in rows]) for m in _METRICS)
            lines.append(f"| {_label(arm, variant, variants)} | {cells} |")
    return "\n".join(lines)


def _site_table(
    results: Sequence[ArmResult], metric: str, sites: Sequence[str], variants: Sequence[str]
) -> str:
    lines = [f"## {_TITLES[metric].capitalize() if metric == 'accuracy' else 'AUROC'} by hospital"]
    lines += ["", f"| arm | {' | '.join(sites)} |", "|---|" + "---:|" * len(sites)]
    for variant in variants:
        for arm in ARMS:
            cells = [
                _mean_sd(
                    [
                        r.metrics[metric]
                        for r in results
                        if (r.arm, r.variant, r.scope) == (arm, variant, site)
                    ]
                )
                for site in sites
            ]
            lines.append(f"| {_label(arm, variant, variants)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shares(results: Sequence[ArmResult], sites: Sequence[str], variants: Sequence[str]) -> str:
    """How often federated training served a hospital better than training alone, plainly said."""
    sentences = []
    for variant in variants:
        value = {
            (r.arm, r.seed, r.scope): r.metrics["loss"] for r in results if r.variant == variant
        }
        pairs = [
            (ours, value["local only", seed, site])
            for (arm, seed, site), ours in value.items()
            if arm == "federated" and site in sites
        ]
        known = [(ours, alone) for ours, alone in pairs if ours is not None and alone is not None]
        num_better = sum(ours < alone for ours, alone in known)
        sentences.append(
            f"{variant.capitalize()}: federated predictions had a lower loss than those of the "
            f"hospital's own model in {num_better} of {len(known)} cases (hospital × seed)."
        )
    return "## Is any hospital better off alone?\n\n" + "\n".join(sentences)


def _label(arm: str, variant: str, variants: Sequence[str]) -> str:
    return arm if len(variants) == 1 else f"{arm}, {variant}"


def _mean_sd(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    sd = float(np.std(known, ddof=1)) if len(known) > 1 else 0.0
    partly = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    return f"{np.mean(known):.3f} ± {sd:.3f}{partly}"
