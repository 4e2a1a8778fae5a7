"""Augmentation: what it changes and what it must not, patient by patient and under vmap."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from common.augmentation import ImageAugmentation, SeriesAugmentation
from common.models.augment import vary_images, vary_series
from common.models.encoders import build_encoder
from tests.unit.encoder_cases import granularity_of, patients_of

NUM_PATIENTS = 64
IMAGES = {"flip": 0.5, "shift": 0.3, "contrast": 0.4, "noise": 0.1}
SERIES = {"noise": 0.5, "drop": 0.3}


def _images(num_images: int = 1) -> Tensor:
    """The same images for every patient, so that only augmentation tells them apart."""
    generator = torch.Generator().manual_seed(0)
    images_NHW = 0.3 + 0.4 * torch.rand(num_images, 10, 12, generator=generator)
    return images_NHW.expand(NUM_PATIENTS, num_images, 10, 12)


def _series() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    observed_TF = torch.rand(20, 3, generator=generator) < 0.5
    z_TF = torch.where(observed_TF, torch.randn(20, 3, generator=generator), 0.0)
    return z_TF.expand(NUM_PATIENTS, 20, 3), observed_TF.expand(NUM_PATIENTS, 20, 3)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_without_a_plan_nothing_changes_and_nothing_is_drawn() -> None:
    before = torch.get_rng_state()
    assert torch.equal(vary_images(_images(), ImageAugmentation()), _images())
    z_BTF, observed_BTF = vary_series(*_series(), SeriesAugmentation())
    assert torch.equal(z_BTF, _series()[0])
    assert torch.equal(observed_BTF, _series()[1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", IMAGES)
def test_every_variation_of_images_differs_between_patients(name: str) -> None:
    varied = vary_images(_images(), ImageAugmentation(**{name: IMAGES[name]}))
    assert len({tuple(image.flatten().tolist()) for image in varied}) > 1
    assert varied.min() >= 0
    assert varied.max() <= 1
    assert varied.shape == _images().shape


def test_a_flip_is_a_mirror_image_or_nothing() -> None:
    image = _images()
    varied = vary_images(image, ImageAugmentation(flip=0.25))
    is_same = (varied == image).flatten(1).all(dim=1)
    is_mirrored = (varied == image.flip(-1)).flatten(1).all(dim=1)
    assert (is_same ^ is_mirrored).all()
    assert 5 <= is_mirrored.sum() <= 28  # 16 expected, 3.5 standard deviations


def test_a_shift_moves_whole_pixels_up_to_its_reach_and_repeats_the_border() -> None:
    # .2 of 10 rows and of 12 columns: up to two pixels each way.
    image = _images()[0, 0]
    padded = torch.nn.functional.pad(image[None, None], (2, 2, 2, 2), mode="replicate")[0, 0]
    possible = {
        (row, column): padded[row : row + 10, column : column + 12]
        for row in range(5)
        for column in range(5)
    }
    seen = set()
    for varied in vary_images(_images(), ImageAugmentation(shift=0.2)):
        found = [place for place, view in possible.items() if torch.equal(varied[0], view)]
        assert len(found) == 1
        seen.update(found)
    assert {row for row, _ in seen} == set(range(5))
    assert {column for _, column in seen} == set(range(5))


def test_contrast_keeps_the_mean_and_scales_the_spread() -> None:
    varied = vary_images(_images(), ImageAugmentation(contrast=0.4))[:, 0]
    image = _images()[:, 0]
    torch.testing.assert_close(varied.mean(dim=(1, 2)), image.mean(dim=(1, 2)))
    ratio_B = varied.std(dim=(1, 2)) / image.std(dim=(1, 2))
    assert 0.6 <= ratio_B.min() < 0.7
    assert 1.3 < ratio_B.max() <= 1.4 + 1e-6


def test_images_of_one_patient_are_moved_alike() -> None:
    same = _images(1).expand(-1, 3, -1, -1)
    varied = vary_images(same, ImageAugmentation(flip=0.5, shift=0.3, contrast=0.4))
    assert torch.equal(varied[:, 0], varied[:, 1])
    assert torch.equal(varied[:, 0], varied[:, 2])


def test_noise_of_series_has_its_standard_deviation_and_respects_the_mask() -> None:
    z_BTF, observed_BTF = _series()
    varied_BTF, mask_BTF = vary_series(z_BTF, observed_BTF, SeriesAugmentation(noise=0.5))
    assert torch.equal(mask_BTF, observed_BTF)
    assert (varied_BTF[~observed_BTF] == 0).all()
    added = (varied_BTF - z_BTF)[observed_BTF]
    # About 2,000 draws: the estimate has a relative standard error of 1.6 %.
    assert added.std().item() == pytest.approx(0.5, rel=0.06)
    assert all(not torch.equal(first, second) for first, second in pairwise(varied_BTF))


def test_dropped_steps_are_hidden_whole_and_the_others_stay() -> None:
    z_BTF, observed_BTF = _series()
    varied_BTF, mask_BTF = vary_series(z_BTF, observed_BTF, SeriesAugmentation(drop=0.3))
    assert not (mask_BTF & ~observed_BTF).any()
    kept_BT1 = mask_BTF.any(dim=2, keepdim=True)
    assert torch.equal(mask_BTF, observed_BTF & kept_BT1)
    assert torch.equal(varied_BTF, torch.where(mask_BTF, z_BTF, 0.0))
    seen_BT = observed_BTF.any(dim=2)
    # About 1,100 steps: .3 ± .014.
    hidden = 1 - kept_BT1[..., 0][seen_BT].double().mean().item()
    assert hidden == pytest.approx(0.3, abs=0.06)


ENCODERS = [
    ("images", "cnn", IMAGES),
    ("images", "residual_cnn", IMAGES),
    ("series", "tcn", SERIES),
    ("series", "gru", SERIES),
]


@pytest.mark.parametrize(("kind", "option", "plan"), ENCODERS)
def test_an_encoder_varies_patients_in_training_alone(
    kind: str, option: str, plan: dict[str, float]
) -> None:
    granularity = granularity_of(kind, encoder=option, augment=plan)
    part = patients_of(granularity, 8)
    one = int(part["present_B"].nonzero()[0])
    alike = {name: value[one : one + 1].expand(8, *value.shape[1:]) for name, value in part.items()}
    encoder = build_encoder(granularity, 4, 0.0)
    in_training, in_evaluation = encoder.train()(alike), encoder.eval()(alike)
    assert len({tuple(token.flatten().tolist()) for token in in_training}) > 1
    torch.testing.assert_close(in_evaluation, in_evaluation[:1].expand(8, 1, 4))
    assert torch.equal(encoder(alike), in_evaluation)


@pytest.mark.parametrize(("kind", "option", "plan"), ENCODERS)
def test_each_patient_is_varied_differently_under_vmap(
    kind: str, option: str, plan: dict[str, float]
) -> None:
    granularity = granularity_of(kind, encoder=option, augment=plan)
    part = patients_of(granularity, 8)
    one = int(part["present_B"].nonzero()[0])
    alike = {name: value[one : one + 1].expand(8, *value.shape[1:]) for name, value in part.items()}
    encoder = build_encoder(granularity, 4, 0.0).train()
    parameters = {name: p.detach() for name, p in encoder.named_parameters()}

    def loss(parameters: dict[str, Tensor], patient: dict[str, Tensor]) -> Tensor:
        batch = {name: value.unsqueeze(0) for name, value in patient.items()}
        token: Tensor = torch.func.functional_call(encoder, parameters, (batch,))
        return token.square().sum()

    gradient = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0), randomness="different")
    found = gradient(parameters, alike)["project.weight"]
    assert found.isfinite().all()
    assert len({tuple(row.flatten().tolist()) for row in found}) > 1
