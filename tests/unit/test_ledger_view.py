"""The view of a ledger: what a privacy officer reads, in numbers that are computed anew."""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from client.ledger.entries import ledger_path
from client.ledger.ledger import Ledger
from client.ledger.verification import countersigned_path
from client.ledger.view import LedgerView, epsilon_text, view_ledger
from client.ledger_view import renderables
from common.errors import RefusalCode, SiteConfigError
from common.privacy.events import Charge, Unprotected
from common.signing import SigningKey
from tests.unit.ledger_cases import (
    DATASET,
    countersigned,
    do_round,
    entries_of,
    open_ledger,
    request_of,
    reserve,
    training,
    zcdp_epsilon,
)


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


def view_of(state: Path, **options: Any) -> LedgerView:
    defaults = {"dataset_id": DATASET, "delta": 1e-5, "accountant": zcdp_epsilon}
    return view_ledger(state, **defaults | options)


def text_of(view: LedgerView) -> str:
    console = Console(file=io.StringIO(), width=200)
    for part in renderables(view):
        console.print(part)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def two_runs(ledger: Ledger) -> None:
    for number in (0, 1, 2, 5):
        do_round(ledger, request_of(number))
    do_round(ledger, request_of(2))
    other = replace(request_of(1, run="run-b"), study="brca", study_hash="bc" * 32)
    reserve(ledger, other, training(noise=2.0, rate=1.0, steps=3))
    ledger.refuse(replace(other, round=2), RefusalCode.BUDGET_EXCEEDED)
    ledger.refuse(replace(other, round=2), RefusalCode.BUDGET_EXCEEDED)


def test_spent_is_of_the_whole_history_and_each_run_is_told_alone(
    tmp_path: Path, key: SigningKey
) -> None:
    with open_ledger(tmp_path, key) as ledger:
        two_runs(ledger)
        history = ledger.charges()
    view = view_of(tmp_path, budget=100.0)
    first, second = view.runs
    assert view.spent == zcdp_epsilon(history, 1e-5)
    assert view.left == 100.0 - view.spent
    assert first.epsilon == zcdp_epsilon(training() * 4, 1e-5)
    assert second.epsilon == zcdp_epsilon(training(noise=2.0, steps=3), 1e-5)
    assert view.spent < first.epsilon + second.epsilon  # epsilons do not add up
    assert (first.run_id, first.study, first.rounds) == ("run-a", "heart-disease", (0, 1, 2, 5))
    assert (second.run_id, second.study_hash) == ("run-b", "bc" * 32)
    (events,) = first.events
    assert (events.noise_multiplier, events.sample_rate, events.count) == (1.0, 0.1, 40)
    assert first.noise == ("seeded",)
    assert (first.over_counts, first.resent) == (0, 1)
    assert (second.over_counts, second.refusals) == (1, {"budget_exceeded": 2})
    assert view.over_counts == 1


def test_a_run_that_was_only_refused_is_told(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path, key) as ledger:
        ledger.refuse(request_of(1), RefusalCode.PRIVACY_TOO_WEAK)
    (run,) = view_of(tmp_path).runs
    assert (run.epsilon, run.rounds, run.refusals) == (0.0, (), {"privacy_too_weak": 1})


def test_one_run_is_shown_and_spent_stays_that_of_all(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path, key) as ledger:
        two_runs(ledger)
    view = view_of(tmp_path, run_id="run-b")
    assert [run.run_id for run in view.runs] == ["run-b"]
    assert view.spent == view_of(tmp_path).spent
    with pytest.raises(SiteConfigError, match="Expected a run of this ledger"):
        view_of(tmp_path, run_id="run-c")


def test_nothing_is_left_below_nothing(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path, key) as ledger:
        two_runs(ledger)
    assert view_of(tmp_path, budget=0.1).left == 0.0
    assert view_of(tmp_path).left is None


def test_a_ledger_with_something_unprotected_says_that_no_bound_holds_and_since_when(
    tmp_path: Path, key: SigningKey
) -> None:
    with open_ledger(tmp_path, key) as ledger:
        two_runs(ledger)
        assert view_of(tmp_path).no_bound_since is None
        reserve(ledger, request_of(6), (Charge(event=Unprotected()),))
    view = view_of(tmp_path, budget=3.0)
    *_, last = entries_of(ledger_path(tmp_path, DATASET))
    assert view.no_bound_since == last["at"]
    assert view.left == 0.0
    assert view.over_counts == 1  # the other run's: what is unprotected may be out, seal or not
    table = view.to_json()
    assert (table["spent"], table["runs"][0]["epsilon"]) == (None, None)
    json.dumps(table, allow_nan=False)
    text = text_of(view)
    assert "No bound holds" in text
    assert f"since {last['at']}" in text
    assert "epsilon unbounded" in text


def test_what_happened_to_the_books_is_told(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path, key) as ledger:
        reserve(ledger, request_of(1))
        ledger.reserve(request_of(1), training(), fingerprint="00" * 32, source_kind="secure")
    path = ledger_path(tmp_path, DATASET)
    path.write_bytes(path.read_bytes() + b'{"torn')
    open_ledger(tmp_path, key).close()
    view = view_of(tmp_path)
    assert (view.over_counts, len(view.data_changes), len(view.repairs)) == (2, 1, 1)
    assert view.runs[0].noise == ("secure", "seeded")
    text = text_of(view)
    assert "although nothing was released under them: 2" in text
    assert "changes of the data; what was spent before is added up: 1" in text
    assert "torn last lines that were removed after a power cut: 1" in text


