"""From `results.json` to a report in Markdown that a person reads in two minutes."""

from typing import Any

from server.report.columns import (
    columns_of,
    columns_with_values,
    noised_number_of,
    number_of,
    title_of,
    with_values,
)
from server.report.markdown_attributions import attributions_section
from server.report.privacy import is_private, privacy_section
from server.report.rounds import last_evaluated, pooled_title, unfinished_text

_MOST_ROUNDS = 20
_NOISED = (
    "Each number carries noise for privacy; ± is the standard deviation of what the noise alone "
    "does to it. How few patients there are, and the width of the bins, come on top."
)


def report_of(results: dict[str, Any]) -> str:
    """The report of a run, whole or unfinished."""
    parts = [_heading(results), unfinished_text(results), _last_round(results)]
    parts += [_training(results), _course(results)]
    parts += [attributions_section(results), privacy_section(results), _absences(results)]
    parts += _long_updates(results)
    return "\n\n".join(part for part in [*parts, _cost(results)] if part) + "\n"


def _heading(results: dict[str, Any]) -> str:
    resumed = results["resumed_at_rounds"]
    went_on = f" Resumed at round {', '.join(map(str, resumed))}." if resumed else ""
    return (
        f"# {results['study']}: run {results['run_id']}\n\n"
        f"{results['status'].capitalize()}; {results['strategy']} over {len(results['sites'])} "
        f"sites, {results['num_rounds']} rounds, seed {results['seed']}.{went_on}"
        f"{_averaged(results)}\n\n"
        f"Started {results['started_at']}. Study `{results['study_hash'][:16]}`, Wardround "
        f"{results['release']} (code `{results['code']}`), engine {results['engine']}."
        + "".join(map(_transferred, results["transferred"]))
    )


def _averaged(results: dict[str, Any]) -> str:
    if not results["averaged_rounds"]:
        return ""
    return (
        f" The last model is the mean of those after the last {results['averaged_rounds']} rounds."
    )


def _transferred(transfer: dict[str, Any]) -> str:
    left = "; ".join(f"{name} ({reason})" for name, reason in transfer["left"].items())
    return f"\n\nStarted from another model: {', '.join(transfer['taken'])}." + (
        f" Not taken: {left}." if left else ""
    )


def _last_round(results: dict[str, Any]) -> str:
    rounds = results["rounds"]
    last = last_evaluated(results) or (rounds[-1] if rounds else None)
    if last is None:
        return "No round is complete yet."
    if is_private(results) and not any(last["sites"].values()):
        return (
            "A private run is evaluated once, after its last round: every evaluation costs privacy."
            " There is no complete evaluation yet."
        )
    enrolled = sorted(results["sites"])
    parts = [
        _outcome(f"After round {last['round']}: {name}", name, results, last, enrolled)
        for name in results["outcomes"]
    ]
    if last["personal"] is not None:
        parts += [
            _outcome(f"{name}, each hospital's own model", name, results, last["personal"], [])
            for name in results["outcomes"]
        ]
    return "\n\n".join(parts)


def _outcome(
    title: str,
    name: str,
    results: dict[str, Any],
    evaluated: dict[str, Any],
    enrolled: list[str],
) -> str:
    """The table of one outcome: held-out patients of every site, and all of them pooled."""
    parts = [evaluated["pooled"][name], *((m or {}).get(name) for m in evaluated["sites"].values())]
    columns = columns_with_values(results, name, parts)
    unit = results["units"].get(name, "")
    titles = " | ".join(title_of(column, unit) for column in columns)
    lines = [f"## {title}, held-out patients", ""]
    lines.append(f"| site | held out | {titles} |")
    lines.append("|---|---:|" + "---:|" * len(columns))
    for site in sorted({*enrolled, *evaluated["sites"]}):
        lines.append(_row(site, (evaluated["sites"].get(site) or {}).get(name), columns))
    pooled = evaluated["pooled"][name]
    lines.append(_row(f"**{pooled_title(results, evaluated, name)}**", pooled, columns))
    for bounded in ("auroc", "c_index"):
        bound = pooled.get(f"{bounded}_error_bound")
        if bound is not None:
            lines += ["", f"Pooled {title_of(bounded)} from histograms, exact to ±{bound:.4f}."]
    if is_private(results):
        lines += ["", _NOISED]
    oracle = evaluated.get("oracle")
    if oracle is not None:
        exact = ", ".join(f"{title_of(k)} {number_of(k, oracle[name].get(k))}" for k in columns)
        lines += ["", f"Oracle (from pooled predictions, in simulation only): {exact}."]
    return "\n".join(lines)


