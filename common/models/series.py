"""The encoder of series: a grid of time steps with a mask, by convolution or recurrence.

Letters of shapes: B patients, T time steps, F signals, C input channels, H hidden width, D width.
"""

import torch
from torch import Tensor, nn

from common.granularities import SeriesGranularity
from common.models.augment import vary_series
from common.models.contract import GranularityBatch
from common.models.layers import group_norm, masked_last, masked_max, masked_mean
from common.models.numeric import NumericEncoder, basis_width, in_basis
from common.models.recurrent import GRULayer


class GridEncoder(NumericEncoder):
    """What encoders of series share: the normalised grid, varied in training as the study says."""

    def __init__(self, granularity: SeriesGranularity) -> None:
        super().__init__(granularity.numeric)
        self.plan = granularity.augment

    def grid(self, batch: GranularityBatch) -> tuple[Tensor, Tensor]:
        """The normalised values and which were observed, each (B, T, F).

        Args:
            batch: "numeric_BTF" float, "observed_BTF" bool, "present_B" bool.
        """
        observed_BTF = batch["observed_BTF"] & batch["present_B"][:, None, None]
        z_BTF = self.standardise(batch["numeric_BTF"], observed_BTF)
        if not self.training:
            return z_BTF, observed_BTF
        return vary_series(z_BTF, observed_BTF, self.plan)


class SeriesEncoder(GridEncoder):
    """One token per patient from signals over time.

    Of each signal, every step shows the last value measured so far, whether it was measured in this
    step, and how recent it is; and every step shows the time (the inputs of GRU-D, Che et al. 2018,
    arXiv:1606.01865, section 2.2, with recency 1 / (1 + steps since) for the learned decay).
    The states of the body are read where anything was measured: their mean, maximum and last.

    Guarantees:
        - The value that stands at a missing place cannot influence the token.
        - A patient without any measurement has a finite token.
    """

    def __init__(self, granularity: SeriesGranularity, width: int, dropout: float) -> None:
        super().__init__(granularity)
        num_channels = 3 * len(granularity.signals) + 1
        hidden, num_layers = granularity.hidden, granularity.num_layers
        self.body = (
            TemporalConvolution(num_channels, hidden, num_layers, dropout)
            if granularity.encoder == "tcn"
            else StackedGRU(num_channels, hidden, num_layers, dropout)
        )
        self.project = nn.Linear(3 * hidden, width)

    def forward(self, batch: GranularityBatch) -> Tensor:
        """The token, shape (B, 1, D)."""
        z_BTF, observed_BTF = self.grid(batch)
        seen_BT = observed_BTF.any(dim=2)
        states_BTH = self.body(channels_of(z_BTF, observed_BTF), seen_BT)
        read_BH = [pool(states_BTH, seen_BT) for pool in (masked_mean, masked_max, masked_last)]
        token_BD: Tensor = self.project(torch.cat(read_BH, dim=1))
        return token_BD.unsqueeze(1)


class SummaryEncoder(GridEncoder):
    """One token per patient: a linear map of what a clinician would write down of each signal.

    Its mean, lowest, highest, standard deviation and last value over the steps where it was
    measured, each in the basis of the study, and the part of the steps in which it was.

    Guarantees:
        - The value that stands at a missing place cannot influence the token.
        - A patient without any measurement has a finite token.
    """

    def __init__(self, granularity: SeriesGranularity, width: int, dropout: float) -> None:
        super().__init__(granularity)
        self.basis = granularity.basis
        num_signals = len(granularity.signals)
        num_columns = (5 * basis_width(self.basis) + 2) * num_signals
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(num_columns, width)

    def forward(self, batch: GranularityBatch) -> Tensor:
        """The token, shape (B, 1, D)."""
        z_BTF, observed_BTF = self.grid(batch)
        is_known_BF = observed_BTF.any(dim=1)
        columns = [
            in_basis(torch.where(is_known_BF, summary_BF, 0), is_known_BF, self.basis)
            for summary_BF in summaries_of(z_BTF, observed_BTF)
        ]
        coverage_BF = observed_BTF.to(z_BTF.dtype).mean(dim=1)
        columns += [is_known_BF.to(z_BTF.dtype), coverage_BF]
        token_BD: Tensor = self.project(self.dropout(torch.cat(columns, dim=1)))
        return token_BD.unsqueeze(1)


