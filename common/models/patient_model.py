"""The whole model of a patient: encoders, fusion, head; and its parameters as flat arrays.

Letters of shapes: B patients, G granularities, T tokens, D width.
"""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from common.arrays import Arrays, Block, Manifest, slices_of
from common.errors import StudyError
from common.models.contract import Batch
from common.models.encoders import build_encoder
from common.models.fusion import build_fusion
from common.models.heads import Head, Labels, build_head
from common.seeds import seed_of
from common.study import Study

SHARED = "patients"


class PatientModel(nn.Module):
    """Tokens of every granularity, fused under the mask of what is present, to logits.

    Guarantees:
        - An absent granularity cannot influence the output, whatever stands in its arrays.
        - A patient without any granularity has a finite output.
        - Building it for equal studies gives equal weights, and leaves torch's global random
          state as it was.
        - The encoders of `model.frozen` have no trainable parameter.
        - Parameters of `personal.local_blocks` are trained and are no part of an update.

    Attributes:
        token_owners: the granularity of each token, in their order.
        local_blocks: names of the parameters that stay at a site.
        undecayed: names of those that weight decay leaves alone: biases, scales of norms, and
            embeddings of one row (baselines, the query of attention), which are biases in another
            form: they fit how common an outcome is, and not what it depends on.

    Raises:
        StudyError: `personal.local_blocks` names nothing, or leaves nothing to share.
    """

    def __init__(self, study: Study) -> None:
        super().__init__()
        width = study.model.width
        with torch.random.fork_rng(devices=[]):
            # Not `torch.manual_seed`, which would seed the GPUs as well.
            torch.default_generator.manual_seed(seed_of(study.training.seed, "weights"))
            encoders = {
                name: build_encoder(granularity, width, study.model.dropout)
                for name, granularity in study.granularities.items()
            }
            self.encoders = nn.ModuleDict(encoders)
            self.granularity_dropout = study.model.granularity_dropout
            self.token_owners = tuple(
                name for name, e in encoders.items() for _ in range(e.num_tokens)
            )
            self.fusion = build_fusion(study.model, token_owners=self.token_owners)
            self.dropout = nn.Dropout(study.model.dropout)
            self.heads = nn.ModuleDict(
                {name: build_head(outcome, width) for name, outcome in study.outcomes.items()}
            )
        self._outcome_weights = {name: o.weight for name, o in study.outcomes.items()}
        for name in study.model.frozen:
            self.encoders[name].requires_grad_(False)
        self.local_blocks = _local_blocks(self, study)
        single_rows = {
            f"{name}.weight"
            for name, layer in self.named_modules()
            if isinstance(layer, nn.Embedding) and layer.num_embeddings == 1
        }
        self.undecayed = frozenset(
            name for name, p in self.named_parameters() if p.ndim < 2 or name in single_rows
        )

    @property
    def is_separable(self) -> bool:
        """Whether a patient's loss depends on that patient alone; else, it is of a whole batch."""
        return all(head.is_separable for head in self.heads.values())

    def forward(self, batch: Batch) -> Tensor:
        """The logits of all outcomes side by side, shape (B, W)."""
        return self.read_out(*self.tokens(batch))

    def tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The tokens of all granularities, (B, T, D), and which are present, (B, T)."""
        tokens, present = [], []
        for name, encoder in self.encoders.items():
            token_BTD = encoder(batch[name])
            tokens.append(token_BTD)
            present.append(batch[name]["present_B"].unsqueeze(1).expand(-1, token_BTD.shape[1]))
        return torch.cat(tokens, dim=1), torch.cat(present, dim=1)

    def read_out(self, tokens_BTD: Tensor, present_BT: Tensor, *, drops: bool = True) -> Tensor:
        """The logits (B, W) of tokens of which some are present.

        Args:
            drops: whether granularities are hidden in training, as the study says.
        """
        if drops and self.training and self.granularity_dropout > 0:
            present_BT = drop_granularities(present_BT, self.granularity_dropout, self.token_owners)
        fused_BD = self.dropout(self.fusion(tokens_BTD, present_BT))
        return torch.cat([head(fused_BD) for head in self.heads.values()], dim=1)

    def loss_per_patient(self, logits_BW: Tensor, labels: Mapping[str, Labels]) -> Tensor:
        """The weighted sum of the losses of all outcomes of each patient, shape (B,)."""
        losses = [
            self._outcome_weights[name] * head.loss_per_patient(part_BW, labels[name])
            for name, head, part_BW in self._parts(logits_BW)
        ]
        return torch.stack(losses).sum(dim=0)

    def predictions(self, logits_BW: Tensor) -> dict[str, Tensor]:
        """What each head predicts, in float64."""
        return {name: head.predictions(part_BW) for name, head, part_BW in self._parts(logits_BW)}

    def _parts(self, logits_BW: Tensor) -> Iterator[tuple[str, Head, Tensor]]:
        """Each outcome's name, head and logits."""
        start = 0
        for name, head in self.heads.items():
            assert isinstance(head, Head)
            yield name, head, logits_BW[:, start : start + head.num_logits]
            start += head.num_logits


