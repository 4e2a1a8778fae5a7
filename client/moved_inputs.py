"""What integrated gradients move: everything measured of a patient, as arrays with a baseline.

Numbers, signals, markers and pictures are moved as they are, and so is the embedding that
pretrained weights made of a text; a category or word is moved as its embedding. What is missing is
no input: what was measured, which categories are known and which granularities are present is the
same at the baseline as at the patient.

Letters of shapes: B patients, T steps or tokens, F features, K categories, H width of an embedding,
N images, C codes, E width of a pretrained embedding.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from client.training import Patients
from common.granularities import (
    AnyGranularity,
    ImagesGranularity,
    NotesGranularity,
    SequencesGranularity,
    SeriesGranularity,
    TabularGranularity,
)
from common.models.contract import Batch, GranularityBatch
from common.models.patient_model import PatientModel
from common.study import Study

_MID_GREY = 127.5
_MISSING = 0  # a category that is not known, or padding


@dataclass(frozen=True, kw_only=True)
class Moved:
    """One array that is moved from its baseline to the patient's values.

    Attributes:
        array: its name in the batch; of an embedding, that of its codes.
        embedding: the layer whose result is moved; None where the array itself is.
        baseline: where it starts, broadcast over patients; of an embedding, where a code is known.
        features: what attributions are told of, along `axis`; one alone sums over the whole array.
    """

    granularity: str
    array: str
    embedding: nn.Embedding | None
    baseline: Tensor
    features: tuple[str, ...]
    axis: int | None = None

    def start(self, values: Tensor, batch: Batch) -> Tensor:
        """The baseline of each patient, in the shape of `values`; a missing code stays missing."""
        start = self.baseline.expand_as(values).contiguous()
        if self.embedding is None:
            return start
        is_missing = batch[self.granularity][self.array] == _MISSING
        return torch.where(is_missing.unsqueeze(-1), values, start)

    def by_feature(self, attribution: Tensor) -> Tensor:
        """The attribution of each feature, shape (B, F): the sum over all else."""
        if self.axis is None:
            return attribution.flatten(1).sum(dim=1, keepdim=True)
        by_feature = attribution.movedim(self.axis, 1)
        return by_feature.reshape(*by_feature.shape[:2], -1).sum(dim=2)


def moved_of(study: Study, model: PatientModel, trained_on: Patients) -> tuple[Moved, ...]:
    """All that is moved, in the order of the study.

    The baseline: numbers at the centre by which the study normalises them; categories, words and
    pictures the average of the site's training patients. Not the embedding of what is unknown:
    where nothing is, it was never trained. Not a grey picture: norms blow up what little it shows.
    """
    return tuple(
        part
        for name, granularity in study.granularities.items()
        for part in _of(name, granularity, model.encoders[name], trained_on.inputs[name])
    )


def _of(
    name: str, granularity: AnyGranularity, encoder: Any, trained_on: GranularityBatch
) -> Iterator[Moved]:
    """The arrays of one granularity, each of which the encoder reads in one place."""
    match granularity:
        case ImagesGranularity():
            yield _whole(name, "images_BNHW", None, _average_picture(trained_on), "picture")
            return
        case NotesGranularity(encoder="pretrained"):
            yield _whole(name, "embedding_BE", None, _average_embedding(trained_on), "text")
            return
        case NotesGranularity() if "embedding_BE" in trained_on:
            present_BE = trained_on["embedding_BE"][trained_on["present_B"]].float()
            average_E = present_BE.sum(dim=0) / max(len(present_BE), 1)
            yield _whole(name, "embedding_BE", None, average_E, "text")
            return
        case NotesGranularity() | SequencesGranularity():
            feature = "text" if isinstance(granularity, NotesGranularity) else "sequence"
            weight = encoder.embedding.weight.detach()
            average_H = _average(weight, trained_on["tokens_BT"].flatten())
            yield _whole(name, "tokens_BT", encoder.embedding, average_H, feature)
            return
        case SeriesGranularity():
            array, axis = "numeric_BTF", 2
        case _:
            array, axis = "numeric_BF", 1
    if granularity.numeric:
        yield Moved(
            granularity=name,
            array=array,
            embedding=None,
            baseline=encoder.location,
            features=tuple(granularity.numeric),
            axis=axis,
        )
    if isinstance(granularity, TabularGranularity) and granularity.categorical:
        yield Moved(
            granularity=name,
            array="codes_BK",
            embedding=encoder.categories,
            baseline=_average_categories(granularity, encoder, trained_on["codes_BK"]),
            features=tuple(granularity.categorical),
            axis=1,
        )


def _whole(
    name: str, array: str, embedding: nn.Embedding | None, baseline: Tensor, feature: str
) -> Moved:
    return Moved(
        granularity=name,
        array=array,
        embedding=embedding,
        baseline=baseline,
        features=(feature,),
    )


def _average_categories(granularity: TabularGranularity, encoder: Any, codes_BK: Tensor) -> Tensor:
    """The average embedding of each categorical feature, shape (K, H)."""
    weight, firsts = encoder.categories.weight.detach(), encoder.first_code.tolist()
    sizes = [1 + len(feature.categories) for feature in granularity.categorical.values()]
    averages = [
        _average(weight[first : first + size], codes_BK[:, k])
        for k, (first, size) in enumerate(zip(firsts, sizes, strict=True))
    ]
    return torch.stack(averages)


def _average_picture(trained_on: GranularityBatch) -> Tensor:
    """The mean of all pictures, shape (H, W); middle grey where there is none."""
    pictures_PHW = trained_on["images_BNHW"][trained_on["observed_BN"]].float()
    if len(pictures_PHW) == 0:
        return torch.tensor(_MID_GREY, device=pictures_PHW.device)
    return pictures_PHW.mean(dim=0)


def _average_embedding(trained_on: GranularityBatch) -> Tensor:
    """The mean embedding of those who have one, shape (E,); 0 where nobody has."""
    known_PE = trained_on["embedding_BE"][trained_on["present_B"]]
    return known_PE.mean(dim=0) if len(known_PE) else known_PE.sum(dim=0)


def _average(weight_CH: Tensor, codes: Tensor) -> Tensor:
    """The mean row over the known codes; over all that there are where none is known."""
    count_C = torch.bincount(codes, minlength=len(weight_CH)).to(weight_CH.dtype)
    count_C[_MISSING] = 0
    if not count_C.any():
        count_C[_MISSING + 1 :] = 1
    return count_C @ weight_CH / count_C.sum()


def values_of(moved: Sequence[Moved], model: PatientModel, batch: Batch) -> tuple[Tensor, ...]:
    """The patients' own values of each moved array, float."""
    embedded: dict[int, Tensor] = {}

    def keep(layer: nn.Module, _: object, result: Tensor) -> None:
        embedded[id(layer)] = result.detach()

    layers = [part.embedding for part in moved if part.embedding is not None]
    with ExitStack() as hooks, torch.no_grad():
        for layer in layers:
            hooks.callback(layer.register_forward_hook(keep).remove)
        model.tokens(batch)
    return tuple(
        batch[part.granularity][part.array].float()
        if part.embedding is None
        else embedded[id(part.embedding)]
        for part in moved
    )


