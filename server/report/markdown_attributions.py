"""What predictions rest on, as a part of the report in Markdown."""

from typing import Any

from common.page.words import size_text
from server.report.attributions import by_size, direction_text, name_of

_MOST_FEATURES = 10


def attributions_section(results: dict[str, Any]) -> str:
    """A table for each outcome; empty where nothing is told."""
    found = results.get("attributions") or {"outcomes": {}}
    parts = [_outcome(name, told) for name, told in found["outcomes"].items()]
    return "\n\n".join(part for part in parts if part)


def _outcome(outcome: str, told: dict[str, Any]) -> str:
    entries = by_size(told["granularities"]) + by_size(told["features"])[:_MOST_FEATURES]
    if not entries:
        return ""
    lines = [
        f"## What predictions of {outcome} rest on",
        "",
        f"Mean size of what each adds to the {told['score']}, compared with an average patient of "
        "whom the same was measured; of held-out patients who have it. A granularity is the sum of "
        "its features.",
        "",
        "| granularity | feature | hospitals | mean size | the score |",
        "|---|---|---:|---:|---|",
    ]
    for entry in entries:
        feature = name_of(entry) if entry["feature"] else "(all)"
        pooled = entry["pooled"]
        lines.append(
            f"| {entry['granularity']} | {feature} | {len(entry['sites'])} | "
            f"{size_text(pooled['mean_absolute'])} | {direction_text(pooled['direction'])} |"
        )
    return "\n".join(lines)
