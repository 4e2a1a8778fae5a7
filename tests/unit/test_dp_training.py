"""Private training: one-by-one loops as oracle, neighbouring cohorts, and every step with noise.

Letters of shapes: B patients, P trainable parameters.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from client import dp_training
from client.dp_training import train_privately
from client.physical_batch import PhysicalBatch
from client.training import Patients, Pull
from common.errors import Refusal, RefusalCode
from common.models.patient_model import PatientModel, state_of
from common.privacy.mechanisms import NoiseSource, poisson_sample
from common.privacy.plan import PrivacyPlan
from common.study import Study
from common.study_file import study_from_toml
from tests.unit.builders import MORE_OUTCOMES, labels_of, patients_of, study_of
from tests.unit.private_builders import in_float64, plan_with, values_of, watched

CPU = torch.device("cpu")


def privately_trained(
    study: Study, patients: Patients, plan: PrivacyPlan, *, noise: int = 1, **options: Any
) -> PatientModel:
    model = PatientModel(study)
    source = NoiseSource.seeded(noise)
    options = {"seed": 1, **options}
    assert train_privately(model, patients, study, plan, source=source, **options) in range(100)
    return model


def clipped_sum_one_by_one(
    model: PatientModel, patients: Patients, index_B: NDArray[np.int64], max_grad_norm: float
) -> NDArray[np.float64]:
    """The oracle: one backward pass for each patient, alone in a batch."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    sum_P = np.zeros(sum(p.numel() for p in parameters))
    for index in index_B:
        inputs, outcomes = patients.batch(torch.tensor([index]))
        loss = model.loss_per_patient(model(inputs), outcomes).sum()
        grads = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        flat_P = torch.cat([g.flatten() for g in grads]).double().numpy()
        sum_P += flat_P * min(1.0, max_grad_norm / max(float(np.linalg.norm(flat_P)), 1e-300))
    return sum_P


def torchs_optimizer(model: PatientModel, study: Study) -> torch.optim.Optimizer:
    plan = study.training
    groups = [
        {"params": [p], "weight_decay": 0.0 if name in model.undecayed else plan.weight_decay}
        for name, p in model.named_parameters()
        if p.requires_grad
    ]
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=plan.learning_rate, momentum=plan.momentum)
    kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=plan.learning_rate)


def trained_one_by_one(
    study: Study, patients: Patients, plan: PrivacyPlan, pull: Pull | None, noise: int
) -> PatientModel:
    """DP-SGD again: a loop over patients, torch's own optimizer, noise from the same stream."""
    model = PatientModel(study).double()
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torchs_optimizer(model, study)
    if pull is None and study.strategy.name == "fedprox":
        origin = [p.detach().clone() for p in parameters]
        pull = Pull(origin=origin, strength=study.strategy.proximal_mu)
    source = NoiseSource.seeded(noise)
    for _ in range(plan.steps_per_round):
        index_B = poisson_sample(source, len(patients), plan.sample_rate)
        source.uniform(2)  # the secret of dropout
        sum_P = clipped_sum_one_by_one(model, patients, index_B, plan.max_grad_norm)
        sum_P += plan.noise_multiplier * plan.max_grad_norm * source.normal(len(sum_P))
        flat_P = torch.from_numpy(sum_P / plan.expected_batch_size)
        for place, (parameter, piece) in enumerate(
            zip(parameters, flat_P.split([p.numel() for p in parameters]), strict=True)
        ):
            parameter.grad = piece.view_as(parameter).clone()
            if pull is not None:
                parameter.grad += pull.strength * (parameter.detach() - pull.origin[place])
        optimizer.step()
    return model


