"""Local training: reproducible, worked by hand for one step, and everyone visited once an epoch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client.config import load_site_config
from client.data import read_cohort, usable_cohort
from client.training import Patients, Pull, _batches, to_device, train
from common.models.patient_model import PatientModel, parameters_of, state_of
from common.study import Study
from common.study_file import override, study_from_toml
from tests.unit.builders import MORE_OUTCOMES, labels_of, patients_of, study_of

CPU = torch.device("cpu")


@pytest.fixture
def forty_five(new_site, tiny_study: Study) -> Patients:
    cohort = usable_cohort(*read_cohort(load_site_config(new_site()), tiny_study))
    return to_device(cohort.train, CPU)


def trained(study: Study, patients: Patients, seed: int = 1) -> np.ndarray:
    model = PatientModel(study)
    train(model, patients, study, seed=seed)
    return state_of(model).flat


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_equal_seeds_give_equal_parameters_bit_for_bit(
    tiny_study, forty_five, optimizer: str
) -> None:
    study = override(tiny_study, training__optimizer=optimizer, model__granularity_dropout=0.3)
    first = trained(study, forty_five).tobytes()
    torch.rand(7)  # the global stream of random numbers is elsewhere now
    assert trained(study, forty_five).tobytes() == first
    assert trained(study, forty_five, seed=2).tobytes() != first


def test_torchs_global_random_state_is_left_as_it_was(tiny_study, forty_five) -> None:
    study = override(tiny_study, model__dropout=0.5, model__granularity_dropout=0.5)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    trained(study, forty_five)
    assert torch.equal(torch.get_rng_state(), before)


@given(
    num_patients=st.integers(1, 50), batch_size=st.integers(1, 20), seed=st.integers(0, 2**63 - 1)
)
def test_every_epoch_visits_every_patient_once(
    num_patients: int, batch_size: int, seed: int
) -> None:
    steps_per_epoch = -(-num_patients // batch_size)
    study = study_of(training={"batch_size": batch_size})
    patients = patients_of(study, num_patients)
    batches = list(_batches(patients, study, 3 * steps_per_epoch, seed))
    epochs = [
        torch.cat(batches[e * steps_per_epoch : (e + 1) * steps_per_epoch]).tolist()
        for e in range(3)
    ]
    assert [sorted(epoch) for epoch in epochs] == [list(range(num_patients))] * 3
    assert all(len(batch) <= batch_size for batch in batches)


def test_epochs_are_shuffled_and_differ_from_one_another() -> None:
    study = study_of(training={"batch_size": 50})
    batches = list(_batches(patients_of(study, 50), study, 3, seed=1))
    assert len({tuple(batch.tolist()) for batch in batches}) == 3


@given(num_steps=st.integers(0, 20))
def test_as_many_batches_are_given_as_steps_are_asked(num_steps: int) -> None:
    study = study_of(training={"batch_size": 4})
    assert len(list(_batches(patients_of(study, 10), study, num_steps, seed=1))) == num_steps


# 45 patients in batches of 16: 3 steps an epoch.
@pytest.mark.parametrize(
    ("plan", "num_steps"),
    [({"local_epochs": 1}, 3), ({"local_epochs": 4}, 12), ({"local_steps": 5}, 5)],
)
def test_the_number_of_steps_is_what_the_plan_says(
    tiny_study, forty_five, plan: dict[str, int], num_steps: int
) -> None:
    table = tiny_study.model_dump(mode="json", exclude_none=True)
    del table["training"]["local_epochs"]
    study = Study.model_validate(table | {"training": table["training"] | plan})
    assert study.training.steps_of(45) == num_steps
    assert train(PatientModel(study), forty_five, study, seed=1) == num_steps


def test_a_site_without_patients_trains_nothing(tiny_study, forty_five) -> None:
    nobody = Patients(
        inputs={k: {n: v[:0] for n, v in g.items()} for k, g in forty_five.inputs.items()},
        outcomes={k: {n: v[:0] for n, v in g.items()} for k, g in forty_five.outcomes.items()},
        device=CPU,
        num_patients=0,
    )
    model = PatientModel(tiny_study)
    before = state_of(model).flat.tobytes()
    assert train(model, nobody, tiny_study, seed=1) == 0
    assert state_of(model).flat.tobytes() == before


# One step of SGD by hand. One numeric feature x in [-1, 1], no hidden layer, concat fusion of one
# token of width 2. Everything from the feature to the logit is linear, so the gradient of the loss
# -log p(label) with respect to the head's bias is p - label.
ONE_STEP = """
[study]
name = "by-hand"
[outcomes.event]
column = "event"
kind = "binary"
classes = ["no", "yes"]
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


