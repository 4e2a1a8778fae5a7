"""The forms in which a layer's part of all patients' gradients is held until they are clipped.

None of them holds a gradient of a layer's weights for every patient, unless that is smaller than
what the layer took and gave:

- `Rows`: the gradients of the patients side by side. Their norm is what it is.
- `Products`: inputs a and output gradients g of T places. The squared norm of Σₜ gₜ aₜᵀ is
  Σₜₛ (aₜ·aₛ)(gₜ·gₛ), which for T = 1 is |a|² |g|².
- `Places`: gradients of rows of an embedding, those of equal codes of a patient added up.

Letters of shapes: B patients, T places of a patient, I inputs, O outputs, P parameters, M groups of
a convolution, H width of an embedding, U different codes of patients, N all places of all patients.

Source: Goodfellow 2015, arXiv:1510.01799, for T = 1; Li et al. 2022, arXiv:2110.05679, section 4,
for T > 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from client.per_patient.contribution import zero_where_lost

Sums = list[tuple[Tensor, Tensor]]


class Share(ABC):
    """The part of all patients' gradients that belongs to some parameters of one layer."""

    @abstractmethod
    def squares(self) -> Tensor:
        """The squared L2 norm of each patient's part, shape (B,)."""

    @abstractmethod
    def weighted(self, factor_B: Tensor, lost_B: Tensor | None) -> Sums:
        """Each parameter with Σ factor · gradient over the patients who are not `lost_B`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows(Share):
    """The gradient of one parameter, of each patient.

    Attributes:
        num_taps: of a convolution; in the rows they come before its inputs, and not after them.
    """

    parameter: Tensor
    row_BP: Tensor
    num_taps: int = 1

    def squares(self) -> Tensor:
        """The squared L2 norm of each row."""
        norm_B: Tensor = torch.linalg.vector_norm(self.row_BP, dim=1)
        return norm_B.square()

    def weighted(self, factor_B: Tensor, lost_B: Tensor | None) -> Sums:
        """The weighted sum of the rows."""
        row_BP = self.row_BP if lost_B is None else zero_where_lost(self.row_BP, lost_B)
        return [(self.parameter, _in_shape(factor_B @ row_BP, self.parameter, self.num_taps))]


@dataclass(frozen=True, kw_only=True, eq=False)
class Bundle(Share):
    """Rows of several parameters side by side: one product instead of many small ones."""

    rows: Sequence[Rows]
    row_BP: Tensor

    def squares(self) -> Tensor:
        """The squared L2 norm of each row."""
        norm_B: Tensor = torch.linalg.vector_norm(self.row_BP, dim=1)
        return norm_B.square()

    def weighted(self, factor_B: Tensor, lost_B: Tensor | None) -> Sums:
        """The weighted sums of the rows of each parameter."""
        row_BP = self.row_BP if lost_B is None else zero_where_lost(self.row_BP, lost_B)
        sizes = [rows.row_BP.shape[1] for rows in self.rows]
        totals = torch.split(factor_B @ row_BP, sizes)
        return [
            (rows.parameter, _in_shape(total, rows.parameter, rows.num_taps))
            for rows, total in zip(self.rows, totals, strict=True)
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Products(Share):
    """Weight and bias of a linear map that is applied at T places, M such maps side by side.

    Guarantees:
        - The norm is never less than that of the sum over places, so that what cancels within a
          patient, or vanishes when it is squared, cannot escape the clipping by rounding.

    Attributes:
        weight, bias: None where it is not trained.
        num_taps: of a convolution, as of `Rows`.
    """

    weight: Tensor | None
    bias: Tensor | None
    a_BMTI: Tensor
    g_BMTO: Tensor
    num_taps: int

    def squares(self) -> Tensor:
        """The squared L2 norm of each patient's Σₜ gₜ (aₜ, 1)ᵀ."""
        one = 0 if self.bias is None else 1
        dtype = self.g_BMTO.dtype
        if self.a_BMTI.shape[2] == 1:
            square_BM = _squares(self.g_BMTO)
            if self.weight is not None:
                square_BM = square_BM * (_squares(self.a_BMTI) + one)
            return square_BM.sum(dim=1).to(dtype)
        # In float64: in float32 the square of a tiny input vanishes, whatever it is multiplied by.
        a_BMTI, g_BMTO = self.a_BMTI.double(), self.g_BMTO.double()
        gram_BMTT = g_BMTO @ g_BMTO.transpose(2, 3)
        if self.weight is not None:
            gram_BMTT *= (a_BMTI @ a_BMTI.transpose(2, 3)).add_(one)
        # Rounding moves the weighted sum by up to eps times this, however much its terms cancel.
        size_B = gram_BMTT.diagonal(dim1=2, dim2=3).sqrt().sum(dim=(1, 2)).square()
        square_B = gram_BMTT.sum(dim=(1, 2, 3)).clamp(min=0)
        return (square_B + torch.finfo(dtype).eps * size_B).to(dtype)

    def weighted(self, factor_B: Tensor, lost_B: Tensor | None) -> Sums:
        """The weighted sums of weight and bias, by one product for all patients."""
        a_BMTI, g_BMTO = self.a_BMTI, self.g_BMTO
        if lost_B is not None:
            a_BMTI, g_BMTO = (zero_where_lost(x, lost_B) for x in (a_BMTI, g_BMTO))
        g_BMTO = g_BMTO * factor_B.view(-1, 1, 1, 1)
        sums: Sums = []
        if self.weight is not None:
            a_MNI, g_MNO = (x.transpose(0, 1).flatten(1, 2) for x in (a_BMTI, g_BMTO))
            total_MOI = g_MNO.transpose(1, 2) @ a_MNI
            sums.append((self.weight, _in_shape(total_MOI, self.weight, self.num_taps)))
        if self.bias is not None:
            sums.append((self.bias, g_BMTO.sum(dim=(0, 2)).flatten()))
        return sums


