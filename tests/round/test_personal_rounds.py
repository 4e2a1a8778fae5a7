"""Personal models and blocks in whole runs: nothing of them is sent, and nothing shared changes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from client.evaluation import evaluate, outcomes_of, predict
from client.personal import Personal, PersonalStore, load_personal
from client.site import Site
from common.errors import StudyError
from common.messages import Reply, Task, TaskKind
from common.metrics.evaluation import PERSONAL, declared_sizes, to_flat
from common.models.patient_model import PatientModel, load_state, trainable_manifest
from common.study import Study
from server.app import Run, execute
from server.journal import Listener
from simulations.bench.plain_loop import read_sites
from simulations.engine import InProcessGrid
from simulations.oracle import Oracle
from simulations.simulate import Simulation, open_sites, simulate
from tests.round.mixed_hospitals import SITES, mixed_study, write_hospitals

OUTCOMES = ("event", "stay")
ROUNDS = 3
PLANS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "fine-tuning": {"fine_tune_steps": 12},
    "ditto": {"ditto_lambda": 0.5},
    "local heads": {"local_blocks": ["heads.*"]},
    "local heads and ditto": {"local_blocks": ["heads.*"], "ditto_lambda": 0.5},
    "local encoder and fine-tuning": {"local_blocks": ["encoders.labs.*"], "fine_tune_steps": 12},
}
WITH_OWN = [name for name, plan in PLANS.items() if {"fine_tune_steps", "ditto_lambda"} & set(plan)]
WITH_LOCAL = [name for name, plan in PLANS.items() if "local_blocks" in plan]
# Plans that differ in nothing but a model of the site's own.
PAIRS = [("fine-tuning", "nothing"), ("ditto", "nothing"), ("local heads and ditto", "local heads")]
SITE_NAMES = sorted(SITES)


def study_of(plan: str) -> Study:
    # Dropout, so that every draw of a random number counts.
    return mixed_study(*OUTCOMES, personal=PLANS[plan], model={"dropout": 0.1})


class Overheard:
    """A real site behind a double at the relay's seam, which hears all that is said."""

    def __init__(self, site: Site, said: list[tuple[Task, Reply]]) -> None:
        self.name = site.name
        self._site = site
        self._said = said

    def refuse_malformed(self, kind: TaskKind) -> Reply:
        return self._site.refuse_malformed(kind)

    def answer(self, task: Task) -> Reply:
        reply = self._site.answer(task)
        self._said.append((task, reply))
        return reply


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A run folder after the run, and what tasks and replies there were."""

    folder: Path
    said: list[tuple[Task, Reply]]

    @property
    def model(self) -> dict[str, NDArray[np.float32]]:
        return load_file(self.folder / "model.safetensors")

    @property
    def results(self) -> dict[str, Any]:
        return json.loads((self.folder / "results.json").read_text(encoding="utf-8"))

    def kept(self, site: str, round_number: int = ROUNDS) -> Mapping[str, NDArray[np.float32]]:
        """What a site keeps for itself, as a round starts."""
        (folder,) = (self.folder / "sites" / site / "personal").iterdir()
        return PersonalStore(folder).load(round_number)


def run(
    study: Study,
    hospitals: Path,
    out: Path,
    *,
    listeners: Sequence[Listener] = (),
    resume: bool = False,
) -> Heard:
    sites = open_sites(Simulation(study=study, sites=hospitals, out=out))
    said: list[tuple[Task, Reply]] = []
    grid: Any = InProcessGrid({name: Overheard(s, said) for name, s in sites.items()})
    plan = Run(study=study, folder=out, engine="in-process", durable=False, resume=resume)
    execute(plan, grid, listeners=listeners)
    return Heard(folder=out, said=said)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture(scope="module")
def heard(hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Heard]:
    """An uninterrupted run of every plan."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: run(study_of(name), hospitals, folder / name.replace(" ", "-")) for name in PLANS}


