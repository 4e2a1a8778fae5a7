"""The results of the bench as tables for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

_ROUNDS = {
    "seconds_per_round": "s a round",
    "work_seconds": "of that local work",
    "overhead_seconds": "overhead, s",
    "overhead_seconds_min": "least",
    "overhead_seconds_max": "most",
    "first_round_seconds": "first round, s",
}


def federation_tables(result: Mapping[str, Any]) -> list[Table]:
    """A table of seconds, and one of memory, for each case."""
    tables = []
    for case in result["cases"]:
        what = f"{case['sites']} sites, {case['study']}, {case['tensors']} tensors"
        times = Table(title=f"{what}: medians over rounds", title_justify="left")
        for title in ("", *_ROUNDS.values(), "CPU, s a round", "stock / this"):
            times.add_column(title, justify="right")
        for name, figures in case["arms"].items():
            ratio = figures["stock_over_this"]
            times.add_row(
                name,
                *(f"{figures[key]:.2f}" for key in _ROUNDS),
                f"{sum(case['cpu_seconds'][name].values()):.2f}",
                "–" if ratio is None else f"{ratio:.1f}",
            )
        tables += [times, _memory_table(f"{what}: memory, MB", case["memory_mb"])]
    return tables


def load_tables(result: Mapping[str, Any]) -> list[Table]:
    """What was lost, how fast it was, and peak memory."""
    what = f"{result['sites']} sites, {result['rounds']} rounds, {result['model_mb']:.1f} MB"
    facts = Table(title=what, title_justify="left")
    for title in ("replies", "expected", "s a round", "overhead, s", "all processes at once, MB"):
        facts.add_column(title, justify="right")
    facts.add_row(
        str(result["replies_received"]),
        str(result["replies_expected"]),
        f"{result['seconds_per_round']:.2f}",
        f"{result['overhead_seconds']:.2f}",
        f"{result['peak_total_mb']['pss']:.0f}",
    )
    return [facts, _memory_table("memory at its peak, MB", {"ours": result["peak_memory_mb"]})]


def _memory_table(title: str, memory: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    table = Table(title=f"{title} (largest process)", title_justify="left")
    for name in ("", "process", "resident", "its part of shared pages"):
        table.add_column(name, justify="right")
    for arm, roles in memory.items():
        for role, figures in sorted(roles.items()):
            table.add_row(arm, role, f"{figures['rss']:.0f}", f"{figures['pss']:.0f}")
    return table