def test_the_view_tells_against_which_head_the_chain_was_checked(
    tmp_path: Path, key: SigningKey
) -> None:
    with open_ledger(tmp_path, key) as ledger:
        do_round(ledger, request_of(1))
        assert "no head was ever countersigned" in text_of(view_of(tmp_path))
        head = countersigned(ledger, SigningKey.generate())
        ledger.accept(head)
        later = countersigned(ledger, SigningKey.generate())
    own, outside = view_of(tmp_path), view_of(tmp_path, last_countersigned=later)
    assert (own.checked_against, own.is_outside_head) == (3, False)
    assert (outside.checked_against, outside.is_outside_head) == (4, True)
    assert "the chain is whole; checked against the site's own copy" in text_of(own)
    assert "the coordinator's copy of the head of entry 4" in text_of(outside)


def test_a_ledger_that_was_edited_is_shown_with_its_faults(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path, key) as ledger:
        two_runs(ledger)
        ledger.accept(countersigned(ledger, SigningKey.generate()))
    path = ledger_path(tmp_path, DATASET)
    path.write_bytes(
        path.read_bytes().replace(b'"noise_multiplier":2.0', b'"noise_multiplier":9.0')
    )
    countersigned_path(tmp_path, DATASET).write_bytes(b"other")
    view = view_of(tmp_path)
    assert "has another digest than it says" in view.faults[0]
    table = view_of(tmp_path, budget=9.0).to_json()
    assert (table["whole"], table["left"]) == (False, None)
    text = text_of(view)
    assert "spent: at least epsilon" in text
    assert "nothing must be spent" in text
    assert "left:" not in text
    assert "the ledger is NOT whole" in text
    assert "fault  entry" in text


def test_a_second_opinion_stands_beside_where_it_is_asked_for(
    tmp_path: Path, key: SigningKey
) -> None:
    def halved(charges: Sequence[Charge], delta: float) -> dict[str, float]:
        return {"half": zcdp_epsilon(charges, delta) / 2, "none": math.inf}

    with open_ledger(tmp_path, key) as ledger:
        do_round(ledger, request_of(1))
    assert view_of(tmp_path).second_opinion is None
    view = view_of(tmp_path, second=halved)
    assert view.second_opinion == {"half": view.spent / 2, "none": math.inf}
    assert view.to_json()["second_opinion"] == {"half": view.spent / 2, "none": None}
    assert f"second opinion at the same delta: half {view.spent / 2:.4g}, none" in text_of(view)


def test_the_text_has_all_that_a_privacy_officer_asks_for(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path, key) as ledger:
        two_runs(ledger)
    view = view_of(tmp_path, budget=100.0)
    text = text_of(view)
    expected = [DATASET, "simulation", "303 training patients", "at delta 1e-05 of 100", "left:"]
    expected += ["run-a", "heart-disease", "0-2, 5", "40 × noise 1, q 0.1 (train)", "run-b"]
    expected += ["refused 2 times: budget_exceeded", "5a5a5a5a", "add or remove one patient"]
    assert [word for word in expected if word not in text] == []


def test_names_are_shown_as_they_are_and_never_as_markup(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path, key) as ledger:
        reserve(ledger, request_of(1, run="[red]run[/]"))
    assert "[red]run[/]" in text_of(view_of(tmp_path))


def test_the_json_has_what_the_text_has(tmp_path: Path, key: SigningKey) -> None:
    with open_ledger(tmp_path, key) as ledger:
        two_runs(ledger)
    view = view_of(tmp_path, budget=100.0)
    table = json.loads(json.dumps(view.to_json(), allow_nan=False))
    assert table["spent"] == view.spent
    assert table["left"] == view.left
    assert table["whole"] is True
    assert table["runs"][1]["refusals"] == {"budget_exceeded": 2}
    assert table["runs"][0]["events"][0]["count"] == 40


def test_a_site_without_a_ledger_says_so(tmp_path: Path) -> None:
    with pytest.raises(SiteConfigError, match="Expected a ledger at"):
        view_of(tmp_path)


def test_a_ledger_of_which_nothing_can_be_read_says_so(tmp_path: Path, key: SigningKey) -> None:
    open_ledger(tmp_path, key).close()
    path = ledger_path(tmp_path, DATASET)
    path.write_bytes(b"other\n")
    with pytest.raises(SiteConfigError, match=r"without a sound entry .entry 0 of 1 is damaged"):
        view_of(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(SiteConfigError, match=r"Expected a readable ledger .* IsADirectoryError"):
        view_of(tmp_path)


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        (0.0, "0"),
        (0.3, "0.3"),
        (4.98612, "4.987"),
        (0.00012341, "0.0001235"),
        (math.inf, "unbounded"),
    ],
)
def test_an_epsilon_is_rounded_up(epsilon: float, text: str) -> None:
    assert epsilon_text(epsilon) == text


def test_the_view_changes_nothing_and_reads_while_the_site_runs(
    tmp_path: Path, key: SigningKey
) -> None:
    with open_ledger(tmp_path, key) as ledger:
        two_runs(ledger)
        before = ledger_path(tmp_path, DATASET).read_bytes()
        view_of(tmp_path)
        assert ledger_path(tmp_path, DATASET).read_bytes() == before
        do_round(ledger, request_of(7))