def _training(results: dict[str, Any]) -> str:
    """Who trained on how many patients, and who lacks what."""
    sites = sorted(results["sites"].items())
    if not sites:
        return ""
    if is_private(results):
        return _offers(results)
    names = list(sites[0][1]["training_patients"])
    lines = ["## Training patients, by granularity", "", f"| site | {' | '.join(names)} |"]
    lines.append("|---|" + "---:|" * len(names))
    for site, enrolled in sites:
        counts = enrolled["training_patients"]
        lines.append(f"| {site} | {' | '.join(str(counts.get(name, 0)) for name in names)} |")
    return "\n".join(lines)


def _offers(results: dict[str, Any]) -> str:
    """Who has what: how many patients they have is nobody's business in a private study."""
    sites = sorted(results["sites"].items())
    offered = dict.fromkeys(name for _, site in sites for name in site["offers"])
    # Granularities first, as a study names them.
    names = sorted(offered, key=lambda name: name in results["outcomes"])
    lines = ["## What each hospital has", "", f"| site | {' | '.join(names)} |"]
    lines.append("|---|" + ":---:|" * len(names))
    for site, enrolled in sites:
        cells = " | ".join("yes" if name in enrolled["offers"] else "–" for name in names)
        lines.append(f"| {site} | {cells} |")
    return "\n".join(lines)


def _course(results: dict[str, Any]) -> str:
    """The first outcome round by round; of a private run as the oracle saw it, if there was one."""
    name, kind = next(iter(results["outcomes"].items()))
    rounds, source = results["rounds"], "pooled"
    if is_private(results):
        rounds = [entry | {"pooled": entry["oracle"]} for entry in rounds if entry["oracle"]]
        source = "oracle (from pooled predictions, in simulation only)"
    if len(rounds) < 2:
        return ""
    # Loss, which training lowers, comes first; a kind of outcome may list it among its columns.
    columns = tuple(dict.fromkeys(("loss", *columns_of(kind)[:3])))
    columns = with_values(columns, [entry["pooled"][name] for entry in rounds])
    unit = results["units"].get(name, "")
    titles = " | ".join(title_of(column, unit) for column in columns)
    lines = [f"## Round by round: {name}, {source}", "", f"| round | sites | {titles} |"]
    lines.append("|---:|---:|" + "---:|" * len(columns))
    # A long run is shown at about twenty of its rounds; all of them are in results.json.
    every = -(-len(rounds) // _MOST_ROUNDS)
    for entry in [*rounds[:-1:every], rounds[-1]]:
        pooled = entry["pooled"][name]
        has_sent = [is_private(results) or m is not None for m in entry["sites"].values()]
        num_sites = sum(has_sent)
        numbers = " | ".join(number_of(c, pooled[c]) for c in columns)
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


def _long_updates(results: dict[str, Any]) -> list[str]:
    """Whose updates were much longer than those of the others: worth a look, and no proof."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for found in results.get("long_updates", []):
        groups.setdefault(found["site"], []).append(found)
    if not groups:
        return []
    lines = [
        "## Suspiciously long updates",
        "",
        "Over 3 times as long as the median update of the round. Other patients can be a reason; a "
        "faulty or hostile site is another. They were used as `strategy.combine` says.",
        "",
        "| site | times the median, at most | rounds |",
        "|---|---:|---|",
    ]
    for site, found in sorted(groups.items()):
        rounds = ", ".join(str(f["round"]) for f in found)
        most = max(f["times_median"] for f in found)
        lines.append(f"| {site} | {most:g} | {rounds} |")
    return ["\n".join(lines)]


def _cost(results: dict[str, Any]) -> str:
    seconds, sent = results["seconds"], results["bytes"]
    at_sites = "not told how long at the sites, "
    if not is_private(results):
        at_sites = (
            f"{seconds['site_training']:.2f} s training and "
            f"{seconds['site_evaluation']:.2f} s evaluation at the sites, "
        )
    return (
        "## Cost\n\n"
        f"{seconds['rounds']:.2f} s in rounds: {at_sites}"
        f"{seconds['aggregation']:.2f} s aggregation, {seconds['checkpoints']:.2f} s checkpoints. "
        f"Sent {sent['down']:,} bytes to the sites and {sent['up']:,} back."
    )


def _row(site: str, metrics: dict[str, float | None] | None, columns: tuple[str, ...]) -> str:
    if metrics is None or not metrics["num_patients"]:
        is_noised = metrics is not None and "num_patients_noise_sd" in metrics
        reason = "lost in the noise" if is_noised else "not sent"
        return f"| {site} | {reason} |" + " – |" * len(columns)
    cells = " | ".join(noised_number_of(name, metrics) for name in ("num_patients", *columns))
    return f"| {site} | {cells} |"