@pytest.mark.parametrize(("personal", "shared"), PAIRS)
def test_a_model_of_ones_own_does_not_change_the_federation_bit_for_bit(
    heard: dict[str, Heard], personal: str, shared: str
) -> None:
    one, other = heard[personal], heard[shared]
    assert one.model.keys() == other.model.keys()
    for name, value in one.model.items():
        assert value.tobytes() == other.model[name].tobytes(), name
    for mine, plain in zip(one.results["rounds"], other.results["rounds"], strict=True):
        assert mine["pooled"] == plain["pooled"]
        assert mine["sites"] == plain["sites"]


@pytest.mark.parametrize(("personal", "shared"), PAIRS)
def test_every_update_is_that_of_the_plan_without_a_model_of_ones_own(
    heard: dict[str, Heard], personal: str, shared: str
) -> None:
    mine, others = (
        [
            reply.arrays.flat.tobytes()
            for task, reply in heard[plan].said
            if task.kind is TaskKind.TRAIN and reply.arrays is not None
        ]
        for plan in (personal, shared)
    )
    assert len(mine) == ROUNDS * len(SITES)
    assert mine == others


@pytest.mark.parametrize("plan", PLANS)
def test_nothing_personal_is_on_the_wire(heard: dict[str, Heard], plan: str) -> None:
    study = study_of(plan)
    model = PatientModel(study)
    declared = declared_sizes(study)
    assert {task.kind for task, _ in heard[plan].said} == set(TaskKind)
    for task, reply in heard[plan].said:
        assert reply.status == "ok"
        assert set(reply.metrics) <= set(declared)
        if task.kind is TaskKind.TRAIN:
            assert reply.arrays is not None
            assert reply.arrays.manifest == trainable_manifest(model)
            sent = {block.name for block in reply.arrays.manifest}
            assert not sent & model.local_blocks
            assert not [name for name in sent if name.startswith(("own.", "local."))]
        if task.kind is TaskKind.EVALUATE:
            assert reply.arrays is None
        else:
            assert not [name for name in reply.metrics if name.startswith(f"{PERSONAL}.")]


@pytest.mark.parametrize("plan", WITH_LOCAL)
def test_no_bytes_of_what_a_site_keeps_are_in_any_task_or_reply(
    heard: dict[str, Heard], plan: str
) -> None:
    said = [
        arrays.flat.astype(np.float32).tobytes()
        for task, reply in heard[plan].said
        for arrays in (task.arrays, reply.arrays)
        if arrays is not None
    ]
    model = heard[plan].model
    for site in SITE_NAMES:
        for name, value in heard[plan].kept(site).items():
            # What a hospital has no patients for is as in the shared model; and a single number
            # could be there by chance.
            is_shared = value.tobytes() == model[name.partition(".")[2]].tobytes()
            if value.size >= 2 and not is_shared:
                assert not [flat for flat in said if value.tobytes() in flat], name


@pytest.mark.parametrize("plan", WITH_LOCAL)
def test_local_blocks_stay_as_they_began_in_the_shared_model_and_differ_between_sites(
    heard: dict[str, Heard], plan: str
) -> None:
    initial = PatientModel(study_of(plan))
    assert initial.local_blocks
    for name, parameter in initial.named_parameters():
        value = heard[plan].model[name]
        is_local = name in initial.local_blocks
        assert (value.tobytes() == parameter.detach().numpy().tobytes()) == is_local, name
        if is_local:
            at_sites = [heard[plan].kept(site)[f"local.{name}"] for site in SITE_NAMES]
            for one, other in zip(at_sites, at_sites[1:] + at_sites[:1], strict=True):
                assert not np.array_equal(one, other), name
                assert not np.array_equal(one, value), name


@pytest.mark.parametrize("plan", WITH_LOCAL)
def test_local_blocks_change_in_every_round(heard: dict[str, Heard], plan: str) -> None:
    for site in SITE_NAMES:
        for name in PatientModel(study_of(plan)).local_blocks:
            values = [
                heard[plan].kept(site, number)[f"local.{name}"].tobytes() for number in (1, 2, 3)
            ]
            assert len(set(values)) == 3


