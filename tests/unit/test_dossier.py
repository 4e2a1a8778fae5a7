"""What a dossier holds: all that left, what it cost, and no more than its books bear out."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from client.audit import audit_path
from client.config import load_site_config
from client.dossier.contents import faults_of
from client.dossier.making import make_dossier
from client.dossier.words import reason_of
from client.ledger.entries import ledger_path
from client.site import Site
from common.errors import RefusalCode, SiteConfigError
from common.messages import TaskKind
from common.privacy.accounting import epsilon_of
from common.privacy.meaning import most_likely, most_right
from common.study import Study
from tests.unit.consortium import COORDINATOR
from tests.unit.dossier_cases import CLOCK, DATASET, NUM_PATIENTS, Hospital
from tests.unit.ledger_cases import STUDY_HASH, open_ledger, training
from tests.unit.private_site_cases import answer

OpenReal = Callable[..., Site]


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


# What left.


def test_each_message_is_in_it_and_sums_are_over_all_of_them(hospital: Hospital) -> None:
    hospital.live(3)
    hospital.log(kind=TaskKind.EVALUATE, metrics={"event.confusion": (1.0, 2.0)})
    dossier = hospital.dossier()
    private, refused = dossier["runs"]
    assert [m["round"] for m in private["messages"]] == [0, 1, 2, 0]
    assert [m["status"] for m in refused["messages"]] == ["budget_exceeded"]
    # An update of 10 float32, one count and 3 numbers of a statistic: 40 + 8 + 24 bytes.
    assert private["messages"][0]["size_bytes"] == 72
    assert dossier["left"]["size_bytes"] == 3 * 72 + 16
    assert (dossier["left"]["num_messages"], dossier["left"]["num_refusals"]) == (4, 1)
    evaluation, train = private["kinds"]
    assert (evaluation["kind"], evaluation["num_messages"], evaluation["counts"]) == (
        "evaluate",
        1,
        [],
    )
    assert (train["num_messages"], train["num_elements"], train["num_receipts"]) == (3, 10, 3)
    # The norm of 0, 1, ..., 9 is the root of 285.
    assert train["largest_norm"] == pytest.approx(math.sqrt(285), abs=1e-6)
    assert (train["counts"], train["statistics"]) == (["patients"], ["event.confusion"])
    assert private["rounds"] == [0, 1, 2]
    assert private["withheld"] == {"counts.labs": 3}
    assert refused["refusals"] == {"budget_exceeded": 1}
    assert len(private["messages"][0]["sha256"]) == 64


def test_runs_are_told_apart_by_study_too(hospital: Hospital) -> None:
    hospital.live(1)
    hospital.log(round=1)
    hospital.log(round=2, study_hash="0" * 64)
    hashes = [run["study_hash"] for run in hospital.dossier()["runs"]]
    assert hashes == [STUDY_HASH, STUDY_HASH, "0" * 64]


def test_it_holds_the_names_of_counts_and_not_their_numbers(hospital: Hospital) -> None:
    hospital.live()
    signed = hospital.signed()
    assert b'"patients"' in signed.to_bytes()
    assert str(NUM_PATIENTS).encode() not in signed.to_bytes()
    assert str(NUM_PATIENTS) not in signed.page()
    assert f"{NUM_PATIENTS:,}" not in signed.page()


def test_equal_books_and_an_equal_clock_give_equal_bytes(hospital: Hospital) -> None:
    hospital.live()
    first, second = hospital.signed(), hospital.signed()
    assert first.to_bytes() == second.to_bytes()
    assert first.page() == second.page()


def test_a_log_from_before_sizes_were_told_gives_at_least_so_much(hospital: Hospital) -> None:
    hospital.live(1)
    hospital.update(1, None, without=["size_bytes"])
    dossier = hospital.dossier()
    assert (dossier["left"]["size_bytes"], dossier["left"]["num_of_unknown_size"]) == (72, 1)
    assert "at least 72 B" in hospital.signed().page()


def test_the_size_in_the_log_is_that_of_the_numbers_that_left(
    open_real: OpenReal, tiny_study: Study
) -> None:
    site = open_real(tiny_study)
    reply = answer(site, tiny_study)
    assert reply.arrays is not None
    numbers = len(reply.counts) + sum(len(values) for values in reply.metrics.values())
    folder = site.folder  # type: ignore[attr-defined]
    dossier = make_dossier(folder, None, made_at=CLOCK).dossier
    assert dossier["left"]["size_bytes"] == reply.arrays.flat.nbytes + 8 * numbers
    (run,) = dossier["runs"]
    assert run["messages"][0]["sha256"] == reply.arrays.digest()
    assert (run["study"], dossier["coordinator_key"]) == ("tiny", COORDINATOR.public_key)
    assert run["privacy"] == {"protection": "none"}
    assert faults_of(dossier) == []


def test_one_run_is_told_of_alone(hospital: Hospital) -> None:
    hospital.live()
    dossier = hospital.dossier("run-b")
    assert [run["run_id"] for run in dossier["runs"]] == ["run-b"]
    assert dossier["left"]["num_messages"] == 0
    # What is spent is of these patients, whatever run is asked for.
    assert dossier["privacy"]["epsilon"] == hospital.dossier()["privacy"]["epsilon"]
    assert dossier["chains"] == hospital.dossier()["chains"]
    with pytest.raises(SiteConfigError, match="found none by the id 'run-c'"):
        hospital.dossier("run-c")


# What it cost, and what could be done with it.


def test_what_it_cost_is_computed_from_the_whole_ledger(hospital: Hospital) -> None:
    hospital.live(3)
    dossier = hospital.dossier()
    epsilon = epsilon_of(training() * 3, 1e-5)
    assert dossier["privacy"]["epsilon"] == epsilon
    assert dossier["privacy"]["left"] == 100.0 - epsilon
    assert dossier["runs"][0]["privacy"]["epsilon"] == epsilon
    assert dossier["runs"][0]["privacy"]["events"][0]["count"] == 30
    assert dossier["privacy"]["num_countersigned"] == 3
    newest = dossier["chains"]["ledger"]["newest_countersigned"]
    assert newest["key"] == hospital.coordinator.public_key
    of_run, of_all = dossier["bounds"]
    assert (of_run["run_id"], of_all["run_id"]) == ("run-a", None)
    assert of_all["guess_right_at_most"] == most_right(epsilon, 1e-5)
    assert of_all["recognised_at_most"] == most_likely(0.01, epsilon, 1e-5)


def test_a_run_without_privacy_has_no_bound_and_takes_that_of_all_runs(hospital: Hospital) -> None:
    hospital.live(1)
    with open_ledger(hospital.state, hospital.key) as ledger:
        hospital.release_unprotected(ledger)
    dossier = hospital.dossier()
    protections = {run["run_id"]: run["privacy"]["protection"] for run in dossier["runs"]}
    assert protections == {"run-a": "patient", "run-b": "nothing_left", "run-bare": "none"}
    assert [bound["run_id"] for bound in dossier["bounds"]] == ["run-a"]
    assert dossier["privacy"]["epsilon"] is None
    assert dossier["privacy"]["no_bound_since"] is not None


def test_numbers_that_no_entry_of_the_ledger_explains_are_unprotected(hospital: Hospital) -> None:
    hospital.live(1)
    hospital.update(0, None, run_id="run-c")
    dossier = hospital.dossier()
    assert dossier["runs"][-1]["privacy"] == {"protection": "none"}
    assert [bound["run_id"] for bound in dossier["bounds"]] == ["run-a"]


def test_every_refusal_has_words() -> None:
    for code in RefusalCode:
        assert "no words" not in reason_of(code.value), code
    assert "no words" in reason_of("invented")


# What it rests on.


def change_log(hospital: Hospital) -> None:
    path = audit_path(hospital.state)
    path.write_bytes(path.read_bytes().replace(b'"round":1', b'"round":7'))


def cut_log(hospital: Hospital) -> None:
    path = audit_path(hospital.state)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1]))


def change_ledger(hospital: Hospital) -> None:
    path = ledger_path(hospital.state, DATASET)
    path.write_bytes(path.read_bytes().replace(b'"round":1', b'"round":7', 1))


@pytest.mark.threat("I-2")
@pytest.mark.parametrize("edit", [change_log, cut_log, change_ledger])
def test_books_that_were_changed_are_told_of_and_bear_no_bound(
    hospital: Hospital, edit: Callable[[Hospital], None]
) -> None:
    hospital.live()
    assert hospital.dossier()["bounds"]
    edit(hospital)
    dossier = hospital.dossier()
    assert faults_of(dossier)
    assert dossier["bounds"] == []
    assert {run["privacy"]["protection"] for run in dossier["runs"]} == {"unknown"}
    assert dossier["privacy"]["is_at_least"] is (edit is change_ledger)
    page = hospital.signed().page()
    assert 'class="fault"' in page
    assert page.index("NOT what was written") < page.index("What left, and to whom</h2>")
    assert "What an attack on one patient reaches at most" not in page


def test_heads_are_those_of_the_files(hospital: Hospital) -> None:
    hospital.live(2)
    chains = hospital.dossier()["chains"]
    for name, path in (
        ("audit", audit_path(hospital.state)),
        ("ledger", ledger_path(hospital.state, DATASET)),
    ):
        last = json.loads(path.read_bytes().splitlines()[-1])
        assert chains[name]["head"] == {"seq": last["seq"], "digest": last["digest"]}


def test_a_simulation_without_privacy_has_neither_key_nor_ledger(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, simulated=True, has_key=False)
    hospital.update(0, None)
    signed = hospital.signed()
    assert (signed.signature, signed.dossier["public_key"]) == (None, None)
    assert (signed.dossier["privacy"], signed.dossier["chains"]["ledger"]) == (None, None)
    assert signed.dossier["runs"][0]["privacy"] == {"protection": "none"}
    assert "this simulated hospital has no key" in signed.page()
    assert not (hospital.state / "keys").exists()


def test_a_private_simulation_whose_ledger_is_gone_has_no_dossier(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, simulated=True)
    hospital.live()
    assert hospital.dossier()["is_simulation"] is True
    ledger_path(hospital.state, DATASET).unlink()
    with pytest.raises(SiteConfigError, match="Expected a ledger at"):
        hospital.dossier()


def test_it_reads_and_changes_nothing(hospital: Hospital) -> None:
    hospital.live()

    def files() -> dict[Path, bytes]:
        state = load_site_config(hospital.folder).state_dir
        return {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}

    before = files()
    hospital.signed()
    assert files() == before