def difference(one: PatientModel, other: PatientModel) -> float:
    a, b = values_of(one), values_of(other)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "everybody": {"plan": {"sample_rate": 1.0, "expected_batch_size": 40.0}},
    "momentum and decay": {"training": {"momentum": 0.9, "weight_decay": 0.1}},
    "fedprox": {"strategy": {"name": "fedprox", "proximal_mu": 0.7}},
    "frozen": {"model": {"frozen": ["labs"]}},
    "more outcomes": {"outcomes": MORE_OUTCOMES},
    "nothing clipped": {"plan": {"max_grad_norm": 1e6, "noise_multiplier": 1e-16}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_without_much_noise_the_update_is_that_of_a_loop_over_patients(name: str) -> None:
    sections = dict(SETTINGS[name])
    fields = {"noise_multiplier": 1e-10, **sections.pop("plan", {})}
    training = {"learning_rate": 0.1, **sections.pop("training", {})}
    study, plan = study_of(training=training, **sections), plan_with(**fields)
    patients = in_float64(patients_of(study, 40))
    ours = PatientModel(study).double()
    train_privately(ours, patients, study, plan, source=NoiseSource.seeded(3), seed=1)
    theirs = trained_one_by_one(study, patients, plan, None, 3)
    start_P = values_of(PatientModel(study))
    update_P, expected_P = values_of(ours) - start_P, values_of(theirs) - start_P
    assert np.linalg.norm(update_P - expected_P) < 1e-9 * np.linalg.norm(expected_P)
    assert np.linalg.norm(expected_P) > 1e-4


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_with_noise_adaptive_steps_are_those_of_torch_on_the_noised_gradient(
    optimizer: str,
) -> None:
    study = study_of(training={"optimizer": optimizer, "weight_decay": 0.1})
    patients, plan = in_float64(patients_of(study, 40)), plan_with()
    ours = PatientModel(study).double()
    train_privately(ours, patients, study, plan, source=NoiseSource.seeded(3), seed=1)
    # Released noise is rounded to 2^-24 of its standard deviation.
    assert difference(ours, trained_one_by_one(study, patients, plan, None, 3)) < 1e-6


def test_a_pull_of_its_own_replaces_that_of_the_study() -> None:
    study = study_of(strategy={"name": "fedprox", "proximal_mu": 0.1})
    patients, plan = in_float64(patients_of(study, 40)), plan_with(noise_multiplier=1e-10)
    ours = PatientModel(study).double()
    origin = [torch.ones_like(p) for p in ours.parameters()]
    pull = Pull(origin=origin, strength=2.0)
    train_privately(ours, patients, study, plan, source=NoiseSource.seeded(3), seed=1, pull=pull)
    assert difference(ours, trained_one_by_one(study, patients, plan, pull, 3)) < 1e-9
    assert difference(ours, trained_one_by_one(study, patients, plan, None, 3)) > 1e-2


# With all parameters zero, each of three classes has probability 1/3, and only the biases of the
# head have gradients.
BY_HAND = """
[study]
name = "by-hand"
[outcomes.event]
column = "event"
kind = "multiclass"
classes = ["no", "yes", "never"]
[granularities.labs]
kind = "tabular"
hidden = []
[granularities.labs.features]
x = { kind = "numeric", unit = "1", range = [-1, 1] }
[model]
width = 2
fusion = "concat"
[training]
rounds = 1
local_steps = 1
batch_size = 4
learning_rate = 0.5
"""


def one_patient(label: int) -> Patients:
    yes_B = torch.ones(1, dtype=torch.bool)
    labs = {
        "numeric_BF": torch.tensor([[0.2]]),
        "observed_BF": yes_B.unsqueeze(1),
        "codes_BK": torch.zeros(1, 0, dtype=torch.int64),
        "present_B": yes_B,
    }
    event = {"known_B": yes_B, "label_B": torch.tensor([label])}
    return Patients(inputs={"labs": labs}, outcomes={"event": event}, device=CPU, num_patients=1)


def test_one_step_on_one_patient_worked_by_hand() -> None:
    study = study_from_toml(BY_HAND)
    model = PatientModel(study)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    plan = plan_with(
        noise_multiplier=1e-9,
        max_grad_norm=0.5,
        sample_rate=1.0,
        expected_batch_size=4.0,
        steps_per_round=1,
    )
    source = NoiseSource.seeded(1)
    train_privately(model, one_patient(1), study, plan, source=source, seed=1)
    # p = 1/3 for each class; gradient (1/3, -2/3, 1/3), norm sqrt(6)/3 = .8164966, so it is
    # clipped to half of (1, -2, 1)/sqrt(6) = (.2041241, -.4082483, .2041241). A step of SGD is
    # -.5 times a fourth of it: the expected batch size of 4 is the divisor, not the one patient.
    bias = model.heads["event"].linear.bias
    assert bias.tolist() == pytest.approx([-0.0255155, 0.0510310, -0.0255155], abs=1e-7)
    assert model.heads["event"].linear.weight.abs().max() < 1e-8


def noise_only(study: Study, plan: PrivacyPlan, draws: Callable[[NoiseSource], object]) -> Any:
    """What T steps of noise alone do to a model under SGD, worked out from the stream."""
    values_P = values_of(PatientModel(study))
    source = NoiseSource.seeded(1)
    for _ in range(plan.steps_per_round):
        draws(source)
        source.uniform(2)
        scale = plan.noise_multiplier * plan.max_grad_norm / plan.expected_batch_size
        values_P = values_P - study.training.learning_rate * scale * source.normal(len(values_P))
    return values_P


def test_an_empty_sample_is_a_step_of_noise_alone() -> None:
    study, plan = study_of(), plan_with(sample_rate=1e-12, steps_per_round=20)
    patients = patients_of(study, 40)
    model = privately_trained(study, patients, plan)
    expected_P = noise_only(study, plan, lambda source: source.uniform(40))
    assert np.abs(values_of(model) - expected_P).max() < 1e-6


def test_without_patients_all_steps_are_steps_of_noise_alone() -> None:
    study, plan = study_of(), plan_with(steps_per_round=20)
    nobody = patients_of(study, 0)
    model = PatientModel(study)
    source = NoiseSource.seeded(1)
    assert train_privately(model, nobody, study, plan, source=source, seed=1) == 20
    expected_P = noise_only(study, plan, lambda source: None)
    assert np.abs(values_of(model) - expected_P).max() < 1e-6


@pytest.mark.parametrize("num_patients", [0, 1, 9, 10, 40])
@pytest.mark.parametrize("rate", [1e-12, 0.05, 1.0])
def test_there_are_as_many_steps_as_the_plan_pays_for(num_patients: int, rate: float) -> None:
    # Few patients sampled with a small chance: some samples are empty, and every step counts.
    study, plan = study_of(), plan_with(sample_rate=rate, steps_per_round=7)
    model = PatientModel(study)
    source = NoiseSource.seeded(1)
    patients = patients_of(study, num_patients)
    assert train_privately(model, patients, study, plan, source=source, seed=1) == 7
    # Each step takes one uniform of every patient, two for dropout, and one normal of every
    # parameter, no more.
    twin = NoiseSource.seeded(1)
    for _ in range(7):
        twin.uniform(num_patients + 2)
        twin.normal(len(values_of(model)))
    assert np.array_equal(source.uniform(5), twin.uniform(5))


@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_fewer_steps_than_the_plan_pays_for_may_be_asked(num_steps: int) -> None:
    study = study_of()
    patients = patients_of(study, 40)
    model = PatientModel(study)
    before = state_of(model)
    source = NoiseSource.seeded(1)
    taken = train_privately(
        model, patients, study, plan_with(), source=source, seed=1, num_steps=num_steps
    )
    assert taken == num_steps
    few = privately_trained(study, patients, plan_with(steps_per_round=max(num_steps, 1)))
    assert state_of(model) == (state_of(few) if num_steps else before)


def test_more_steps_than_the_plan_pays_for_are_refused() -> None:
    study = study_of()
    with pytest.raises(ValueError, match="at most the 3 steps"):
        privately_trained(study, patients_of(study, 5), plan_with(), num_steps=4)


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": "none"},
        {"mode": "site"},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": math.inf},
        {"max_grad_norm": 0.0},
        {"max_grad_norm": math.inf},
        {"expected_batch_size": 0.0},
        {"expected_batch_size": math.nan},
        {"sample_rate": 0.0},
        {"sample_rate": 1.5},
    ],
    ids=str,
)
def test_a_plan_without_noise_for_patients_is_refused_by_name(fields: dict[str, Any]) -> None:
    study = study_of()
    model = PatientModel(study)
    before = state_of(model)
    (name,) = fields
    with pytest.raises(ValueError, match=name.replace("sample_rate", "sample rate")):
        train_privately(
            model,
            patients_of(study, 0),
            study,
            plan_with(**fields),
            source=NoiseSource.seeded(1),
            seed=1,
        )
    assert state_of(model) == before