@pytest.mark.parametrize("plan", [name for name in PLANS if name != "nothing"])
def test_the_last_evaluation_is_of_the_models_that_predictions_are_made_with(
    heard: dict[str, Heard], hospitals: Path, plan: str
) -> None:
    study = study_of(plan)
    sites = {site.name: site for site in read_sites(study, hospitals)}
    model = PatientModel(study)
    last = [(t, r) for t, r in heard[plan].said if t.kind is TaskKind.EVALUATE]
    assert sorted(reply.site for _, reply in last) == SITE_NAMES
    for task, reply in last:
        assert task.arrays is not None
        (folder,) = (heard[plan].folder / "sites" / reply.site / "personal").iterdir()
        store, patients = PersonalStore(folder), sites[reply.site].test
        load_state(model, task.arrays)
        Personal(study, store, site=reply.site).put_local(model, ROUNDS)
        sums = evaluate(predict(model, patients), outcomes_of(patients), study)
        expected = to_flat(sums)
        if study.personal.has_model:
            load_state(model, task.arrays)
            assert load_personal(model, store, ROUNDS)
            sums = evaluate(predict(model, patients), outcomes_of(patients), study)
            expected |= to_flat(sums, model=PERSONAL)
        found = {name: v for name, v in reply.metrics.items() if not name.startswith("seconds")}
        assert found == expected


@pytest.mark.parametrize("plan", PLANS)
def test_personal_metrics_are_those_of_the_last_round_alone(
    heard: dict[str, Heard], plan: str
) -> None:
    rounds = heard[plan].results["rounds"]
    assert [entry["round"] for entry in rounds] == [0, 1, 2, 3]
    assert [entry["personal"] is not None for entry in rounds] == [
        False,
        False,
        False,
        plan in WITH_OWN,
    ]
    report = (heard[plan].folder / "report.md").read_text(encoding="utf-8")
    assert ("own model" in report) == (plan in WITH_OWN)
    if plan in WITH_OWN:
        personal = rounds[-1]["personal"]
        assert set(personal["sites"]) == set(SITES)
        assert list(personal["pooled"]) == list(OUTCOMES)
        for outcome in OUTCOMES:
            shared = rounds[-1]["pooled"][outcome]
            assert personal["pooled"][outcome]["num_patients"] == shared["num_patients"]
            assert personal["pooled"][outcome]["loss"] != shared["loss"]


@pytest.mark.parametrize("plan", WITH_OWN)
def test_the_oracle_sees_the_own_models_predictions(
    hospitals: Path, tmp_path: Path, heard: dict[str, Heard], plan: str
) -> None:
    oracle = Oracle()
    simulate(Simulation(study=study_of(plan), sites=hospitals, out=tmp_path), oracle=oracle)
    assert set(oracle.latest(PERSONAL)) == set(oracle.latest()) == set(SITES)
    results = heard[plan].results["rounds"][-1]
    for model, evaluated in ((results["personal"], PERSONAL), (results, "")):
        for site, (predictions, outcomes) in oracle.latest(evaluated).items():
            value_B = outcomes["stay"]["value_B"]
            error_B = np.clip(predictions["stay"][:, 0], 0, 60) - value_B
            expected = float(np.sqrt(np.mean(error_B**2)))
            assert model["sites"][site]["stay"]["rmse"] == pytest.approx(expected)


@pytest.mark.parametrize("plan", WITH_OWN)
def test_own_models_fit_their_hospitals_and_differ_between_them(
    heard: dict[str, Heard], plan: str
) -> None:
    own = []
    for site in SITE_NAMES:
        kept = heard[plan].kept(site)
        own.append({k.removeprefix("own."): v for k, v in kept.items() if k.startswith("own.")})
        names = {name for name, _ in PatientModel(study_of(plan)).named_parameters()}
        assert own[-1].keys() == names
    for name in ("heads.event.linear.weight", "encoders.labs.numbers.weight"):
        assert not np.array_equal(own[0][name], own[1][name])


class StopError(Exception):
    """What the test raises in the middle of a run."""


