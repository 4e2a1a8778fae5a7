"""Records in the gradient of a first linear layer: what two attacks read, and how they are judged.

In a layer with output k = w_k · x + b_k, the gradient of w_k is that of b_k times x. So a quotient
of the two is a patient's record, where one patient alone is in them.

Letters of shapes: N guesses, B patients, F numeric features, K categorical features, H hidden
width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.training import Patients
from common.granularities import MarkersGranularity, TabularGranularity
from common.study import Study

Floats = NDArray[np.float64]
# How near a guess must come, in standard deviations of patients, root mean square over features.
NEAR = 0.05
# Of a sum of gradients, what counts as nothing.
_NOTHING = 1e-9


@dataclass(frozen=True, kw_only=True)
class FirstLayer:
    """Where the first linear layer of a granularity's encoder stands among the blocks of a model.

    Attributes:
        location, scale: blocks (F,) of the normalisation.
        weight, bias: blocks (H, columns) and (H,); the first F columns are of the values.
        categories: the block (codes, H) of the embeddings, or None.
        second: the block (…, H) of the layer behind it, or None where there is none.
        num_numeric: F.
        sizes: codes of each categorical feature, 0 (missing) included.
    """

    granularity: str
    location: str
    scale: str
    weight: str
    bias: str
    categories: str | None
    second: str | None
    num_numeric: int
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Records:
    """Records of patients, or guesses at them.

    Attributes:
        values_NF: in half widths of the public ranges from their middle; NaN: not observed.
        codes_NK: of the categories; 0: missing.
    """

    values_NF: Floats
    codes_NK: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.values_NF)


def first_layer(study: Study) -> FirstLayer | None:
    """That of the first granularity with numbers and a linear first layer; None: there is none.

    Tables come before markers, and among tables those with a hidden layer before the others.
    """
    found = [layer for layer in (_layer_of(study, name) for name in study.granularities) if layer]
    found.sort(key=lambda layer: (".body." in layer.weight, layer.second is None))
    return found[0] if found else None


def _layer_of(study: Study, name: str) -> FirstLayer | None:
    granularity = study.granularities[name]
    place = f"encoders.{name}"
    num = len(granularity.numeric)
    if isinstance(granularity, TabularGranularity) and num:
        sizes = tuple(1 + len(f.categories) for f in granularity.categorical.values())
        return FirstLayer(
            granularity=name,
            location=f"{place}.location",
            scale=f"{place}.scale",
            weight=f"{place}.numbers.weight",
            bias=f"{place}.numbers.bias",
            categories=f"{place}.categories.weight" if sizes else None,
            second=f"{place}.hidden.2.weight" if granularity.hidden else None,
            num_numeric=num,
            sizes=sizes,
        )
    if isinstance(granularity, MarkersGranularity) and granularity.encoder == "mlp":
        return FirstLayer(
            granularity=name,
            location=f"{place}.location",
            scale=f"{place}.scale",
            weight=f"{place}.body.0.weight",
            bias=f"{place}.body.0.bias",
            categories=None,
            second=f"{place}.body.3.weight" if granularity.hidden else None,
            num_numeric=num,
        )
    return None


def records_of(patients: Patients, layer: FirstLayer, study: Study) -> Records:
    """The patients' own records: what is to be recovered."""
    arrays = patients.inputs[layer.granularity]
    numeric = study.granularities[layer.granularity].numeric.values()
    low_F, high_F = np.array([feature.range for feature in numeric], dtype=np.float64).T
    values_BF = arrays["numeric_BF"].double().numpy()
    z_BF = (values_BF - (low_F + high_F) / 2) / ((high_F - low_F) / 2)
    z_BF = np.where(arrays["observed_BF"].numpy(), z_BF, np.nan)
    codes_BK = arrays["codes_BK"].numpy() if layer.sizes else np.zeros((len(z_BF), 0), np.int64)
    present_B = arrays["present_B"].numpy()
    return Records(values_NF=z_BF[present_B], codes_NK=codes_BK[present_B])


def read(gradients: Mapping[str, Floats], layer: FirstLayer) -> Records:
    """A guess for each unit of the layer whose gradient is not nothing.

    Args:
        gradients: of the layer's blocks; rows may be differences of units, as long as all blocks
            have the same ones.
    """
    bias_H, weight_HC = gradients[layer.bias], gradients[layer.weight]
    used_H = np.abs(bias_H) > _NOTHING * max(np.abs(bias_H).max(initial=0.0), 1e-300)
    bias_N1 = bias_H[used_H][:, None]
    shown_NC = weight_HC[used_H] / bias_N1
    values_NF = shown_NC[:, : layer.num_numeric]
    codes_NK = np.zeros((len(values_NF), len(layer.sizes)), dtype=np.int64)
    if layer.categories is not None:
        share_NC = gradients[layer.categories].T[used_H] / bias_N1
        start = 0
        for k, size in enumerate(layer.sizes):
            codes_NK[:, k] = share_NC[:, start : start + size].argmax(axis=1)
            start += size
    return Records(values_NF=values_NF, codes_NK=codes_NK)


@dataclass(frozen=True, kw_only=True)
class Public:
    """What an attacker knows of records: those of patients of his own, who are like the others.

    Attributes:
        mean_F, sd_F: of each number, in half widths of its public range.
        z_NF: the records in these units; the mean where nothing was measured.
    """

    mean_F: Floats
    sd_F: Floats
    z_NF: Floats

    @classmethod
    def of(cls, records: Records) -> "Public":
        """That of some patients whom the attacker knows."""
        mean_F = np.nanmean(records.values_NF, axis=0)
        sd_F = np.maximum(np.nanstd(records.values_NF, axis=0), 1e-3)
        z_NF = np.nan_to_num((records.values_NF - mean_F) / sd_F)
        return cls(mean_F=mean_F, sd_F=sd_F, z_NF=z_NF)


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What the guesses have of the patients.

    Attributes:
        recovered: the part of the patients whose whole record is among the guesses: the numbers
            that were measured within `NEAR`, and every category.
        best_error: the smallest error of a guess at any patient's numbers, in standard deviations;
            infinite without a guess.
    """

    recovered: float
    best_error: float


def recovery(guesses: Records, truth: Records, public: Public) -> Recovery:
    """How much of the truth is among the guesses."""
    if len(guesses) == 0 or len(truth) == 0:
        return Recovery(recovered=0.0, best_error=float("inf"))
    off_NBF = (guesses.values_NF[:, None] - truth.values_NF[None]) / public.sd_F
    num_seen_B = np.maximum((~np.isnan(truth.values_NF)).sum(axis=1), 1)
    error_NB = np.sqrt(np.nansum(off_NBF**2, axis=2) / num_seen_B)
    alike_NB = (guesses.codes_NK[:, None] == truth.codes_NK[None]).all(axis=2)
    found_B = ((error_NB <= NEAR) & alike_NB).any(axis=0)
    return Recovery(recovered=float(found_B.mean()), best_error=float(error_NB.min()))
