"""Benchmark results as tables for the terminal."""

from typing import Any

from rich.table import Table

_PER_ROUND = {
    "sites": "sites",
    "local_steps": "local steps",
    "durable": "durable",
    "site_seconds": "s of work a site",
    "plain_seconds_per_round": "plain loop, s a round",
    "ours_seconds_per_round": "ours, s a round",
    "ours_over_plain_per_round": "ours / plain",
    "ours_over_plain_processor_per_round": "processor time",
    "overhead_ms_per_message": "ms a message",
}
_END_TO_END = {
    "sites": "sites",
    "rounds": "rounds",
    "ours_seconds_end_to_end": "ours, s",
    "flower_seconds_end_to_end": "Flower, s",
    "flower_over_ours_end_to_end": "Flower / ours",
    "ours_seconds_per_round": "ours, s a round",
    "flower_seconds_per_round": "Flower, s a round",
}


def engine_table(result: dict[str, Any]) -> list[Table]:
    """One table a kind of case, in the order measured."""
    kinds = {"per_round": _PER_ROUND, "end_to_end": _END_TO_END}
    tables = []
    for kind, columns in kinds.items():
        rows = [case for case in result["cases"] if case["kind"] == kind]
        if not rows:
            continue
        table = Table(title=kind.replace("_", " "), title_justify="left")
        for title in columns.values():
            table.add_column(title, justify="right")
        for case in rows:
            table.add_row(*(_cell(case[key]) for key in columns))
        tables.append(table)
    return tables


def private_step_table(result: dict[str, Any]) -> list[Table]:
    """Time over a plain step by mode, a row for each model and batch size; and memory."""
    cases = result["cases"]
    modes = list(dict.fromkeys(case["mode"] for case in cases))
    times = Table(title="private step / plain step", title_justify="left")
    for title in ("model", "parameters", "batch", "plain, ms", *modes):
        times.add_column(title, justify="right")
    for model, batch in dict.fromkeys((case["model"], case["batch"]) for case in cases):
        rows = {c["mode"]: c for c in cases if (c["model"], c["batch"]) == (model, batch)}
        first = next(iter(rows.values()))
        ratios = [rows[mode]["over_plain"] if mode in rows else None for mode in modes]
        facts = (model, str(first["num_parameters"]), str(batch), f"{first['plain_ms']:.1f}")
        times.add_row(*facts, *("–" if ratio is None else f"{ratio:.2f}" for ratio in ratios))
    memory = result["memory"]
    size = Table(title=f"memory, {memory['batch']} patients", title_justify="left")
    for title in ("of", "plain, MB", "ours, MB", "ours / plain"):
        size.add_column(title, justify="right")
    for kind, infix in (("the process", ""), ("the steps", "_step")):
        plain, ours = (memory[f"{mode}{infix}_bytes"] for mode in ("plain", "ours"))
        size.add_row(kind, f"{plain / 1e6:.0f}", f"{ours / 1e6:.0f}", f"{ours / plain:.2f}")
    why = Table(title="– because", title_justify="left")
    for title in ("mode", "model", "reason"):
        why.add_column(title)
    reasons = dict.fromkeys((c["mode"], c["model"], c["why_not"]) for c in cases if c["why_not"])
    for reason in reasons:
        why.add_row(*reason)
    return [times, size, *([why] if reasons else [])]


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
