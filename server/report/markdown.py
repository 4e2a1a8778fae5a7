"""From `results.json` to a report in Markdown that a person reads in two minutes."""

from typing import Any

_MOST_ROUNDS = 20
_COLUMNS = ("accuracy", "auroc", "auprc", "f1", "calibration_error")


def report_of(results: dict[str, Any]) -> str:
    """The report of a run, whole or unfinished."""
    parts = [_heading(results), _last_round(results), _training(results), _course(results)]
    parts.append(_absences(results))
    return "\n\n".join(part for part in [*parts, _cost(results)] if part) + "\n"


def _heading(results: dict[str, Any]) -> str:
    resumed = results["resumed_at_rounds"]
    went_on = f" Resumed at round {', '.join(map(str, resumed))}." if resumed else ""
    return (
        f"# {results['study']}: run {results['run_id']}\n\n"
        f"{results['status'].capitalize()}; {results['strategy']} over {len(results['sites'])} "
        f"sites, {results['num_rounds']} rounds, seed {results['seed']}.{went_on}\n\n"
        f"Started {results['started_at']}. Study `{results['study_hash'][:16]}`, Wardround "
        f"{results['release']} (code `{results['code']}`), engine {results['engine']}."
    )


def _last_round(results: dict[str, Any]) -> str:
    rounds = results["rounds"]
    if not rounds:
        return "No site has answered a round yet."
    last = rounds[-1]
    lines = [
        f"## After round {last['round']}: held-out patients of every site",
        "",
        "| site | held out | " + " | ".join(map(_title, _COLUMNS)) + " |",
        "|---|---:|" + "---:|" * len(_COLUMNS),
    ]
    lines += [_row(site, last["sites"].get(site)) for site in sorted(results["sites"])]
    lines.append(_row("**all, pooled**", last["pooled"]))
    bound = last["pooled"]["auroc_error_bound"]
    if bound is not None:
        lines += ["", f"Pooled AUROC from score histograms, exact to ±{bound:.4f}."]
    if last["oracle"] is not None:
        exact = ", ".join(f"{_title(k)} {_number(last['oracle'].get(k))}" for k in _COLUMNS)
        lines += ["", f"Oracle (from pooled predictions, in simulation only): {exact}."]
    return "\n".join(lines)


def _training(results: dict[str, Any]) -> str:
    """Who trained on how many patients, and who lacks what."""
    sites = sorted(results["sites"].items())
    if not sites:
        return ""
    names = list(sites[0][1]["training_patients"])
    lines = ["## Training patients, by granularity", "", f"| site | {' | '.join(names)} |"]
    lines.append("|---|" + "---:|" * len(names))
    for site, enrolled in sites:
        counts = enrolled["training_patients"]
        lines.append(f"| {site} | {' | '.join(str(counts.get(name, 0)) for name in names)} |")
    return "\n".join(lines)


def _course(results: dict[str, Any]) -> str:
    rounds = results["rounds"]
    if len(rounds) < 2:
        return ""
    lines = ["## Round by round, pooled", "", "| round | sites | loss | accuracy | AUROC |"]
    lines.append("|---:|---:|---:|---:|---:|")
    # A long run is shown at about twenty of its rounds; all of them are in results.json.
    every = -(-len(rounds) // _MOST_ROUNDS)
    for entry in [*rounds[:-1:every], rounds[-1]]:
        pooled = entry["pooled"]
        num_sites = sum(metrics is not None for metrics in entry["sites"].values())
        numbers = " | ".join(_number(pooled[name]) for name in ("loss", "accuracy", "auroc"))
        lines.append(f"| {entry['round']} | {num_sites} | {numbers} |")
    return "\n".join(lines)


def _absences(results: dict[str, Any]) -> str:
    """Who was absent and why: one line for each site and reason."""
    groups: dict[tuple[str, str], list[int]] = {}
    for absence in results["absent"]:
        groups.setdefault((absence["site"], absence["reason"]), []).append(absence["round"])
    if not groups:
        return "No site was absent."
    lines = ["## Absent", "", "| site | reason | rounds |", "|---|---|---|"]
    for (site, reason), rounds in sorted(groups.items()):
        lines.append(f"| {site} | {reason} | {', '.join(map(str, sorted(set(rounds))))} |")
    return "\n".join(lines)


def _cost(results: dict[str, Any]) -> str:
    seconds, sent = results["seconds"], results["bytes"]
    return (
        "## Cost\n\n"
        f"{seconds['rounds']:.2f} s in rounds: {seconds['site_training']:.2f} s training and "
        f"{seconds['site_evaluation']:.2f} s evaluation at the sites, "
        f"{seconds['aggregation']:.2f} s aggregation, {seconds['checkpoints']:.2f} s checkpoints. "
        f"Sent {sent['down']:,} bytes to the sites and {sent['up']:,} back."
    )


def _row(site: str, metrics: dict[str, float | None] | None) -> str:
    if metrics is None or not metrics["num_patients"]:
        return f"| {site} | not sent |" + " – |" * len(_COLUMNS)
    numbers = " | ".join(_number(metrics[name]) for name in _COLUMNS)
    return f"| {site} | {metrics['num_patients']:.0f} | {numbers} |"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _title(name: str) -> str:
    titles = {"auroc": "AUROC", "auprc": "AUPRC", "f1": "F1"}
    return titles.get(name, name.replace("_", " "))
