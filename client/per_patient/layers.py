"""What each kind of layer adds to patients' gradients, from its inputs and output gradients.

Of every call of a layer there are its input and the gradient of the summed loss with respect to its
output. The leading axis of both is B, or B · K with the K rows of a patient one after the other
(the images of a patient, folded into the batch).

Letters of shapes: B patients, K rows of a patient, T places of a row or of a patient, I inputs, O
outputs, P parameters, M groups of a convolution, Q taps of its kernel, C channels, H width of an
embedding, U different codes of patients, N all places of all patients.

Source: Bu et al. 2023, arXiv:2210.00038, section 3, for the choice between forms layer by layer.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from client.per_patient.shares import Places, Products, Rows, Share

# Input of a call, gradient with respect to its output.
Call = tuple[Tensor, Tensor]
Convolution = nn.Conv1d | nn.Conv2d


def linear_shares(layer: nn.Linear, calls: Sequence[Call], num_patients: int) -> list[Share]:
    """Of a linear layer on (B, …, I)."""
    a_BTI = _joined([a.reshape(num_patients, -1, layer.in_features) for a, _ in calls])
    g_BTO = _joined([g.reshape(num_patients, -1, layer.out_features) for _, g in calls])
    return _shares_of_map(layer, a_BTI.unsqueeze(1), g_BTO.unsqueeze(1))


def convolution_shares(layer: Convolution, calls: Sequence[Call], num_patients: int) -> list[Share]:
    """Of a convolution on (B · K, C, …): a linear map of what it sees at each place."""
    a_BMTI = _joined([_seen(layer, a, g, num_patients) for a, g in calls], dim=2)
    g_BMTO = _joined([_by_place(layer, g, num_patients) for _, g in calls], dim=2)
    return _shares_of_map(layer, a_BMTI, g_BMTO, num_taps=prod(layer.kernel_size))


def norm_shares(
    layer: nn.LayerNorm | nn.GroupNorm, calls: Sequence[Call], num_patients: int
) -> list[Share]:
    """Of scale and shift after a normalisation, which is done once more, without them."""
    scale_BP, shift_BP = _of_norm(layer, *calls[0], num_patients)
    for call in calls[1:]:
        more_BP, more_shift_BP = _of_norm(layer, *call, num_patients)
        scale_BP, shift_BP = scale_BP + more_BP, shift_BP + more_shift_BP
    pairs = ((layer.weight, scale_BP), (layer.bias, shift_BP))
    return [Rows(parameter=p, row_BP=row_BP) for p, row_BP in pairs if _is_trained(p)]


def embedding_shares(layer: nn.Embedding, calls: Sequence[Call], num_patients: int) -> list[Share]:
    """Of an embedding of codes, shape (B, …)."""
    code_BT = _joined([a.reshape(num_patients, -1) for a, _ in calls])
    g_BTH = _joined([g.reshape(num_patients, -1, layer.embedding_dim) for _, g in calls])
    owner_B1 = torch.arange(num_patients, device=code_BT.device).unsqueeze(1)
    key_U = (owner_B1 * layer.num_embeddings + code_BT).flatten()
    row_UH = g_BTH.flatten(0, 1)
    if code_BT.shape[1] > 1:
        key_U, place_N = torch.unique(key_U, return_inverse=True)
        zeros_UH = row_UH.new_zeros(len(key_U), layer.embedding_dim)
        row_UH = zeros_UH.index_add_(0, place_N, row_UH)
    share = Places(
        parameter=layer.weight,
        num_patients=num_patients,
        code_U=key_U % layer.num_embeddings,
        owner_U=key_U // layer.num_embeddings,
        row_UH=row_UH,
    )
    return [share]


def _shares_of_map(
    layer: nn.Linear | Convolution, a_BMTI: Tensor, g_BMTO: Tensor, num_taps: int = 1
) -> list[Share]:
    """As rows where these are no larger than inputs and output gradients, else as products."""
    weight = layer.weight if _is_trained(layer.weight) else None
    bias = layer.bias if _is_trained(layer.bias) else None
    num_places, num_inputs = a_BMTI.shape[2:]
    num_outputs = g_BMTO.shape[3]
    if num_places == 1 or num_inputs * num_outputs > num_places * (num_inputs + num_outputs):
        share = Products(weight=weight, bias=bias, a_BMTI=a_BMTI, g_BMTO=g_BMTO, num_taps=num_taps)
        return [share]
    shares: list[Share] = []
    if weight is not None:
        row_BP = (g_BMTO.transpose(2, 3) @ a_BMTI).flatten(1)
        shares.append(Rows(parameter=weight, row_BP=row_BP, num_taps=num_taps))
    if bias is not None:
        shares.append(Rows(parameter=bias, row_BP=g_BMTO.sum(dim=2).flatten(1)))
    return shares


def _by_place(layer: Convolution, g: Tensor, num_patients: int) -> Tensor:
    """The output gradients of a convolution, (B · K, M · O, …), as (B, M, K · T, O)."""
    sizes = (layer.groups, layer.out_channels // layer.groups, prod(g.shape[2:]))
    g_BKMOT = g.reshape(num_patients, len(g) // num_patients, *sizes)
    return g_BKMOT.permute(0, 2, 1, 4, 3).flatten(2, 3)


def _seen(layer: Convolution, a: Tensor, g: Tensor, num_patients: int) -> Tensor:
    """What a convolution sees at each place, tap by tap, (B, M, K · T, Q · I).

    `torch.nn.functional.unfold` takes three to five times as long on a CPU.
    """
    taps = list(_taps(layer, a, g.shape[2:]))
    num_inputs = layer.in_channels // layer.groups
    sizes = (len(taps), layer.groups, num_inputs, prod(g.shape[2:]))
    a_BKQMIT = torch.stack(taps, dim=1).view(num_patients, len(a) // num_patients, *sizes)
    return a_BKQMIT.permute(0, 3, 1, 5, 2, 4).flatten(4, 5).flatten(2, 3)


def _taps(layer: Convolution, a: Tensor, num_places: Sequence[int]) -> Iterator[Tensor]:
    """For each tap of the kernel, what it sees at all places: shifted views of the padded input."""
    sizes: Sequence[int | str] = layer.padding
    padding = [int(size) for size in reversed(sizes) for _ in range(2)]
    padded = functional.pad(a, padding) if any(padding) else a
    axes = zip(num_places, layer.kernel_size, layer.stride, layer.dilation, strict=True)
    places = [
        [
            slice(tap * dilation, tap * dilation + (places - 1) * stride + 1, stride)
            for tap in range(size)
        ]
        for places, size, stride, dilation in axes
    ]
    return (padded[:, :, *place] for place in product(*places))


def _of_norm(
    layer: nn.LayerNorm | nn.GroupNorm, a: Tensor, g: Tensor, num_patients: int
) -> tuple[Tensor, Tensor]:
    """The gradients of scale and shift, each (B, P)."""
    if isinstance(layer, nn.LayerNorm):
        normal = functional.layer_norm(a, layer.normalized_shape, eps=layer.eps)
        sizes = (num_patients, -1, prod(layer.normalized_shape), 1)
    else:
        normal = functional.group_norm(a, layer.num_groups, eps=layer.eps)
        sizes = (num_patients, -1, layer.num_channels, prod(a.shape[2:]))
    scale_BP, shift_BP = (x.reshape(sizes).sum(dim=(1, 3)) for x in (g * normal, g))
    return scale_BP, shift_BP


def _joined(parts: list[Tensor], dim: int = 1) -> Tensor:
    """The calls of a layer as one call at more places."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)


def _is_trained(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad
