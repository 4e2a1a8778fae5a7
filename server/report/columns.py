"""The columns of tables of metrics: which there are, their titles, and how numbers are written.

Every report takes them from here, so that a metric looks the same in Markdown, HTML and terminals.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.metrics.classification import ClassStatistics
from common.metrics.regression import RegressionStatistics
from common.metrics.survival import SurvivalStatistics
from server.report.privacy import is_private


def columns_of(kind: str) -> tuple[str, ...]:
    """The metrics that tables show for an outcome of this kind, the most telling one first."""
    if kind == "regression":
        return RegressionStatistics.columns
    return SurvivalStatistics.columns if kind == "survival" else ClassStatistics.columns


def columns_with_values(
    results: dict[str, Any], name: str, parts: Sequence[Mapping[str, float | None] | None]
) -> tuple[str, ...]:
    """The columns of an outcome's table: of a private run, those that anybody has at all."""
    columns = with_values(columns_of(results["outcomes"][name]), parts)
    if not is_private(results):
        return columns
    return tuple(c for c in columns if any(m and m.get(c) is not None for m in parts))


def with_values(
    columns: Sequence[str], parts: Iterable[Mapping[str, float | None] | None]
) -> tuple[str, ...]:
    """The columns without a loss that these metrics never have: Cox predicts an order alone.

    >>> with_values(("c_index", "loss"), [{"num_patients": 9.0, "loss": None}, None])
    ('c_index',)
    """
    sent = [metrics for metrics in parts if metrics and metrics.get("num_patients", 1)]
    has_loss = not sent or any(metrics.get("loss") is not None for metrics in sent)
    return tuple(column for column in columns if column != "loss" or has_loss)


def title_of(metric: str, unit: str = "") -> str:
    """A metric as tables call it, with the outcome's unit where the metric has that.

    >>> title_of("mae", "days"), title_of("r2", "days")
    ('MAE (days)', 'R²')
    """
    title = _TITLES.get(metric, metric.replace("_", " "))
    return f"{title} ({unit})" if unit and metric in ("mae", "rmse") else title


_TITLES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "f1": "F1",
    "c_index": "C-index",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "num_events": "events",
}


def number_of(metric: str, value: float | None) -> str:
    """A metric's value as tables show it.

    >>> number_of("auroc", 0.91234), number_of("num_events", 32.0), number_of("rmse", 12345.6)
    ('0.912', '32', '12,346')
    """
    if value is None:
        return "–"
    is_count = metric.startswith("num_")
    return f"{value:,.0f}" if is_count or abs(value) >= 1000 else f"{value:.3f}"


def noised_number_of(metric: str, metrics: Mapping[str, float | None]) -> str:
    """A metric as tables show it, and how far noise moves it where it carries some.

    >>> noised_number_of("auroc", {"auroc": 0.81234, "auroc_noise_sd": 0.0312})
    '0.812 ± 0.031'
    """
    value, sd = metrics.get(metric), metrics.get(f"{metric}_noise_sd")
    number = number_of(metric, value)
    return number if value is None or sd is None else f"{number} ± {number_of(metric, sd)}"
