"""The models that the benchmark of private steps takes them with, and random patients of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from common.granularities import (
    AnyGranularity,
    ImagesGranularity,
    SeriesGranularity,
    TokenGranularity,
)
from common.study import Study
from simulations.bench.private_modes import Batch

_NUMBER = {"kind": "numeric", "unit": "u", "range": [-3, 3]}
_SIGNAL = {"unit": "u", "range": [-3, 3]}
# The sizes of section 3b of our measurements of libraries: 64 values, an image of 32 × 32 pixels,
# 8 signals over 48 steps, 64 words of 2,000, 512 markers; width 64.
_GRANULARITIES: Mapping[str, Mapping[str, Any]] = {
    "tabular": {
        "kind": "tabular",
        "features": {f"t{i}": _NUMBER for i in range(64)},
        "hidden": [64],
    },
    "image": {"kind": "images", "size": [32, 32], "channels": [16, 32, 64]},
    "series": {
        "kind": "series",
        "signals": {f"s{i}": _SIGNAL for i in range(8)},
        "end_minutes": 48.0,
        "step_minutes": 1.0,
        "hidden": 64,
    },
    "text": {
        "kind": "notes",
        "num_buckets": 1998,
        "max_tokens": 64,
        "encoder": "transformer",
        "hidden": 64,
    },
    "markers": {"kind": "markers", "markers": [f"m{i}" for i in range(512)], "hidden": [64]},
    "lifestyle": {
        "kind": "tabular",
        "features": {f"l{i}": _NUMBER for i in range(16)},
        "hidden": [64],
    },
}
MODELS: Mapping[str, Sequence[str]] = {
    "tabular": ["tabular"],
    "image": ["image"],
    "series": ["series"],
    "text": ["text"],
    "fusion": list(_GRANULARITIES),
}


def study_of(name: str) -> Study:
    """The study of one of `MODELS`."""
    return Study.model_validate(
        {
            "study": {"name": name, "title": name},
            "outcomes": {"event": {"column": "event", "kind": "binary", "classes": ["no", "yes"]}},
            "granularities": {part: _GRANULARITIES[part] for part in MODELS[name]},
            "model": {"width": 64, "fusion": "gated_sum"},
            "training": {"rounds": 1, "local_steps": 1},
        }
    )


def batch_of(study: Study, num_patients: int, device: str = "cpu", seed: int = 0) -> Batch:
    """Random patients of whom everything was observed, and a random binary outcome."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        name: {key: value.to(device) for key, value in part.items()}
        for name, granularity in study.granularities.items()
        for part in [_part(granularity, num_patients, generator)]
    }
    known_B = torch.ones(num_patients, dtype=torch.bool)
    labels = {"known_B": known_B, "label_B": torch.arange(num_patients) % 2}
    return inputs, {"event": {key: value.to(device) for key, value in labels.items()}}


def _part(
    granularity: AnyGranularity, num_patients: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """The arrays of a granularity, by name."""
    everyone = torch.ones(num_patients, dtype=torch.bool)
    if isinstance(granularity, TokenGranularity):
        shape = (num_patients, granularity.max_tokens)
        codes = torch.randint(1, granularity.num_codes, shape, generator=generator)
        return {"present_B": everyone, "tokens_BT": codes}
    if isinstance(granularity, ImagesGranularity):
        images = (num_patients, granularity.max_images, *granularity.size)
        grey = torch.randint(256, images, generator=generator).to(torch.uint8)
        seen_BN = everyone.unsqueeze(1).expand(images[:2])
        return {"present_B": everyone, "images_BNHW": grey, "observed_BN": seen_BN}
    grid = [granularity.num_steps] if isinstance(granularity, SeriesGranularity) else []
    numeric = torch.randn(num_patients, *grid, len(granularity.numeric), generator=generator)
    axes = "BTF" if grid else "BF"
    return {
        "present_B": everyone,
        f"numeric_{axes}": numeric,
        f"observed_{axes}": torch.ones_like(numeric, dtype=torch.bool),
    }