def stop_at(event: str, round_number: int, nth: int = 1) -> Listener:
    """A listener of the journal that stops the run at the n-th such event of a round."""
    seen = []

    def listen(line: Mapping[str, Any]) -> None:
        if line["event"] == event and line.get("round") == round_number:
            seen.append(line)
            if len(seen) == nth:
                raise StopError

    return listen


def assert_same_personal(found: Heard, expected: Heard) -> None:
    for name, value in expected.model.items():
        assert found.model[name].tobytes() == value.tobytes(), name
    for site in SITE_NAMES:
        one, other = found.kept(site), expected.kept(site)
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert one[name].tobytes() == value.tobytes(), name
    last, others = (heard.results["rounds"][-1] for heard in (found, expected))
    assert last["personal"] == others["personal"]


@pytest.mark.parametrize("plan", [name for name in PLANS if name != "nothing"])
@pytest.mark.parametrize(
    ("event", "round_number", "nth"),
    [("reply", 0, 5), ("reply", 1, 1), ("reply", 2, 3), ("aggregated", 2, 1), ("reply", 3, 2)],
    # Of the replies of round 0, the first three are enrolments.
    ids=lambda value: str(value),
)
def test_an_interrupted_run_resumes_to_the_same_personal_models_bit_for_bit(
    heard: dict[str, Heard],
    hospitals: Path,
    tmp_path: Path,
    plan: str,
    event: str,
    round_number: int,
    nth: int,
) -> None:
    study = study_of(plan)
    with pytest.raises(StopError):
        run(study, hospitals, tmp_path, listeners=[stop_at(event, round_number, nth)])
    assert_same_personal(run(study, hospitals, tmp_path, resume=True), heard[plan])


@pytest.mark.parametrize("plan", ["ditto", "local heads"])
def test_a_run_that_falls_back_by_a_checkpoint_has_the_same_personal_models(
    heard: dict[str, Heard], hospitals: Path, tmp_path: Path, plan: str
) -> None:
    # All sites have answered round 2, and keep what round 3 starts from; the server has lost its
    # checkpoint of round 2, and asks for round 1 again.
    study = study_of(plan)
    with pytest.raises(StopError):
        run(study, hospitals, tmp_path, listeners=[stop_at("reply", 2, 3)])
    newest = max((tmp_path / "checkpoints").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])
    resumed = run(study, hospitals, tmp_path, resume=True)
    assert resumed.results["resumed_at_rounds"] == [1]
    assert_same_personal(resumed, heard[plan])


def test_a_site_that_was_absent_from_a_round_goes_on_with_its_own_model(
    hospitals: Path, tmp_path: Path
) -> None:
    study = study_of("ditto")
    sites = open_sites(Simulation(study=study, sites=hospitals, out=tmp_path))
    site = sites["alpha"]
    said: list[tuple[Task, Reply]] = []
    grid: Any = InProcessGrid({name: Overheard(s, said) for name, s in sites.items()})
    execute(Run(study=study, folder=tmp_path, engine="in-process", durable=False), grid)
    (folder,) = (tmp_path / "sites" / "alpha" / "personal").iterdir()
    third = next(t for t, r in said if r.site == "alpha" and t.round == 2)
    (folder / "round-000002.safetensors").unlink()  # as if it had not answered round 1
    first = PersonalStore(folder).load(1)
    again = [site.answer(third) for _ in range(2)]
    assert [reply.status for reply in again] == ["ok", "ok"]
    assert {k: v.tobytes() for k, v in PersonalStore(folder).load(2).items()} == {
        k: v.tobytes() for k, v in first.items()
    }


@pytest.mark.parametrize("pattern", ["head.*", "encoders.imaging.*"])
def test_a_pattern_that_names_no_parameter_is_refused(pattern: str) -> None:
    study = mixed_study(*OUTCOMES, personal={"local_blocks": [pattern]})
    with pytest.raises(StudyError, match="matches none"):
        PatientModel(study)


def test_a_study_that_shares_nothing_is_refused() -> None:
    study = mixed_study(*OUTCOMES, personal={"local_blocks": ["*"]})
    with pytest.raises(StudyError, match="found all of them"):
        PatientModel(study)