def test_balanced_classes_are_refused() -> None:
    study = study_of(training={"balance": "resample"})
    with pytest.raises(ValueError, match=r"training\.balance"):
        privately_trained(study, patients_of(study, 5), plan_with())


def test_everything_trainable_gets_noise_and_nothing_else_moves() -> None:
    study = study_of(
        model={"frozen": ["vitals"]},
        personal={"local_blocks": ["heads.*"]},
        training={"learning_rate": 1.0},
    )
    model = PatientModel(study)
    assert any(name.startswith("heads.") for name in model.local_blocks)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    # No patient is ever sampled, so that nothing but noise can move a parameter.
    plan = plan_with(sample_rate=1e-12)
    source = NoiseSource.seeded(1)
    train_privately(model, patients_of(study, 40), study, plan, source=source, seed=1)
    for name, value in model.state_dict().items():
        num_still = int((value == before[name]).sum())
        assert num_still == (0 if name in trainable else value.numel()), name


def test_a_step_looks_at_the_patients_of_its_poisson_sample_and_at_no_other() -> None:
    study, plan = study_of(training={"batch_size": 5}), plan_with(sample_rate=0.3)
    patients = watched(patients_of(study, 40))
    model = privately_trained(study, patients, plan)
    source = NoiseSource.seeded(1)
    for seen in patients.seen:
        assert seen == poisson_sample(source, 40, 0.3).tolist()
        source.uniform(2)
        source.normal(len(values_of(model)))
    assert len(patients.seen) == 3


