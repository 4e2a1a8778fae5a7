"""The types of single fields that several sections of a study share."""

from itertools import pairwise
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Count = Annotated[int, Field(strict=True, ge=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _check_word(value: str) -> str:
    if not value.isalnum() or value != value.casefold():
        raise ValueError("expected a word of small letters and digits")
    return value


Word = Annotated[str, AfterValidator(_check_word)]


def check_range(value: tuple[float, float]) -> tuple[float, float]:
    """The range as it is. Raises ValueError unless low < high, in 32 bits too."""
    low, high = value
    if low >= high:
        raise ValueError("expected range = [low, high] with low < high")
    if max(abs(low), abs(high)) > LARGEST or high - low < 2 * SMALLEST or not _differ(low, high):
        raise ValueError(
            f"expected a range within ±{LARGEST:g} whose ends differ in 32 bits, found [{low:g}, "
            f"{high:g}]; choose another unit"
        )
    return value


def check_log_range(value: tuple[float, float]) -> None:
    """Nothing. Raises ValueError unless log(1 + value) of a range is one in 32 bits."""
    low, high = value
    if low < 0:
        raise ValueError(f"expected a range from 0 or more for scale = 'log', found {low:g}")
    if not _differ(float(np.log1p(np.float32(low))), float(np.log1p(np.float32(high)))):
        raise ValueError(
            "expected a range whose ends differ in 32 bits on scale = 'log', found "
            f"[{low:g}, {high:g}]; choose 'linear'"
        )


def check_cut_points(value: tuple[float, ...]) -> tuple[float, ...]:
    """The cut points as they are. Raises ValueError unless they ascend, in 32 bits too."""
    if any(later <= earlier for earlier, later in pairwise((0.0, *value))):
        raise ValueError("expected cut_points that ascend")
    is_held = all(_differ(*pair) for pair in pairwise((0.0, *value)))
    if value[0] < SMALLEST or value[-1] > LARGEST or not is_held:
        raise ValueError(
            f"expected cut_points up to {LARGEST:g} that differ in 32 bits, found some that do not"
        )
    return value


def _differ(low: float, high: float) -> bool:
    return bool(np.float32(low) < np.float32(high))


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


# Models and patients are arrays of 32-bit numbers: between these, scaling neither overflows nor
# loses a quantity altogether.
LARGEST = 1e12
SMALLEST = 1e-30

# Names that torch's containers of modules use themselves, so that no part of a model can have them.
# A test compares them with torch, which this module must not import. transformers gives modules one
# more, once it is loaded: smart_apply.
_TORCH_NAMES = """
    add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda double
    dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter
    get_submodule half ipu items keys load_state_dict modules mtia named_buffers named_children
    named_modules named_parameters parameters pop register_backward_hook register_buffer
    register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter
    register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state
    set_submodule share_memory smart_apply state_dict to to_empty train training type update
    values xpu zero_grad
"""
TORCH_NAMES = frozenset(_TORCH_NAMES.split())

# What a cell of a table holds where nothing was recorded.
MISSING_CELLS = frozenset({"", "NA", "N/A", "NaN", "nan", "NULL", "null"})