@dataclass(frozen=True, kw_only=True, eq=False)
class Places(Share):
    """The gradients of the rows of an embedding that each patient reads.

    Attributes:
        code_U: which row.
        owner_U: which patient.
        row_UH: the gradient of that row of that patient; a pair of code and owner stands once.
    """

    parameter: Tensor
    num_patients: int
    code_U: Tensor
    owner_U: Tensor
    row_UH: Tensor

    def squares(self) -> Tensor:
        """The squared L2 norm over all rows of each patient."""
        norm_U: Tensor = torch.linalg.vector_norm(self.row_UH, dim=1)
        zeros_B = norm_U.new_zeros(self.num_patients)
        return zeros_B.index_add_(0, self.owner_U, norm_U.square())

    def weighted(self, factor_B: Tensor, lost_B: Tensor | None) -> Sums:
        """The weighted sum of the embedding."""
        row_UH = self.row_UH
        if lost_B is not None:
            row_UH = zero_where_lost(row_UH, lost_B[self.owner_U])
        row_UH = row_UH * factor_B[self.owner_U].unsqueeze(1)
        total = torch.zeros_like(self.parameter, requires_grad=False)
        return [(self.parameter, total.index_add_(0, self.code_U, row_UH))]


# Parameters of a row that is cheaper to copy than to work on alone.
_FEW = 2048


def bundled(shares: Sequence[Share]) -> list[Share]:
    """The same shares, small rows of them side by side."""
    small = [s for s in shares if isinstance(s, Rows) and s.row_BP.shape[1] <= _FEW]
    if len(small) < 2:
        return list(shares)
    others = [s for s in shares if s not in small]
    return [*others, Bundle(rows=small, row_BP=torch.cat([s.row_BP for s in small], dim=1))]


def _squares(x_BMTI: Tensor) -> Tensor:
    """The squared L2 norms in float64, shape (B, M)."""
    norm_BM: Tensor = torch.linalg.vector_norm(x_BMTI.flatten(2), dim=2, dtype=torch.float64)
    return norm_BM.square()


def _in_shape(total: Tensor, parameter: Tensor, num_taps: int) -> Tensor:
    """A sum of gradients in the shape of its parameter."""
    if num_taps > 1:
        total = total.reshape(len(parameter), num_taps, -1).transpose(1, 2)
    return total.reshape(parameter.shape)
