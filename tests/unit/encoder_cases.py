"""Every kind of granularity with every encoder option, and random patients of each."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import torch
from pydantic import TypeAdapter
from torch import Tensor

from common.granularities import (
    AnyGranularity,
    ImagesGranularity,
    MarkersGranularity,
    NotesGranularity,
    SeriesGranularity,
    TabularGranularity,
    TokenGranularity,
)
from common.pretrained import Pretrained

Part = dict[str, Tensor]

_SIGNAL = {"unit": "u", "range": [0, 10]}
_TABLES: dict[str, dict[str, Any]] = {
    "tabular": {
        "features": {
            "age": {"kind": "numeric", **_SIGNAL},
            "weight": {"kind": "numeric", **_SIGNAL},
            "sex": {"kind": "categorical", "categories": ["female", "male"]},
            "smoker": {"kind": "categorical", "categories": ["never", "former", "now"]},
        },
        "hidden": [6],
    },
    "series": {
        "signals": {"pulse": _SIGNAL, "pressure": _SIGNAL},
        "end_minutes": 7.0,
        "step_minutes": 1.0,
        "hidden": 4,
        "basis": "hinges",
    },
    "images": {"size": [9, 8], "max_images": 2, "channels": [4, 6]},
    "markers": {"markers": [f"m{i}" for i in range(11)], "hidden": [4]},
    "notes": {
        "num_buckets": 20,
        "max_tokens": 8,
        "hidden": 4,
        "pretrained": {"digest": "0" * 64, "width": 6},
    },
    "sequences": {"k": 2, "max_tokens": 8, "hidden": 4, "num_layers": 2},
}

# What a mask says to be measured or not.
_MEASURED = {
    "observed_BF": "numeric_BF",
    "observed_BTF": "numeric_BTF",
    "observed_BN": "images_BNHW",
}


def granularity_of(kind: str, **fields: Any) -> AnyGranularity:
    """A small granularity of a kind, with fields added or replaced."""
    adapter: TypeAdapter[AnyGranularity] = TypeAdapter(AnyGranularity)
    return adapter.validate_python({"kind": kind, **_TABLES[kind], **fields})


def _every_case() -> Iterator[tuple[str, AnyGranularity]]:
    union, *_ = get_args(AnyGranularity)
    for section in get_args(union):
        (kind,) = get_args(section.model_fields["kind"].annotation)
        field = section.model_fields.get("encoder")
        for option in get_args(field.annotation) if field else ():
            yield f"{kind}-{option}", granularity_of(kind, encoder=option)
        if field is None:
            yield kind, granularity_of(kind)


CASES: Mapping[str, AnyGranularity] = dict(_every_case())


def patients_of(granularity: AnyGranularity, num_patients: int, seed: int = 0) -> Part:
    """Random patients, about a third of everything missing, and zero where it is."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand((num_patients, *shape), generator=generator)

    present_B = uniform() < 0.7
    part = {"present_B": present_B}
    match granularity:
        case TabularGranularity():
            sizes = torch.tensor([1 + len(f.categories) for f in granularity.categorical.values()])
            part["numeric_BF"] = 10 * uniform(len(granularity.numeric))
            part["observed_BF"] = uniform(len(granularity.numeric)) < 0.7
            part["codes_BK"] = (uniform(len(sizes)) * sizes).long()
        case SeriesGranularity():
            shape = (granularity.num_steps, len(granularity.signals))
            part["numeric_BTF"] = 10 * uniform(*shape)
            part["observed_BTF"] = uniform(*shape) < 0.4
        case ImagesGranularity():
            shape = (granularity.max_images, *granularity.size)
            part["images_BNHW"] = (256 * uniform(*shape)).to(torch.uint8)
            part["observed_BN"] = uniform(granularity.max_images) < 0.7
        case MarkersGranularity():
            part["numeric_BF"] = 2 * uniform(len(granularity.markers))
            part["observed_BF"] = uniform(len(granularity.markers)) < 0.7
        case NotesGranularity(encoder="pretrained", pretrained=Pretrained(width=width)):
            part["embedding_BE"] = uniform(width)
        case TokenGranularity():
            codes = 1 + (uniform(granularity.max_tokens) * (granularity.num_codes - 1)).long()
            length_B1 = (uniform(1) * (granularity.max_tokens + 1)).long()
            is_real = torch.arange(granularity.max_tokens) < length_B1
            part["tokens_BT"] = torch.where(is_real, codes, 0)
    return {name: _zero_where_not(value, present_B) for name, value in part.items()}


def with_garbage(part: Part, number: float, code: int, *, missing: bool = False) -> Part:
    """The patients with `number` and `code` in all arrays of the absent, who seem observed.

    Args:
        missing: spoil what was not observed of patients who are present, too.
    """
    spoilt = {name: value.clone() for name, value in part.items()}
    absent_B = ~part["present_B"]
    for name, value in spoilt.items():
        if name.startswith("observed"):
            if missing:
                values = spoilt[_MEASURED[name]]
                values[~value] = number if values.is_floating_point() else 77
            value[absent_B] = True
        elif name != "present_B":
            fits = value.is_floating_point()
            value[absent_B] = number if fits else 255 if value.dtype == torch.uint8 else code
    return spoilt


def select(part: Part, places: Tensor | slice) -> Part:
    """Some of the patients, or all in another order."""
    return {name: value[places] for name, value in part.items()}


def _zero_where_not(value: Tensor, present_B: Tensor) -> Tensor:
    kept_B = present_B.view(-1, *[1] * (value.dim() - 1))
    return torch.where(kept_B, value, torch.zeros_like(value))
