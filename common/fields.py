"""The types of single fields that several sections of a study share."""

from typing import Annotated

from pydantic import Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Count = Annotated[int, Field(strict=True, ge=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def check_ascending(value: tuple[float, float]) -> tuple[float, float]:
    """The range as it is. Raises ValueError unless low < high."""
    if value[0] >= value[1]:
        raise ValueError("expected range = [low, high] with low < high")
    return value


def check_categories(value: tuple[str, ...]) -> tuple[str, ...]:
    """The categories unchanged. Raises ValueError unless they differ, and none reads as missing."""
    if len(set(value)) != len(value) or "" in value:
        raise ValueError("expected categories that are non-empty and differ from one another")
    missing = sorted(set(value) & MISSING_CELLS)
    if missing:
        raise ValueError(
            f"expected categories that tables do not read as missing, found {', '.join(missing)}"
        )
    return value


# What a cell of a table holds where nothing was recorded.
MISSING_CELLS = frozenset({"", "NA", "N/A", "NaN", "nan", "NULL", "null"})
