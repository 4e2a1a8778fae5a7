"""The whole model of a patient: encoders, fusion, head; and its parameters as flat arrays.

Letters of shapes: B patients, T tokens, D width.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from common.arrays import Arrays, Block, Manifest, slices_of
from common.errors import StudyError
from common.models.contract import Batch, Encoder
from common.models.fusion import build_fusion
from common.models.heads import num_logits
from common.models.tabular import TabularEncoder
from common.seeds import seed_of
from common.study import Study, TabularGranularity

SHARED = "patients"


class PatientModel(nn.Module):
    """Tokens of every granularity, fused under the mask of what is present, to logits.

    Guarantees:
        - An absent granularity cannot influence the output, whatever stands in its arrays.
        - A patient without any granularity has a finite output.
        - Building it for equal studies gives equal weights, and leaves torch's global random
          state as it was.

    Raises:
        StudyError: a granularity has a name that torch's modules use themselves, such as "type".
    """

    def __init__(self, study: Study) -> None:
        super().__init__()
        taken = [name for name in study.granularities if hasattr(nn.ModuleDict, name)]
        if taken:
            raise StudyError(
                f"Expected names of granularities that torch does not use itself, found "
                f"{', '.join(taken)}. Choose others."
            )
        with torch.random.fork_rng(devices=[]):
            # Not `torch.manual_seed`, which would seed the GPUs as well.
            torch.default_generator.manual_seed(seed_of(study.training.seed, "weights"))
            self.encoders = nn.ModuleDict(
                {name: build_encoder(spec, study) for name, spec in study.granularities.items()}
            )
            self.granularity_dropout = study.model.granularity_dropout
            self.fusion = build_fusion(study.model, num_tokens=len(self.encoders))
            self.dropout = nn.Dropout(study.model.dropout)
            self.head = nn.Linear(study.model.width, num_logits(study.outcome))

    def forward(self, batch: Batch) -> Tensor:
        """The logits, shape (B, 1) for a binary outcome, else (B, C)."""
        tokens_BTD, present_BT = self.tokens(batch)
        if self.training and self.granularity_dropout > 0:
            present_BT = _drop_granularities(present_BT, self.granularity_dropout)
        logits: Tensor = self.head(self.dropout(self.fusion(tokens_BTD, present_BT)))
        return logits

    def tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The tokens of all granularities, (B, T, D), and which are present, (B, T)."""
        tokens, present = [], []
        for name, encoder in self.encoders.items():
            token_BTD = encoder(batch[name])
            tokens.append(token_BTD)
            present.append(batch[name]["present_B"].unsqueeze(1).expand(-1, token_BTD.shape[1]))
        return torch.cat(tokens, dim=1), torch.cat(present, dim=1)


def build_encoder(granularity: TabularGranularity, study: Study) -> Encoder:
    """The encoder of a granularity, by its kind."""
    return ENCODERS[granularity.kind](granularity, study.model.width, study.model.dropout)


ENCODERS = {"tabular": TabularEncoder}


def block_owner(name: str) -> str:
    """The granularity that a parameter belongs to, or `SHARED` for fusion and head.

    >>> block_owner("encoders.labs.numbers.weight"), block_owner("head.bias")
    ('labs', 'patients')
    """
    parts = name.split(".")
    return parts[1] if parts[0] == "encoders" else SHARED


def state_of(model: nn.Module) -> Arrays:
    """The parameters and normalisation of the model, float32, in the model's order."""
    return _pack(model.state_dict())


def parameters_of(model: nn.Module) -> Arrays:
    """The trainable parameters alone: what an update is a difference of."""
    return _pack({name: p.detach() for name, p in model.named_parameters()})


def trainable_manifest(model: nn.Module) -> Manifest:
    """Names and shapes of the trainable parameters."""
    return _manifest_of(dict(model.named_parameters()))


def state_manifest(model: nn.Module) -> Manifest:
    """Names and shapes of what `state_of` returns, without copying it."""
    return _manifest_of(model.state_dict(keep_vars=True))


def load_state(model: nn.Module, state: Arrays) -> None:
    """Copies `state` into the model, in place; the manifests must be equal.

    Raises:
        ValueError: the manifest of `state` is not that of the model.
    """
    own = model.state_dict(keep_vars=True)
    if state.manifest != _manifest_of(own):
        raise ValueError("expected the arrays of this model, found others")
    # One writable copy: torch cannot view the read-only vector, and it may be float64.
    flat = torch.from_numpy(state.flat.astype(np.float32))
    with torch.no_grad():
        for value, (_, place) in zip(own.values(), slices_of(state.manifest), strict=True):
            value.copy_(flat[place].view(value.shape))


def _manifest_of(named: Mapping[str, Tensor]) -> Manifest:
    return tuple(Block(name=name, shape=tuple(value.shape)) for name, value in named.items())


def _pack(named: Mapping[str, Tensor]) -> Arrays:
    return Arrays.pack({name: value.cpu().numpy() for name, value in named.items()})


def _drop_granularities(present_BT: Tensor, probability: float) -> Tensor:
    """`present_BT` with some granularities hidden at random, and never all of a patient's."""
    keep_BT = present_BT & (torch.rand(present_BT.shape, device=present_BT.device) >= probability)
    has_any_B1 = keep_BT.any(dim=1, keepdim=True)
    return torch.where(has_any_B1, keep_BT, present_BT)
