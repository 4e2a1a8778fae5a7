"""Recurrent layers built from Linear layers, as torch's own have no per-sample gradients.

Letters of shapes: B patients, T steps, I input width, H state width.
"""

import torch
from torch import Tensor, nn


class GRULayer(nn.Module):
    """A gated recurrent unit over the steps that count; others leave the state as it is.

    Source: Cho et al. 2014, section 2.3, arXiv:1406.1078, with the reset gate after the product, as
    in `torch.nn.GRU`, whose results it has for equal weights.
    """

    def __init__(self, input_width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.input = nn.Linear(input_width, 3 * hidden)
        self.state = nn.Linear(hidden, 3 * hidden)

    def forward(self, x_BTI: Tensor, counts_BT: Tensor) -> Tensor:
        """The state after each step, shape (B, T, H), starting from zero."""
        state_BH = x_BTI.new_zeros(x_BTI.shape[0], self.hidden)
        states = []
        # One product for all steps, and `unbind`, whose backward is one stack and not T additions.
        inputs = self.input(x_BTI).unbind(dim=1)
        for input_BG, counts_B1 in zip(inputs, counts_BT.unsqueeze(-1).unbind(dim=1), strict=True):
            reset_in, update_in, new_in = input_BG.chunk(3, dim=-1)
            reset_state, update_state, new_state = self.state(state_BH).chunk(3, dim=-1)
            reset_BH = (reset_in + reset_state).sigmoid()
            update_BH = (update_in + update_state).sigmoid()
            new_BH = (new_in + reset_BH * new_state).tanh()
            after_BH = new_BH + update_BH * (state_BH - new_BH)
            state_BH = torch.where(counts_B1, after_BH, state_BH)
            states.append(state_BH)
        return torch.stack(states, dim=1)


class LSTMLayer(nn.Module):
    """A long short-term memory over the steps that count; others leave state and cell as they are.

    The bias of the forget gate starts at 1, so that the cell keeps what it holds at first
    (Jozefowicz et al. 2015, section 2.2). For equal weights it has the results of `torch.nn.LSTM`.

    Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.
    """

    def __init__(self, input_width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.input = nn.Linear(input_width, 4 * hidden)
        self.state = nn.Linear(hidden, 4 * hidden, bias=False)  # a second bias would add nothing
        nn.init.ones_(self.input.bias[hidden : 2 * hidden])

    def forward(self, x_BTI: Tensor, counts_BT: Tensor) -> Tensor:
        """The state after each step, shape (B, T, H), starting from zero."""
        state_BH = cell_BH = x_BTI.new_zeros(x_BTI.shape[0], self.hidden)
        states = []
        inputs = self.input(x_BTI).unbind(dim=1)
        for input_BG, counts_B1 in zip(inputs, counts_BT.unsqueeze(-1).unbind(dim=1), strict=True):
            in_BH, forget_BH, new_BH, out_BH = (input_BG + self.state(state_BH)).chunk(4, dim=-1)
            after_BH = forget_BH.sigmoid() * cell_BH + in_BH.sigmoid() * new_BH.tanh()
            cell_BH = torch.where(counts_B1, after_BH, cell_BH)
            state_BH = torch.where(counts_B1, out_BH.sigmoid() * after_BH.tanh(), state_BH)
            states.append(state_BH)
        return torch.stack(states, dim=1)