def fixed_of(
    moved: Sequence[Moved], batch: Batch
) -> tuple[list[tuple[str, str]], tuple[Tensor, ...]]:
    """The arrays that stay as they are (masks, codes): their names, and themselves."""
    taken = {(part.granularity, part.array) for part in moved if part.embedding is None}
    named = {
        (name, key): value
        for name, arrays in batch.items()
        for key, value in arrays.items()
        if (name, key) not in taken
    }
    return list(named), tuple(named.values())


@contextmanager
def replaced(moved: Sequence[Moved], values: Sequence[Tensor]) -> Iterator[None]:
    """Lets the embeddings among `moved` return `values` instead of what they would."""
    with ExitStack() as hooks:
        for part, value in zip(moved, values, strict=True):
            if part.embedding is not None:
                hooks.callback(part.embedding.register_forward_hook(_returning(value)).remove)
        yield


def _returning(value: Tensor) -> Any:
    def hook(layer: nn.Module, inputs: object, result: Tensor) -> Tensor:
        return value

    return hook


def batch_of(
    moved: Sequence[Moved],
    values: Sequence[Tensor],
    names: Sequence[tuple[str, str]],
    fixed: Sequence[Tensor],
) -> Batch:
    """A batch of the moved arrays and of those that stay."""
    batch: dict[str, dict[str, Tensor]] = {}
    for (name, key), value in zip(names, fixed, strict=True):
        batch.setdefault(name, {})[key] = value
    for part, value in zip(moved, values, strict=True):
        if part.embedding is None:
            batch.setdefault(part.granularity, {})[part.array] = value
    return batch