def block_owner(name: str) -> str:
    """The granularity or outcome that a parameter belongs to, or `SHARED` for the fusion.

    >>> block_owner("encoders.labs.numbers.weight"), block_owner("heads.event.linear.bias")
    ('labs', 'event')
    >>> block_owner("fusion.gate.weight")
    'patients'
    """
    parts = name.split(".")
    return parts[1] if parts[0] in ("encoders", "heads") else SHARED


def state_of(model: nn.Module) -> Arrays:
    """The parameters and normalisation of the model, float32, in the model's order."""
    return _pack(model.state_dict())


def parameters_of(model: nn.Module) -> Arrays:
    """The shared trainable parameters alone: what an update is a difference of."""
    return _pack({name: p.detach() for name, p in _shared(model)})


def trainable_manifest(model: nn.Module) -> Manifest:
    """Names and shapes of the shared trainable parameters."""
    return _manifest_of(dict(_shared(model)))


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


def _shared(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    local: frozenset[str] = getattr(model, "local_blocks", frozenset())
    return (
        (name, p) for name, p in model.named_parameters() if p.requires_grad and name not in local
    )


def _local_blocks(model: nn.Module, study: Study) -> frozenset[str]:
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    local: set[str] = set()
    for pattern in study.personal.local_blocks:
        matching = fnmatch.filter(names, pattern)
        if not matching:
            raise StudyError(
                f"Expected patterns of trainable parameters in personal.local_blocks, found "
                f"'{pattern}', which matches none of {len(names)} (such as {names[0]})."
            )
        local |= set(matching)
    if len(local) == len(names):
        raise StudyError(
            "Expected a parameter that hospitals share, found all of them in "
            "personal.local_blocks. Leave some out."
        )
    return frozenset(local)


def _manifest_of(named: Mapping[str, Tensor]) -> Manifest:
    return tuple(Block(name=name, shape=tuple(value.shape)) for name, value in named.items())


def _pack(named: Mapping[str, Tensor]) -> Arrays:
    return Arrays.pack({name: value.cpu().numpy() for name, value in named.items()})


def drop_granularities(
    present_BT: Tensor, probability: float, token_owners: Sequence[str]
) -> Tensor:
    """`present_BT` with some granularities hidden at random, and never all of a patient's.

    Guarantees:
        - All tokens of a granularity are hidden, or none.

    Args:
        token_owners: the granularity of each token.
    """
    place_of = {name: place for place, name in enumerate(dict.fromkeys(token_owners))}
    shape_BG = (len(present_BT), len(place_of))
    kept_BG = torch.rand(shape_BG, device=present_BT.device) >= probability
    keep_BT = present_BT & kept_BG[:, [place_of[name] for name in token_owners]]
    has_any_B1 = keep_BT.any(dim=1, keepdim=True)
    return torch.where(has_any_B1, keep_BT, present_BT)