@pytest.mark.parametrize("size", [4, 16, 64])
@pytest.mark.parametrize("is_double", [False, True])
def test_the_physical_batch_changes_no_sample_no_noise_and_no_sum(
    size: int, is_double: bool
) -> None:
    study = study_of(outcomes=MORE_OUTCOMES)
    plan = plan_with(sample_rate=0.8, noise_multiplier=1e-3)
    patients = patients_of(study, 60)
    models = [PatientModel(study), PatientModel(study)]
    if is_double:
        models, patients = [m.double() for m in models], in_float64(patients)
    pieces, whole = watched(patients), watched(patients)
    sources = [NoiseSource.seeded(1), NoiseSource.seeded(1)]
    for model, seen, source, physical in zip(
        models, (pieces, whole), sources, (size, 256), strict=True
    ):
        train_privately(model, seen, study, plan, source=source, seed=1, physical_batch=physical)
    assert list(chain(*pieces.seen)) == list(chain(*whole.seen))
    assert len(whole.seen) == 3
    assert max(len(piece) for piece in pieces.seen) <= size
    assert difference(*models) < (1e-13 if is_double else 1e-6)
    assert np.array_equal(*(source.uniform(3) for source in sources))


def test_equal_sources_and_seeds_give_equal_parameters_bit_for_bit() -> None:
    study = study_of(model={"dropout": 0.3, "granularity_dropout": 0.3})
    patients = patients_of(study, 40)
    first = state_of(privately_trained(study, patients, plan_with()))
    torch.rand(7)
    assert state_of(privately_trained(study, patients, plan_with())) == first
    assert state_of(privately_trained(study, patients, plan_with(), seed=2)) != first
    assert state_of(privately_trained(study, patients, plan_with(), noise=2)) != first


def test_samples_and_noise_do_not_come_from_the_seed() -> None:
    # Without dropout there is nothing left that a seed could change.
    study = study_of()
    patients = patients_of(study, 40)
    states = [
        state_of(privately_trained(study, patients, plan_with(), seed=seed)) for seed in (1, 2)
    ]
    assert states[0] == states[1]


