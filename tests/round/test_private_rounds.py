"""Whole private runs: what hospitals send, what it costs them, and that nothing is paid twice."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.ledger.entries import ledger_path, read_chain
from client.ledger.view import view_ledger
from common.messages import Reply, Task, TaskKind
from common.metrics.attributions import is_attribution
from common.privacy.accounting import epsilon_of
from common.privacy.events import Charge, Gaussian
from common.study import Study
from common.study_file import override, with_patient_privacy
from tests.round.conftest import Federate, Federation

EPSILON, DELTA = 3.0, 1e-4


@pytest.fixture(scope="module")
def private(study: Study) -> Study:
    # It may ask what predictions rest on, and is told nothing of it.
    asked = override(study, evaluation__attributions=True)
    return with_patient_privacy(asked, epsilon=EPSILON, delta=DELTA)


@pytest.fixture(scope="module")
def finished(federate: Federate, private: Study) -> Federation:
    return federate(private)


def entries(run: Federation, site: str) -> list[dict[str, Any]]:
    (path,) = (run.folder / "sites" / site / "ledger").glob("*.jsonl")
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def kinds(run: Federation, site: str) -> list[str]:
    return [entry["kind"] for entry in entries(run, site)]


@pytest.mark.threat("S0-2")
def test_a_private_round_sends_an_update_and_no_statistic(finished: Federation) -> None:
    replies = [e for e in finished.events("reply") if e["kind"] == "train"]
    assert len(replies) == 15
    assert all(reply["metrics"] == {} for reply in replies)


@pytest.mark.threat("S0-2")
def test_nothing_of_what_predictions_rest_on_leaves_a_private_run(finished: Federation) -> None:
    names = {name for e in finished.events("reply") for name in e["metrics"]}
    assert names
    assert not any(map(is_attribution, names))
    assert finished.results["attributions"] == {"round": None, "outcomes": {}}
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "nothing of it was released" in page


@pytest.mark.threat("S0-2", "C-2")
def test_what_replies_say_of_patients_is_a_public_weight(finished: Federation) -> None:
    counts = {e["site"]: e["counts"] for e in finished.events("enrolled")}
    everything = {"patients": 1, "labs": 1, "lifestyle": 1, "event": 1}
    less = {**everything, "lifestyle": 0}
    assert counts == {"a": everything, "b": everything, "c": everything, "d": less, "e": less}


def test_a_private_run_is_evaluated_once_after_its_last_round(finished: Federation) -> None:
    told = [(e["round"], e["kind"]) for e in finished.events("reply") if e["metrics"]]
    assert told == [(3, "evaluate")] * 5


def test_every_site_is_charged_at_most_what_the_study_says_and_nearly_that(
    finished: Federation,
) -> None:
    spent = finished.results["privacy"]["sites"]
    assert set(spent) == set("abcde")
    for cost in spent.values():
        assert cost["delta"] == DELTA
        # One spare round of four was paid for and not used.
        assert 0.75 * EPSILON < cost["epsilon"] <= EPSILON


def test_what_a_site_tells_of_its_cost_follows_from_its_ledger(finished: Federation) -> None:
    for site, cost in finished.results["privacy"]["sites"].items():
        reserved = [e for e in entries(finished, site) if e["kind"] == "reserved"]
        trained = [c for e in reserved for c in e["fields"]["charges"] if c["part"] == "train"]
        events = [
            Gaussian(
                noise_multiplier=c["noise_multiplier"],
                sample_rate=c["sample_rate"],
                count=c["count"],
            )
            for c in trained
        ]
        of_training = epsilon_of([Charge(event=event) for event in events], DELTA)
        assert cost["epsilon"] >= of_training


def test_the_ledger_of_a_run_follows_its_order(finished: Federation) -> None:
    told = kinds(finished, "a")
    assert told[0] == "opened"
    # Three rounds and an evaluation; with public ranges, an enrolment costs nothing.
    assert told.count("acknowledged") == 4  # each task but the first brings the last head back
    order = [kind for kind in told if kind in ("reserved", "sealed", "sent")]
    assert order == ["reserved", "sealed", "sent"] * 4
    (path,) = (finished.folder / "sites" / "a" / "ledger").glob("*.jsonl")
    assert read_chain(path.read_bytes()).faults == ()


def test_the_same_seed_gives_the_same_private_model(
    federate: Federate, private: Study, finished: Federation
) -> None:
    assert federate(private).model_bytes == finished.model_bytes


def test_a_private_model_differs_from_the_one_without_privacy(
    finished: Federation, honest: Federation
) -> None:
    assert finished.model_bytes != honest.model_bytes


class StopError(Exception):
    """What stops a run."""


@pytest.mark.parametrize(
    ("event", "round_number"), [("checkpoint", 0), ("reply", 1), ("aggregated", 2)]
)
def test_a_private_run_that_is_resumed_ends_in_the_same_model_and_costs_no_more(
    federate: Federate,
    private: Study,
    finished: Federation,
    tmp_path: Path,
    event: str,
    round_number: int,
) -> None:
    def stop(line: dict[str, Any]) -> None:
        if line["event"] == event and line.get("round") == round_number:
            raise StopError

    with pytest.raises(StopError):
        federate(private, out=tmp_path / "run", listeners=[stop])
    resumed = federate(private, out=tmp_path / "run", resume=True)
    assert resumed.model_bytes == finished.model_bytes
    assert resumed.results["privacy"] == finished.results["privacy"]
    for site in "abcde":
        assert kinds(resumed, site).count("reserved") == 4


@pytest.mark.threat("I-2")
def test_a_site_whose_whole_state_was_set_back_takes_no_further_part(
    federate: Federate, private: Study, tmp_path: Path
) -> None:
    state = tmp_path / "run" / "sites" / "b"

    def set_back(task: Task, answer: Any) -> Reply:
        if task.kind is TaskKind.TRAIN and task.round == 1:
            shutil.copytree(state, tmp_path / "older")
        return answer()

    def stop(line: dict[str, Any]) -> None:
        if line["event"] == "round_finished" and line["round"] == 2:
            raise StopError

    with pytest.raises(StopError):
        federate(private, out=tmp_path / "run", twists={"b": set_back}, listeners=[stop])
    shutil.rmtree(state)
    shutil.copytree(tmp_path / "older", state)
    resumed = federate(private, out=tmp_path / "run", resume=True)
    absences = {(e["site"], e["reason"]) for e in resumed.events("absent")}
    assert absences == {("b", "rejected: no receipt, or of a ledger set back")}
    assert resumed.events("aggregated")[-1]["sites"] == ["a", "c", "d", "e"]


def test_a_crash_within_a_round_costs_the_spare_one_and_no_more(
    federate: Federate, private: Study
) -> None:
    failures = iter([True, False])

    def fails_once(task: Task, answer: Any) -> Reply:
        reply = answer()
        if task.kind is TaskKind.TRAIN and task.round == 1 and next(failures, False):
            return replace(reply, nonce="lost")
        return reply

    run = federate(private, twists={"c": fails_once})
    assert run.results["status"] == "finished"
    assert kinds(run, "c").count("reserved") == 4


def test_the_view_of_a_simulated_ledger_says_what_it_is(finished: Federation) -> None:
    opened = entries(finished, "a")[0]["fields"]
    view = view_ledger(
        finished.folder / "sites" / "a", dataset_id=opened["dataset_id"], delta=DELTA
    )
    assert view.simulation
    assert view.faults == ()
    assert view.runs[0].noise == ("seeded",)
    assert view.spent == pytest.approx(finished.results["privacy"]["sites"]["a"]["epsilon"])


def test_moments_of_a_private_run_are_noised_and_charged(
    federate: Federate, private: Study
) -> None:
    table = private.model_dump(mode="json", exclude_none=True)
    table["normalisation"] = {"method": "federated"}
    run = federate(Study.model_validate(table))
    first = next(e for e in entries(run, "a") if e["kind"] == "reserved")
    (charge,) = first["fields"]["charges"]
    assert (first["fields"]["request"]["kind"], charge["part"]) == ("query", "train")
    assert charge["sample_rate"] == 1.0
    for cost in run.results["privacy"]["sites"].values():
        assert cost["epsilon"] <= EPSILON


def test_a_study_of_site_privacy_is_charged_in_the_journal(
    federate: Federate, study: Study
) -> None:
    table = study.model_dump(mode="json", exclude_none=True)
    table["privacy"] = {"mode": "site", "epsilon": 8.0, "delta": 1e-3, "max_update_norm": 0.5}
    run = federate(Study.model_validate(table))
    told = run.events("site_privacy")
    assert [e["round"] for e in told] == [1, 2, 3]
    epsilons = [e["epsilon"] for e in told]
    assert epsilons == sorted(epsilons)
    assert epsilons[-1] <= 8.0
    # Three draws of four, the spare one not used: by the closed form of a Gaussian of this noise.
    sigma = told[0]["noise_multiplier"] / np.sqrt(3)
    assert epsilons[-1] == pytest.approx(_closed_form(sigma, 1e-3), rel=5e-3)
    assert run.results["privacy"]["unit"] == "site"


def _closed_form(sigma: float, delta: float) -> float:
    """Epsilon of one Gaussian mechanism, by bisection of Balle & Wang 2018, theorem 8."""
    from scipy.stats import norm

    low, high = 0.0, 100.0
    for _ in range(80):
        epsilon = (low + high) / 2
        spent = norm.cdf(0.5 / sigma - epsilon * sigma) - np.exp(epsilon) * norm.cdf(
            -0.5 / sigma - epsilon * sigma
        )
        low, high = (epsilon, high) if spent > delta else (low, epsilon)
    return high


def test_the_noise_of_sites_is_drawn_again_after_a_crash_and_charged(
    federate: Federate, study: Study, tmp_path: Path
) -> None:
    table = study.model_dump(mode="json", exclude_none=True)
    table["privacy"] = {"mode": "site", "epsilon": 8.0, "delta": 1e-3}
    site_private = Study.model_validate(table)

    def stop(line: dict[str, Any]) -> None:
        if line["event"] == "aggregated" and line["round"] == 2:
            raise StopError

    with pytest.raises(StopError):
        federate(site_private, out=tmp_path / "run", listeners=[stop])
    resumed = federate(site_private, out=tmp_path / "run", resume=True)
    assert [e["draw"] for e in resumed.events("noise_drawn")] == [1, 2, 3, 4]
    assert resumed.results["status"] == "finished"
    assert resumed.events("site_privacy")[-1]["epsilon"] <= 8.0


def test_where_the_ledger_is_is_told_by_the_data_set(finished: Federation) -> None:
    opened = entries(finished, "e")[0]["fields"]
    path = ledger_path(finished.folder / "sites" / "e", opened["dataset_id"])
    assert path.is_file()
