"""The piecewise linear basis, and the summaries of a series."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.models.encoders import build_encoder
from common.models.numeric import KNOTS, basis_width, in_basis
from common.models.series import summaries_of
from tests.unit.encoder_cases import granularity_of


def test_a_value_in_hinges_by_hand() -> None:
    z_BF = torch.tensor([[0.75], [-0.75]])
    seen_BF = torch.ones(2, 1, dtype=torch.bool)
    # Knots -2, -1, -.5 (what is below), 0, .5, 1, 2 (what is above).
    expected = torch.tensor(
        [
            [0.75, 0.0, 0.0, 0.0, 0.75, 0.25, 0.0, 0.0],
            [-0.75, 0.0, 0.0, -0.25, 0.0, 0.0, 0.0, 0.0],
        ]
    )
    assert torch.equal(in_basis(z_BF, seen_BF, "hinges"), expected)


def test_the_linear_basis_is_the_value_itself() -> None:
    z_BF = torch.randn(3, 2)
    assert in_basis(z_BF, torch.ones_like(z_BF, dtype=torch.bool), "linear") is z_BF


def test_without_flags_a_missing_number_is_the_middle_of_its_range() -> None:
    granularity = granularity_of("tabular", flags_missing=False)
    encoder = build_encoder(granularity, 4, 0.0)
    assert encoder.numbers.in_features == len(granularity.numeric)
    batch = {
        "present_B": torch.ones(2, dtype=torch.bool),
        "numeric_BF": torch.tensor([[5.0, 5.0], [9.0, 9.0]]),
        "observed_BF": torch.tensor([[True, True], [False, False]]),
        "codes_BK": torch.ones(2, 2, dtype=torch.long),
    }
    middle_BTD, missing_BTD = encoder(batch).split(1)
    assert torch.equal(middle_BTD, missing_BTD)


def test_what_is_not_observed_is_zero_in_every_function() -> None:
    # Standardised values of missing places are 0, which lies below the knots of the upper half.
    z_BF = torch.zeros(1, 3)
    shown = in_basis(z_BF, torch.zeros(1, 3, dtype=torch.bool), "hinges")
    assert shown.shape == (1, 3 * basis_width("hinges"))
    assert not shown.any()


@given(st.lists(st.floats(-4, 4, width=32), min_size=len(KNOTS) + 2, max_size=len(KNOTS) + 2))
def test_hinges_can_draw_any_line_with_bends_at_the_knots(heights: list[float]) -> None:
    places = np.array([-3.0, *KNOTS, 3.0])
    z_BF = torch.tensor(np.linspace(-3, 3, 61))[:, None]
    design = in_basis(z_BF, torch.ones_like(z_BF, dtype=torch.bool), "hinges").numpy()
    design = np.hstack([design, np.ones((len(design), 1))])
    line_B = np.interp(z_BF[:, 0].numpy(), places, heights)
    solution, *_ = np.linalg.lstsq(design, line_B, rcond=None)
    assert design @ solution == pytest.approx(line_B, abs=1e-9)


def test_summaries_of_a_series_by_hand() -> None:
    z_BTF = torch.tensor([[[1.0], [99.0], [3.0], [2.0], [99.0]]])
    seen_BTF = torch.tensor([[[True], [False], [True], [True], [False]]])
    mean, low, high, spread, last = (part.item() for part in summaries_of(z_BTF, seen_BTF))
    # 1, 3, 2: mean 2, variance 2/3.
    assert (mean, low, high, last) == (2.0, 1.0, 3.0, 2.0)
    assert spread == pytest.approx((2 / 3 + 1e-6) ** 0.5)


def test_the_spread_of_a_constant_series_has_a_finite_gradient() -> None:
    z_BTF = torch.ones(1, 4, 1, requires_grad=True)
    summaries_of(z_BTF, torch.ones(1, 4, 1, dtype=torch.bool))[3].sum().backward()  # type: ignore[no-untyped-call]
    assert z_BTF.grad is not None
    assert torch.isfinite(z_BTF.grad).all()