def test_dropout_of_each_step_comes_from_the_source_and_the_seed_together() -> None:
    # A seed alone, which others know, would tell by whose draws a sum has changed.
    study = study_of(model={"dropout": 0.5})
    given: dict[tuple[int, int], list[int]] = {}
    for noise, seed in ((1, 1), (2, 1), (1, 2)):
        seeds = given.setdefault((noise, seed), [])
        patients = watched(
            patients_of(study, 40), lambda seeds=seeds: seeds.append(torch.initial_seed())
        )
        privately_trained(study, patients, plan_with(sample_rate=1.0), noise=noise, seed=seed)
    assert [len(seeds) for seeds in given.values()] == [3, 3, 3]
    assert len(set(chain(*given.values()))) == 9


def test_adding_one_patient_changes_the_draws_of_others_which_nobody_must_know() -> None:
    # Why the draws are secret: known ones let one patient move a sum by more than one gradient.
    study = study_of(model={"dropout": 0.5})
    plan = plan_with(max_grad_norm=1e-3)
    sums = []
    for cohort in (
        patients_of(study, 40),
        joined(patients_of(study, 1, 5), patients_of(study, 40)),
    ):
        model = PatientModel(study)
        model.train()
        torch.manual_seed(0)
        whole = PhysicalBatch(256, torch.device("cpu"))
        sums.append(dp_training._clipped_sum(model, cohort, np.arange(len(cohort)), plan, whole))
    assert np.linalg.norm(sums[1] - sums[0]) > 2 * plan.max_grad_norm


def test_seeding_torch_twice_does_not_repeat_the_noise() -> None:
    study = study_of()
    patients = watched(patients_of(study, 40))
    values = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        model = PatientModel(study)
        source = NoiseSource.secure()
        train_privately(model, patients, study, plan_with(), source=source, seed=1)
        values.append(values_of(model))
    # Each parameter moves by noise of .0022 in float32: a coincidence is rare, and all are not.
    assert (values[0] == values[1]).mean() < 0.05
    assert patients.seen[:3] != patients.seen[3:]


def test_torchs_global_random_state_is_left_as_it_was() -> None:
    study = study_of(model={"dropout": 0.5, "granularity_dropout": 0.5})
    torch.manual_seed(99)
    before = torch.get_rng_state()
    privately_trained(study, patients_of(study, 40), plan_with())
    assert torch.equal(torch.get_rng_state(), before)


def test_training_leaves_the_patients_as_they_were() -> None:
    study = study_of()
    patients, same = patients_of(study, 40), patients_of(study, 40)
    privately_trained(study, patients, plan_with())
    for name, arrays in same.inputs.items():
        assert all(torch.equal(value, patients.inputs[name][k]) for k, value in arrays.items())


def test_nothing_of_a_sample_is_logged(caplog, capfd) -> None:
    caplog.set_level(logging.DEBUG)
    study = study_of()
    privately_trained(study, patients_of(study, 40), plan_with())
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def leak_into_buffer(model: PatientModel) -> None:
    buffer = next(b for b in model.buffers() if b.is_floating_point())
    buffer.view(-1)[0] += 0.125


def leak_into_new_buffer(model: PatientModel) -> None:
    model.register_buffer("mean_of_data", torch.tensor(3.5))


def leak_into_hidden_buffer(model: PatientModel) -> None:
    model.fusion.register_buffer("seen", torch.tensor(3.5), persistent=False)


def leak_into_shape(model: PatientModel) -> None:
    model.register_buffer("numbers", torch.zeros(3))


def leak_into_frozen(model: PatientModel) -> None:
    next(model.encoders["labs"].parameters()).data.view(-1)[0] += 0.125


def leak_into_parameter(model: PatientModel) -> None:
    next(model.heads.parameters()).data.view(-1)[0] += 0.125


def step_of_an_inner_optimizer(model: PatientModel) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(parameters, lr=0.1).step()


@pytest.mark.parametrize(
    "leak",
    [
        leak_into_buffer,
        leak_into_new_buffer,
        leak_into_hidden_buffer,
        leak_into_shape,
        leak_into_frozen,
        leak_into_parameter,
        step_of_an_inner_optimizer,
    ],
)
def test_a_model_that_changes_beside_the_noised_steps_is_not_released(
    leak: Callable[[PatientModel], None],
) -> None:
    study = study_of(model={"frozen": ["labs"]})
    model = PatientModel(study)
    model.register_buffer("numbers", torch.zeros(2))
    remaining = [leak]

    def once() -> None:
        if remaining:
            remaining.pop()(model)

    patients = watched(patients_of(study, 40), once)
    source = NoiseSource.seeded(1)
    with pytest.raises(Refusal, match="beside them") as caught:
        train_privately(model, patients, study, plan_with(), source=source, seed=1)
    assert caught.value.refusal_code is RefusalCode.EGRESS_BLOCKED
    assert "3.5" not in str(caught.value)


