"""Numbers with their intervals as cells of a table."""

from collections.abc import Callable

from common.metrics.resampling import Estimate


def estimate_text(estimate: Estimate) -> str:
    """A number and its 95 % interval, with as many digits as its size asks for.

    >>> estimate_text(Estimate(value=0.8412, low=0.77, high=0.9)), estimate_text(Estimate())
    ('0.841 (0.770 to 0.900)', '–')
    >>> estimate_text(Estimate(value=2476.87, low=2046.8, high=2948.2))
    '2,477 (2,047 to 2,948)'
    """
    size = max((abs(v) for v in (estimate.value, estimate.low, estimate.high) if v), default=0.0)
    digits = 3 if size < 10 else 1 if size < 1000 else 0
    return _text(estimate, lambda value: f"{value:,.{digits}f}")


def percent_text(estimate: Estimate) -> str:
    """A part of a whole and its 95 % interval, in percent without the sign.

    >>> percent_text(Estimate(value=0.8412, low=0.77, high=0.9))
    '84 (77 to 90)'
    """
    return _text(estimate, lambda value: f"{100 * value:.0f}")


def gap_text(part: float) -> str:
    """How much is missing of a whole, in percent.

    >>> gap_text(0.0072), gap_text(6.8e-7)
    ('0.72 %', 'less than 0.01 %')
    """
    return "less than 0.01 %" if part < 1e-4 else f"{100 * part:.2g} %"


def _text(estimate: Estimate, written: Callable[[float], str]) -> str:
    if estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return written(estimate.value)
    return f"{written(estimate.value)} ({written(estimate.low)} to {written(estimate.high)})"