def two_patients() -> Patients:
    x_BF = torch.tensor([[0.2], [0.8]])
    everyone_BF = torch.ones(2, 1, dtype=torch.bool)
    labs = {
        "numeric_BF": x_BF,
        "observed_BF": everyone_BF,
        "codes_BK": torch.zeros(2, 0, dtype=torch.int64),
        "present_B": everyone_BF[:, 0],
    }
    event = {"known_B": everyone_BF[:, 0], "label_B": torch.tensor([0, 1])}
    return Patients(inputs={"labs": labs}, outcomes={"event": event}, device=CPU, num_patients=2)


def head_of(model: PatientModel) -> torch.nn.Linear:
    head = model.heads["event"].linear
    assert isinstance(head, torch.nn.Linear)
    return head


def blank_model(study: Study) -> PatientModel:
    """All parameters zero, except a head that reads the token: p = 1/2 for everybody."""
    model = PatientModel(study)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


def test_one_step_of_sgd_worked_by_hand() -> None:
    study = study_from_toml(ONE_STEP)
    model = blank_model(study)
    with torch.no_grad():
        head_of(model).bias.fill_(1.0)
    train(model, two_patients(), study, seed=1)
    # p = sigmoid(1) = .7310586 for both; mean gradient ((p - 0) + (p - 1)) / 2 = .2310586.
    # 1 - .5 * .2310586 = .8844707. All weights are zero, so no other parameter has a gradient
    # except the head's weight, whose input (the fused vector) is zero as well.
    assert head_of(model).bias.item() == pytest.approx(0.8844707, abs=1e-6)
    assert head_of(model).weight.tolist() == [[0.0, 0.0]]


def test_fedprox_pulls_the_second_step_towards_the_start_by_hand() -> None:
    text = ONE_STEP.replace("local_steps = 1", "local_steps = 2")
    study = override(study_from_toml(text), strategy__name="fedprox", strategy__proximal_mu=0.2)
    model = blank_model(study)
    with torch.no_grad():
        head_of(model).bias.fill_(1.0)
    train(model, two_patients(), study, seed=1)
    # Step 1, at the start, where the pull is zero: b = .8844707, as above.
    # Step 2: p = sigmoid(.8844707) = .7077484; mean gradient p - 1/2 = .2077484; the pull is
    # .2 * (.8844707 - 1) = -.0231059, so b = .8844707 - .5 * (.2077484 - .0231059) = .7921495.
    # Without the pull it would be .7805965.
    assert head_of(model).bias.item() == pytest.approx(0.7921495, abs=1e-6)


@pytest.mark.parametrize("mu", [0.1, 1.0, 5.0])
def test_fedprox_stays_closer_to_the_start_than_fedavg(tiny_study, forty_five, mu: float) -> None:
    def distance(name: str) -> float:
        study = override(
            tiny_study,
            strategy__name=name,
            strategy__proximal_mu=mu,
            training__local_epochs=5,
        )
        model = PatientModel(study)
        start = parameters_of(model).flat.astype(np.float64)
        train(model, forty_five, study, seed=1)
        return float(np.linalg.norm(parameters_of(model).flat - start))

    assert distance("fedprox") < distance("fedavg")


def test_fedprox_without_a_pull_is_fedavg_bit_for_bit(tiny_study, forty_five) -> None:
    prox = override(tiny_study, strategy__name="fedprox", strategy__proximal_mu=0.0)
    assert trained(prox, forty_five).tobytes() == trained(tiny_study, forty_five).tobytes()


def test_the_pull_is_fedproxs_alone(tiny_study, forty_five) -> None:
    adam = override(tiny_study, strategy__name="fedadam", strategy__proximal_mu=5.0)
    assert trained(adam, forty_five).tobytes() == trained(tiny_study, forty_five).tobytes()


def test_training_lowers_the_loss(tiny_study, forty_five) -> None:
    study = override(tiny_study, training__local_epochs=20)
    model = PatientModel(study)

    def loss() -> float:
        model.eval()
        with torch.inference_mode():
            logits = model(forty_five.inputs)
        return float(model.loss_per_patient(logits, forty_five.outcomes).mean())

    before = loss()
    train(model, forty_five, study, seed=1)
    assert loss() < before - 0.05


def test_a_patient_of_whom_no_outcome_is_known_teaches_nothing() -> None:
    study = study_of(outcomes=MORE_OUTCOMES, training={"batch_size": 64})
    labels = labels_of(study, 30, unknown=0.4)
    patients = patients_of(study, 30)
    spoilt = {
        name: {
            key: value
            if key == "known_B"
            else torch.where(arrays["known_B"], value, torch.ones_like(value))
            for key, value in arrays.items()
        }
        for name, arrays in labels.items()
    }
    one, two = (trained(study, replace(patients, outcomes=o)) for o in (labels, spoilt))
    assert one.tobytes() == two.tobytes()
    nobody = {
        name: {**arrays, "known_B": torch.zeros_like(arrays["known_B"])}
        for name, arrays in labels.items()
    }
    untrained = state_of(PatientModel(study)).flat
    assert trained(study, replace(patients, outcomes=nobody)).tobytes() == untrained.tobytes()
    assert one.tobytes() != untrained.tobytes()