def test_a_buffer_of_nan_is_no_leak_and_a_gradient_from_before_is_forgotten() -> None:
    study = study_of()
    models = [PatientModel(study), PatientModel(study)]
    for parameter in models[1].parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    for model in models:
        model.register_buffer("unknown", torch.tensor([math.nan, -0.0]))
        source = NoiseSource.seeded(1)
        train_privately(model, patients_of(study, 40), study, plan_with(), source=source, seed=1)
    assert np.array_equal(values_of(models[0]), values_of(models[1]))


# The clipped sum, as a step takes it.
def sum_of(study: Study, patients: Patients, plan: PrivacyPlan) -> NDArray[np.float64]:
    model = PatientModel(study)
    model.train()
    everybody_B = np.arange(len(patients))
    physical = PhysicalBatch(7, torch.device("cpu"))
    return dp_training._clipped_sum(model, patients, everybody_B, plan, physical)


def joined(one: Patients, other: Patients) -> Patients:
    def both(a: Any, b: Any) -> Any:
        return {
            n: {k: torch.cat([v, b[n][k]]) for k, v in arrays.items()} for n, arrays in a.items()
        }

    return replace(
        one,
        inputs=both(one.inputs, other.inputs),
        outcomes=both(one.outcomes, other.outcomes),
        num_patients=len(one) + len(other),
    )


def extreme(study: Study, seed: int, number: float) -> Patients:
    """One patient of whom everything is observed, all numbers `number`."""
    patient = patients_of(study, 1, seed)
    inputs = {
        name: {
            key: torch.ones_like(value)
            if key.startswith(("present", "observed"))
            else torch.full_like(value, number)
            if value.is_floating_point()
            else value
            for key, value in arrays.items()
        }
        for name, arrays in patient.inputs.items()
    }
    return replace(patient, inputs=inputs)


numbers = st.one_of(
    st.sampled_from([math.nan, math.inf, -math.inf, 1e38, -1e38, 3.4e38, 0.0]),
    st.floats(-1e6, 1e6),
)


@pytest.mark.threat("S0-1", "S1-2", "R-1")
@given(
    num_patients=st.integers(0, 12),
    seed=st.integers(0, 2**31),
    number=numbers,
    max_grad_norm=st.floats(1e-3, 1e3),
)
def test_adding_one_patient_moves_the_clipped_sum_by_max_grad_norm_at_most(
    num_patients: int, seed: int, number: float, max_grad_norm: float
) -> None:
    study = study_of(outcomes=MORE_OUTCOMES)
    plan = plan_with(max_grad_norm=max_grad_norm)
    cohort = patients_of(study, num_patients, seed)
    neighbour = joined(cohort, extreme(study, seed + 1, number))
    moved = sum_of(study, neighbour, plan) - sum_of(study, cohort, plan)
    # Sums of a dozen in float32.
    assert np.linalg.norm(moved) <= max_grad_norm * (1 + 1e-5)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e38])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_one_patient_of_nonsense_leaves_the_update_finite(number: float, optimizer: str) -> None:
    study = study_of(training={"optimizer": optimizer})
    cohort = patients_of(study, 20)
    plan = plan_with(sample_rate=1.0, steps_per_round=10)
    model = privately_trained(study, joined(cohort, extreme(study, 3, number)), plan)
    assert np.isfinite(values_of(model)).all()
    # Of those whose gradient is not finite, nothing comes in; the others are as they were.
    moved = sum_of(study, joined(cohort, extreme(study, 3, number)), plan)
    moved -= sum_of(study, cohort, plan)
    assert math.isfinite(number) or np.abs(moved).max() == 0.0


