"""Options of images: contrast, denoising and size, each as a law."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray

from client.sources.frames import Frame
from client.sources.xray import denoised, fitted, model_image, with_contrast
from tests.unit.image_builders import (
    images_granularity,
)

unit_images = arrays_of.arrays(
    np.float32,
    arrays_of.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.floats(0, 1, width=16),
)


def _frame(pixels_HW: NDArray[Any], low: float = 0.0, high: float = 1.0) -> Frame:
    return Frame(pixels_HW=pixels_HW.astype(np.float32), low=low, high=high)


class TestOptions:
    def test_none_shows_the_range_of_the_header(self) -> None:
        unit_HW = with_contrast(_frame(np.array([[-5, 0], [5, 20]]), 0, 10), "none")
        assert unit_HW.tolist() == [[0, 0], [0.5, 1]]

    def test_stretch_shows_the_first_to_the_ninety_ninth_percent(self) -> None:
        # The percentiles of 0…100 are 1 and 99.
        pixels_HW = np.arange(101).reshape(1, 101)
        unit_HW = with_contrast(_frame(pixels_HW), "stretch")
        np.testing.assert_allclose(unit_HW, np.clip((pixels_HW - 1) / 98, 0, 1), atol=1e-6)

    def test_equalise_gives_the_part_that_is_no_brighter(self) -> None:
        # 4 pixels, one the darkest: (1-1)/3, (3-1)/3 twice, (4-1)/3
        unit_HW = with_contrast(_frame(np.array([[7, 9], [9, 1000]])), "equalise")
        np.testing.assert_allclose(unit_HW, [[0, 2 / 3], [2 / 3, 1]], atol=1e-6)

    @given(
        unit_images, st.sampled_from(["stretch", "equalise"]), st.integers(1, 9), st.integers(-9, 9)
    )
    def test_stretch_and_equalise_know_no_unit(
        self, unit_HW: NDArray[np.float32], contrast: str, slope: int, intercept: int
    ) -> None:
        whole_HW = np.rint(unit_HW * 1000)
        granularity = images_granularity(contrast=contrast)
        other = model_image(_frame(slope * whole_HW + intercept), granularity)
        same = model_image(_frame(whole_HW), granularity)
        np.testing.assert_allclose(other.astype(int), same.astype(int), atol=1)

    def test_stretch_of_a_few_bright_pixels_falls_back_to_the_whole_range(self) -> None:
        pixels_HW = np.zeros((20, 20))
        pixels_HW[0, 0] = 8
        unit_HW = with_contrast(_frame(pixels_HW), "stretch")
        assert (unit_HW[0, 0], unit_HW.sum()) == (1, 1)

    @pytest.mark.parametrize("contrast", ["stretch", "equalise", "none"])
    def test_an_image_of_one_value_is_black(self, contrast: str) -> None:
        image_HW = model_image(
            _frame(np.full((5, 5), 3.0), low=3, high=3), images_granularity(contrast=contrast)
        )
        assert not image_HW.any()

    @given(unit_images)
    def test_opening_never_brightens_and_closing_never_darkens(
        self, unit_HW: NDArray[np.float32]
    ) -> None:
        assert (denoised(unit_HW, "opening") <= unit_HW).all()
        assert (denoised(unit_HW, "closing") >= unit_HW).all()

    @pytest.mark.parametrize(
        ("denoise", "speck", "is_removed"),
        [
            ("opening", 1.0, True),
            ("opening", 0.0, False),
            ("closing", 0.0, True),
            ("closing", 1.0, False),
            ("median", 1.0, True),
            ("median", 0.0, True),
            ("none", 1.0, False),
        ],
    )
    def test_a_speck_of_one_pixel(self, denoise: str, speck: float, is_removed: bool) -> None:
        unit_HW = np.full((7, 7), 0.5, dtype=np.float32)
        unit_HW[3, 3] = speck
        assert bool((denoised(unit_HW, denoise) == 0.5).all()) == is_removed

    def test_the_aspect_is_kept_and_the_rest_is_black(self) -> None:
        for shape, inside in (((4, 8), np.s_[2:6, :]), ((16, 8), np.s_[:, 2:6])):
            fitted_HW = fitted(np.ones(shape, dtype=np.float32), (8, 8))
            expected_HW = np.zeros((8, 8))
            expected_HW[inside] = 1
            np.testing.assert_allclose(fitted_HW, expected_HW, atol=1e-6)

    def test_a_smaller_image_is_an_average_and_not_a_sample(self) -> None:
        stripes_HW = np.tile(np.array([0, 1], dtype=np.float32), (64, 32))
        assert np.abs(fitted(stripes_HW, (8, 8)) - 0.5).max() < 0.05

    @given(unit_images, st.integers(4, 20), st.integers(4, 20))
    def test_fitting_never_leaves_the_range_of_the_values(
        self, unit_HW: NDArray[np.float32], height: int, width: int
    ) -> None:
        fitted_HW = fitted(unit_HW, (height, width))
        assert fitted_HW.shape == (height, width)
        assert fitted_HW.min() >= 0
        assert fitted_HW.max() <= unit_HW.max() + 1e-6

    def test_an_extreme_aspect_fits(self) -> None:
        assert fitted(np.ones((1, 5000), dtype=np.float32), (8, 8)).sum() == pytest.approx(8)