def test_a_head_whose_outcome_nobody_has_stays_and_the_others_train() -> None:
    study = study_of(outcomes=MORE_OUTCOMES)
    patients = patients_of(study, 30)
    stay = {**patients.outcomes["stay"], "known_B": torch.zeros(30, dtype=torch.bool)}
    model = PatientModel(study)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    some = replace(patients, outcomes={**patients.outcomes, "stay": stay})
    train(model, some, study, seed=1)
    for name, parameter in model.named_parameters():
        is_moved = not torch.equal(parameter, before[name])
        if name.startswith("heads."):
            assert is_moved == (not name.startswith("heads.stay.")), name


def test_balanced_classes_are_met_equally_often() -> None:
    study = study_of(training={"batch_size": 50, "balance": "resample"})
    # A tenth of the patients have the outcome; of some it is not known.
    label_B = torch.tensor([1] * 10 + [0] * 60 + [-1] * 30)
    event = {"known_B": label_B >= 0, "label_B": label_B}
    patients = replace(patients_of(study, 100), outcomes={"event": event})
    drawn_B = label_B[torch.cat(list(_batches(patients, study, 400, seed=1)))]
    assert len(drawn_B) == 20_000
    # Of unknown class .3 as without balance, and half of the others of each class: 6000, 7000 and
    # 7000 on average, standard deviation 65 to 67.
    for label, expected in ((-1, 6000), (0, 7000), (1, 7000)):
        assert abs(int((drawn_B == label).sum()) - expected) < 350
    plain = study_of(training={"batch_size": 50})
    once_B = label_B[torch.cat(list(_batches(patients, plain, 2, seed=1)))]
    assert (once_B == 1).sum() == 10


def test_a_pull_of_its_own_replaces_that_of_the_study(tiny_study, forty_five) -> None:
    prox = override(tiny_study, strategy__name="fedprox", strategy__proximal_mu=0.3)
    plain, pulled = PatientModel(tiny_study), PatientModel(tiny_study)
    origin = [p.detach().clone() for p in plain.parameters()]
    train(plain, forty_five, prox, seed=1)
    train(pulled, forty_five, tiny_study, seed=1, pull=Pull(origin=origin, strength=0.3))
    assert state_of(plain) == state_of(pulled)


def test_weight_decay_leaves_biases_and_norms_alone(tiny_study, forty_five) -> None:
    # With a loss of nothing, decay is all that moves a parameter.
    study = override(tiny_study, training__weight_decay=0.5)
    model = PatientModel(study)
    event = forty_five.outcomes["event"]
    nobody = {"event": {**event, "known_B": torch.zeros_like(event["known_B"])}}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, replace(forty_five, outcomes=nobody), study, seed=1)
    for name, parameter in model.named_parameters():
        is_moved = not torch.equal(parameter, before[name])
        assert is_moved == (name not in model.undecayed), name
        is_bias = parameter.ndim < 2 or name == "fusion.query.weight"
        assert (name in model.undecayed) == is_bias, name


def test_a_frozen_encoder_is_not_trained(tiny_study, forty_five) -> None:
    study = override(tiny_study, model__frozen=["labs"], training__weight_decay=0.1)
    before = state_of(PatientModel(study)).unpack()
    model = PatientModel(study)
    train(model, forty_five, study, seed=1)
    for name, value in state_of(model).unpack().items():
        is_still = name.startswith("encoders.labs.") or name.endswith((".location", ".scale"))
        assert (value.tobytes() == before[name].tobytes()) == is_still, name


def test_no_gradient_is_kept_after_training(tiny_study, forty_five) -> None:
    model = PatientModel(tiny_study)
    train(model, forty_five, tiny_study, seed=1)
    assert all(p.grad is None for p in model.parameters())


def test_training_leaves_the_patients_as_they_were(tiny_study, forty_five) -> None:
    before = {k: {n: v.clone() for n, v in g.items()} for k, g in forty_five.inputs.items()}
    trained(tiny_study, forty_five)
    for name, arrays in before.items():
        assert all(torch.equal(arrays[key], forty_five.inputs[name][key]) for key in arrays)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_on_a_gpu_stays_close_to_training_on_the_cpu(
    tiny_study, new_site, optimizer: str
) -> None:
    study = override(tiny_study, training__optimizer=optimizer, training__local_epochs=3)
    cohort = usable_cohort(*read_cohort(load_site_config(new_site()), study)).train
    states = []
    for device in (CPU, torch.device("cuda:0")):
        model = PatientModel(study).to(device)
        train(model, to_device(cohort, device), study, seed=1)
        states.append(state_of(model).flat)
    assert np.allclose(states[0], states[1], rtol=1e-3, atol=1e-4)
