"""Clipped sums by one forward and one backward pass, whatever the number of patients.

The forward pass notes the input of every layer. The backward pass asks for the gradients of the
layers' outputs alone: parameters do not require a gradient meanwhile, so that none is formed for
the batch. From both follow the norms (`client.per_patient.layers`), from these the clip factors,
and then the clipped sums from what is still in memory. No second backward pass is needed.

Letters of shapes: B patients.

Source: Bu et al. 2023, arXiv:2210.00038, algorithm 1.
Differs from the source in: what a layer adds is worked out as soon as the gradient of its output is
    there, so that its input and that gradient need not be kept where the result is smaller.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from client.per_patient.contribution import ClippedSum, Nested, clip_factors, num_patients_of
from client.per_patient.layers import (
    Call,
    convolution_shares,
    embedding_shares,
    linear_shares,
    norm_shares,
)
from client.per_patient.shares import Share, bundled

# By the exact class: what a subclass does in its forward pass is not known.
_SHARES: Mapping[type[nn.Module], Callable[[Any, Sequence[Call], int], list[Share]]] = {
    nn.Linear: linear_shares,
    nn.Conv1d: convolution_shares,
    nn.Conv2d: convolution_shares,
    nn.LayerNorm: norm_shares,
    nn.GroupNorm: norm_shares,
    nn.Embedding: embedding_shares,
}


def known_layers(model: nn.Module) -> list[nn.Module] | None:
    """The layers with trainable parameters, or None where one of them is not known here.

    A layer is known by its kind and settings, and by having its parameters for itself. It depends
    on the model alone, never on patients.
    """
    seen: set[Tensor] = set()
    layers = []
    for layer in model.modules():
        named = [(name, p) for name, p in layer._parameters.items() if p is not None]
        own = {p for _, p in named if p.requires_grad}
        if not own:
            continue
        if not _is_known(layer, {name for name, _ in named}) or seen & own:
            return None
        seen |= own
        layers.append(layer)
    return layers


def clipped_sum_by_book_keeping(
    model: nn.Module,
    layers: Sequence[nn.Module],
    inputs: Nested,
    outcomes: Nested,
    max_grad_norm: float,
) -> ClippedSum:
    """The clipped sum of `clipped_gradient_sum`, of a model with known `layers`."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    book = _Book(num_patients_of(inputs))
    try:
        with torch.enable_grad(), _noting(layers, book), _held_still(parameters):
            loss_of: Any = model.loss_per_patient
            loss_B: Tensor = loss_of(model(inputs), outcomes)
            loss = loss_B.sum()
        if loss.requires_grad:
            torch.autograd.grad(loss, book.roots, allow_unused=True)
        shares = book.close()
    finally:
        book.clear()
    squares = [share.squares() for share in shares] or [torch.zeros_like(loss_B)]
    norm_B = torch.stack(squares).sum(dim=0).sqrt()
    factor_B = clip_factors(norm_B, max_grad_norm)
    lost_B = ~norm_B.isfinite()
    lost = lost_B if lost_B.any() else None
    found = dict(pair for share in shares for pair in share.weighted(factor_B, lost))
    sums = [
        found[p] if p in found else torch.zeros_like(p, requires_grad=False) for p in parameters
    ]
    return ClippedSum(sums=sums, norm_B=norm_B)


class _Book:
    """Inputs of layers until the gradients of their outputs come in; shares from then on.

    A layer may be called several times: its calls are settled together, after the last.
    """

    def __init__(self, num_patients: int) -> None:
        self.roots: list[Tensor] = []
        self._num_patients = num_patients
        self._awaited: dict[nn.Module, int] = {}
        self._inputs: dict[int, Tensor] = {}
        self._calls: dict[nn.Module, list[Call]] = {}
        self._shares: list[Share] = []
        self._num_noted = 0

    def note(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Notes a call of a layer; a forward hook."""
        if not output.requires_grad:
            # Nothing before it is trained: gradients are asked for from here on.
            self.roots.append(output.requires_grad_())
        self._awaited[layer] = self._awaited.get(layer, 0) + 1
        self._inputs[self._num_noted] = args[0].detach()
        receive = partial(self._receive, layer, self._num_noted)
        output.register_hook(receive)  # type: ignore[no-untyped-call]
        self._num_noted += 1

    def _receive(self, layer: nn.Module, call: int, gradient: Tensor) -> None:
        calls = self._calls.setdefault(layer, [])
        calls.append((self._inputs.pop(call), gradient))
        if len(calls) == self._awaited[layer]:
            self._settle(layer)

    def _settle(self, layer: nn.Module) -> None:
        calls = self._calls.pop(layer)
        self._shares += _SHARES[type(layer)](layer, calls, self._num_patients)

    def close(self) -> list[Share]:
        """The shares of all layers; calls whose output no loss depends on add nothing."""
        for layer in list(self._calls):
            self._settle(layer)
        return bundled(self._shares)

    def clear(self) -> None:
        """Lets go of all tensors: the hooks of outputs refer to the book, and it to outputs."""
        self.roots, self._inputs, self._calls = [], {}, {}


@contextmanager
def _noting(layers: Sequence[nn.Module], book: _Book) -> Iterator[None]:
    """Notes every call of the layers, until the end of the block."""
    handles = [layer.register_forward_hook(book.note) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _held_still(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Parameters that require no gradient, until the end of the block."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _is_known(layer: nn.Module, names: set[str]) -> bool:
    if type(layer) not in _SHARES or names - {"weight", "bias"}:
        return False
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if isinstance(layer, nn.Embedding):
        is_plain = layer.padding_idx is None and layer.max_norm is None
        return is_plain and not (layer.scale_grad_by_freq or layer.sparse)
    return True
