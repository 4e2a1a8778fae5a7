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


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