RECORDS = {
    "scans": {
        "kind": "images",
        "size": [8, 8],
        "max_images": 8,
        "channels": [4],
        "augment": {"flip": 0.5, "shift": 0.2, "contrast": 0.3, "noise": 0.1},
    },
    "letters": {"kind": "notes", "num_buckets": 20, "max_tokens": 64, "hidden": 4},
}


def with_records(num_images: int, num_notes: int) -> tuple[Study, Patients]:
    """One patient with as many equal images, and as many equal notes of eight words."""
    table = study_of().model_dump(mode="json", exclude_none=True)
    study = Study.model_validate({**table, "granularities": RECORDS})
    generator = torch.Generator().manual_seed(1)
    image_HW = torch.randint(0, 256, (8, 8), generator=generator, dtype=torch.uint8)
    words_T = torch.randint(2, 22, (8,), generator=generator)
    observed_BN = (torch.arange(8) < num_images).unsqueeze(0)
    tokens_BT = torch.zeros(1, 64, dtype=torch.int64)
    tokens_BT[0, : 8 * num_notes] = words_T.repeat(num_notes)
    yes_B = torch.ones(1, dtype=torch.bool)
    images_BNHW = image_HW * observed_BN[:, :, None, None]
    inputs = {
        "scans": {"present_B": yes_B, "images_BNHW": images_BNHW, "observed_BN": observed_BN},
        "letters": {"present_B": yes_B, "tokens_BT": tokens_BT},
    }
    patients = Patients(inputs=inputs, outcomes=labels_of(study, 1), device=CPU, num_patients=1)
    return study, patients


@pytest.mark.parametrize(("num_images", "num_notes"), [(1, 1), (2, 1), (8, 1), (1, 8), (8, 8)])
def test_more_records_of_a_patient_and_augmentation_leave_the_sensitivity(
    num_images: int, num_notes: int
) -> None:
    study, patient = with_records(num_images, num_notes)
    for max_grad_norm in (1e-3, 1e-2):
        plan = plan_with(max_grad_norm=max_grad_norm)
        for seed in range(4):
            torch.manual_seed(seed)
            norm = np.linalg.norm(sum_of(study, patient, plan))
            # The bound is reached: the gradient is longer, and one patient is clipped once.
            assert norm == pytest.approx(max_grad_norm, rel=1e-5)


def test_a_patient_of_whom_no_outcome_is_known_adds_nothing() -> None:
    study = study_of(outcomes=MORE_OUTCOMES)
    patients = replace(patients_of(study, 10), outcomes=labels_of(study, 10, unknown=1.0))
    assert np.abs(sum_of(study, patients, plan_with())).max() == 0.0


def test_the_noise_of_a_step_is_that_of_the_plan_whatever_the_cohort() -> None:
    # The plan's expected batch size and rate, not those of the patients that happen to be there.
    study = study_of(training={"learning_rate": 1.0, "batch_size": 3})
    plan = plan_with(sample_rate=1e-12, expected_batch_size=5.0, steps_per_round=1)
    moves = []
    for num_patients in (0, 7, 33):
        source = NoiseSource.seeded(1)
        source.uniform(40 - num_patients)
        model = PatientModel(study)
        before_P = values_of(model)
        patients = patients_of(study, num_patients)
        train_privately(model, patients, study, plan, source=source, seed=1)
        moves.append(values_of(model) - before_P)
    assert np.array_equal(moves[0], moves[1])
    assert np.array_equal(moves[0], moves[2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_private_training_on_a_gpu_stays_close_to_that_on_the_cpu() -> None:
    study = study_of(training={"optimizer": "adamw"})
    states = []
    for device in (CPU, torch.device("cuda:0")):
        patients = patients_of(study, 40)
        moved = replace(
            patients,
            device=device,
            inputs={n: {k: v.to(device) for k, v in a.items()} for n, a in patients.inputs.items()},
            outcomes={
                n: {k: v.to(device) for k, v in a.items()} for n, a in patients.outcomes.items()
            },
        )
        model = PatientModel(study).to(device)
        train_privately(model, moved, study, plan_with(), source=NoiseSource.seeded(1), seed=1)
        states.append(state_of(model).flat)
    assert np.allclose(states[0], states[1], rtol=1e-3, atol=1e-4)