def summaries_of(z_BTF: Tensor, observed_BTF: Tensor) -> tuple[Tensor, ...]:
    """Mean, lowest, highest, standard deviation and last observed value, each (B, F).

    Of a signal that was never observed they are finite, and mean nothing.
    """
    num_BF = observed_BTF.sum(dim=1).clamp(min=1)
    mean_BF = torch.where(observed_BTF, z_BTF, 0).sum(dim=1) / num_BF
    apart_BTF = torch.where(observed_BTF, z_BTF - mean_BF.unsqueeze(1), 0)
    # No root of zero: its gradient is infinite, also where nothing depends on it.
    spread_BF = ((apart_BTF**2).sum(dim=1) / num_BF + 1e-6).sqrt()
    lowest_BF = torch.where(observed_BTF, z_BTF, _FAR).amin(dim=1)
    highest_BF = torch.where(observed_BTF, z_BTF, -_FAR).amax(dim=1)
    step_T1 = torch.arange(z_BTF.shape[1], device=z_BTF.device).unsqueeze(-1)
    last_B1F = torch.where(observed_BTF, step_T1, -1).amax(dim=1, keepdim=True).clamp(min=0)
    last_BF = z_BTF.gather(1, last_B1F).squeeze(1)
    return mean_BF, lowest_BF, highest_BF, spread_BF, last_BF


# Beyond any normalised value.
_FAR = 1e6


def channels_of(z_BTF: Tensor, observed_BTF: Tensor) -> Tensor:
    """What the body sees, shape (B, T, 3F + 1): last value, observed, recency; and the time.

    Before the first measurement of a signal, its value and recency are 0.
    """
    num_patients, num_steps, _ = z_BTF.shape
    step_T1 = torch.arange(num_steps, device=z_BTF.device).unsqueeze(-1)
    latest_BTF = torch.where(observed_BTF, step_T1, -1).cummax(dim=1).values
    is_known_BTF = latest_BTF >= 0
    carried_BTF = z_BTF.gather(1, latest_BTF.clamp(min=0))
    carried_BTF = torch.where(is_known_BTF, carried_BTF, torch.zeros_like(z_BTF))
    recency_BTF = is_known_BTF.to(z_BTF.dtype) / (1 + step_T1 - latest_BTF)
    time_BT1 = (2 * step_T1.to(z_BTF.dtype) / num_steps - 1).expand(num_patients, num_steps, 1)
    observed = observed_BTF.to(z_BTF.dtype)
    return torch.cat([carried_BTF, observed, recency_BTF, time_BT1], dim=2)


class TemporalConvolution(nn.Module):
    """Dilated residual convolutions over time, both ways: the whole window is known.

    Source: Bai et al. 2018, section 3, arXiv:1803.01271.
    Differs from the source in: not causal; group norm before, instead of weight norm after.
    """

    def __init__(self, num_channels: int, hidden: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Linear(num_channels, hidden)
        self.blocks = nn.Sequential(
            *(DilatedBlock(hidden, 2**layer, dropout) for layer in range(num_layers))
        )

    def forward(self, x_BTC: Tensor, seen_BT: Tensor) -> Tensor:
        """The state at each step, shape (B, T, H)."""
        states_BHT: Tensor = self.blocks(self.stem(x_BTC).transpose(1, 2))
        return states_BHT.transpose(1, 2)


class DilatedBlock(nn.Module):
    """Two convolutions beside a residual path, which keeps the level that the norms take out."""

    def __init__(self, hidden: int, dilation: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            convolution = nn.Conv1d(hidden, hidden, 3, padding=dilation, dilation=dilation)
            layers += [group_norm(hidden), nn.GELU(), nn.Dropout(dropout), convolution]
        self.layers = nn.Sequential(*layers)

    def forward(self, x_BHT: Tensor) -> Tensor:
        """The states after the block, shape (B, H, T)."""
        result_BHT: Tensor = x_BHT + self.layers(x_BHT)
        return result_BHT


class StackedGRU(nn.Module):
    """Recurrent layers that move on at the steps where anything was measured."""

    def __init__(self, num_channels: int, hidden: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        widths = [num_channels] + [hidden] * (num_layers - 1)
        self.layers = nn.ModuleList(GRULayer(width, hidden) for width in widths)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTC: Tensor, seen_BT: Tensor) -> Tensor:
        """The state after each step, shape (B, T, H)."""
        for layer in self.layers:
            x_BTC = self.dropout(layer(x_BTC, seen_BT))
        return x_BTC
