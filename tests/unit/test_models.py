"""The patient model: what cannot influence what, on every fusion and every set of granularities."""

from functools import cache
from itertools import chain, combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.models.contract import Batch
from common.models.encoders import build_encoder
from common.models.fusion import build_fusion
from common.models.patient_model import (
    PatientModel,
    state_of,
)
from common.study import Study
from common.study_file import without_granularity
from tests.unit.builders import MULTICLASS, batch_of, study_of
from tests.unit.model_cases import FUSIONS, GRANULARITIES, copy_of, study_with

SUBSETS = list(chain.from_iterable(combinations(GRANULARITIES, n) for n in (1, 2, 3)))
GARBAGE = [float("nan"), float("inf"), float("-inf"), 3e38, 0.5]


@cache
def _model(fusion: str) -> tuple[Study, PatientModel]:
    """A model to evaluate, and nothing else: it is shared."""
    return study_with(fusion), PatientModel(study_with(fusion)).eval()


def _with_garbage(batch: Batch, value: float) -> Batch:
    """The batch with `value` and impossible codes wherever a granularity is absent."""
    spoilt = copy_of(batch)
    for part in spoilt.values():
        absent_B = ~part["present_B"]
        part["numeric_BF"][absent_B] = value
        part["observed_BF"][absent_B] = True
        part["codes_BK"][absent_B] = 10**6
    return spoilt


@pytest.fixture(params=FUSIONS)
def study(request: pytest.FixtureRequest) -> Study:
    return study_with(request.param)


@given(st.integers(0, 2**32), st.sampled_from(FUSIONS), st.sampled_from(GARBAGE))
def test_absent_granularity_cannot_influence_the_output(
    seed: int, fusion: str, value: float
) -> None:
    study, model = _model(fusion)
    batch = batch_of(study, 6, seed)
    assert torch.equal(model(batch), model(_with_garbage(batch, value)))


@given(st.integers(0, 2**32), st.sampled_from(FUSIONS), st.sampled_from(GARBAGE))
def test_a_token_that_is_not_present_cannot_influence_the_fusion(
    seed: int, fusion: str, value: float
) -> None:
    study, _ = _model(fusion)
    generator = torch.Generator().manual_seed(seed)
    tokens_BTD = torch.randn(5, 3, 4, generator=generator)
    present_BT = torch.rand(5, 3, generator=generator) < 0.5
    fuse = build_fusion(study.model, token_owners=GRANULARITIES).eval()
    spoilt_BTD = torch.where(present_BT.unsqueeze(-1), tokens_BTD, value)
    assert torch.equal(fuse(tokens_BTD, present_BT), fuse(spoilt_BTD, present_BT))


@pytest.mark.parametrize("value", GARBAGE)
def test_absent_granularity_cannot_influence_the_gradient(study: Study, value: float) -> None:
    batch = batch_of(study, 6)
    gradients = []
    for some in (batch, _with_garbage(batch, value)):
        model = PatientModel(study).eval()
        model(some).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for clean, spoilt in zip(*gradients, strict=True):
        assert torch.equal(clean, spoilt)


def test_absence_itself_is_seen(study: Study) -> None:
    model = PatientModel(study).eval()
    batch = batch_of(study, 20)
    without = copy_of(batch)
    without["labs"]["present_B"][:] = False
    assert (model(batch) != model(without))[batch["labs"]["present_B"]].any()


@given(st.integers(0, 2**32), st.sampled_from(FUSIONS), st.sampled_from(GARBAGE))
def test_what_stands_at_a_missing_place_cannot_influence_the_output(
    seed: int, fusion: str, value: float
) -> None:
    study, model = _model(fusion)
    batch = batch_of(study, 6, seed)
    spoilt = copy_of(batch)
    for part in spoilt.values():
        part["numeric_BF"][~part["observed_BF"]] = value
    assert torch.equal(model(batch), model(spoilt))


def test_a_missing_value_differs_from_an_average_one() -> None:
    study = study_with("attention")
    model = PatientModel(study).eval()
    batch = copy_of(batch_of(study, 1))
    batch["vitals"] |= {"present_B": torch.tensor([True]), "numeric_BF": torch.tensor([[120.0]])}
    outputs = []
    for is_observed in (True, False):
        batch["vitals"]["observed_BF"] = torch.tensor([[is_observed]])
        outputs.append(model(batch))
    assert not torch.equal(*outputs)


@given(st.integers(0, 2**32), st.sampled_from(FUSIONS))
def test_a_row_depends_on_its_own_patient_alone(seed: int, fusion: str) -> None:
    study = study_with(fusion)
    model = PatientModel(study).eval()
    batch, others = batch_of(study, 5, seed), copy_of(batch_of(study, 5, seed + 1))
    for name, part in others.items():
        for key, value in part.items():
            value[2] = batch[name][key][2]
    assert torch.equal(model(batch)[2], model(others)[2])


@given(st.integers(0, 2**32), st.sampled_from(FUSIONS))
def test_the_order_of_patients_is_the_order_of_rows(seed: int, fusion: str) -> None:
    study, model = _model(fusion)
    batch = batch_of(study, 7, seed)
    order_B = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    shuffled = {n: {k: v[order_B] for k, v in part.items()} for n, part in batch.items()}
    torch.testing.assert_close(model(shuffled), model(batch)[order_B], rtol=1e-6, atol=1e-6)


def test_a_patient_without_any_granularity_has_a_finite_output(study: Study) -> None:
    model = PatientModel(study).eval()
    batch = copy_of(batch_of(study, 4))
    for part in batch.values():
        part["present_B"][:2] = False
    output = model(_with_garbage(batch, float("nan")))
    assert output.isfinite().all()
    assert torch.equal(output[0], output[1])


def test_tokens_of_absent_patients_are_finite(study: Study) -> None:
    batch = _with_garbage(batch_of(study, 8), float("nan"))
    for name, granularity in study.granularities.items():
        tokens_BTD = build_encoder(granularity, study.model.width, study.model.dropout)(batch[name])
        assert tokens_BTD.shape == (8, 1, study.model.width)
        assert tokens_BTD.isfinite().all()


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_every_set_of_granularities_makes_a_model(subset: tuple[str, ...], fusion: str) -> None:
    study = study_with(fusion)
    for name in set(GRANULARITIES) - set(subset):
        study = without_granularity(study, name)
    model = PatientModel(study).eval()
    batch = batch_of(study, 4)
    tokens_BTD, present_BT = model.tokens(batch)
    assert tokens_BTD.shape == (4, len(subset), 4)
    assert torch.equal(present_BT[:, 0], batch[next(iter(study.granularities))]["present_B"])
    assert model(batch).shape == (4, 1)


def test_one_logit_per_class_of_a_multiclass_outcome(study: Study) -> None:
    multiclass = study_of(outcomes=MULTICLASS, model={"fusion": study.model.fusion})
    assert PatientModel(multiclass).eval()(batch_of(multiclass, 4)).shape == (4, 3)


def test_no_patients_have_no_rows(study: Study) -> None:
    assert PatientModel(study).eval()(batch_of(study, 0)).shape == (0, 1)


def test_equal_studies_have_equal_weights_and_global_randomness_stays(study: Study) -> None:
    torch.manual_seed(1)
    first = state_of(PatientModel(study))
    assert torch.random.initial_seed() == 1
    after_one = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after_one)
    assert state_of(PatientModel(study)) == first


def test_another_seed_gives_other_weights() -> None:
    first, second = (state_of(PatientModel(study_of(training={"seed": n}))) for n in (0, 1))
    assert first.manifest == second.manifest
    assert first != second
