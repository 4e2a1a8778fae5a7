"""Values as JSON can say them: it has no word for NaN and for infinity."""

import math
from typing import Any


def finite(value: Any) -> Any:
    """The same with None for every number that is not finite, at any depth.

    >>> finite({"epsilon": math.inf, "losses": (0.5, math.nan)})
    {'epsilon': None, 'losses': [0.5, None]}
    """
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
