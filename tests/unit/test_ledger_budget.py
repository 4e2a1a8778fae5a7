"""The budget: asked before any work, exact, and cheap in every round of a run."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.ledger.approvals import Approvals
from client.ledger.entries import ledger_path
from client.ledger.ledger import Ledger
from common.errors import RefusalCode
from common.privacy.accounting import epsilon_of
from common.privacy.events import Charge, Part, Unprotected
from common.signing import SigningKey
from tests.unit.ledger_cases import (
    DATASET,
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


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def kinds(state: Path) -> list[str]:
    return [entry["kind"] for entry in entries_of(ledger_path(state, DATASET))]


noises = st.sampled_from([0.7, 1.0, 2.0, 5.0])

plans = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 5), noises, st.integers(1, 30)),
    max_size=25,
)


@given(plans, st.floats(0.5, 40.0))
def test_for_random_plans_spent_stays_within_the_cap_and_every_refusal_is_written(
    tmp_path_factory: pytest.TempPathFactory, plan: list[Any], cap: float
) -> None:
    state, key, num_refused = tmp_path_factory.mktemp("site"), SigningKey.generate(), 0
    with open_ledger(state, key) as ledger:
        for run, number, noise, steps in plan:
            request, charges = request_of(number, run=run), training(noise, 1.0, steps)
            if ledger.sealed(request) is not None:
                continue
            if ledger.would_exceed(charges, epsilon=cap, delta=1e-4):
                ledger.refuse(request, RefusalCode.BUDGET_EXCEEDED)
                num_refused += 1
                assert zcdp_epsilon((*ledger.charges(), *charges), 1e-4) > cap
                continue
            reserve(ledger, request, charges)
            ledger.seal(request, b"update")
        spent = zcdp_epsilon(ledger.charges(), 1e-4)
    assert spent <= cap
    assert kinds(state).count("refused") == num_refused


class _Counting:
    """An accountant that counts how often it is asked."""

    def __init__(self) -> None:
        self.num_asked = 0

    def __call__(self, charges: Sequence[Charge], delta: float) -> float:
        self.num_asked += 1
        return zcdp_epsilon(charges, delta)


@given(
    st.lists(st.lists(st.tuples(noises, st.integers(0, 40)), max_size=4), max_size=12),
    st.floats(0.5, 40.0),
)
def test_a_history_is_within_the_budget_exactly_if_the_accountant_says_so(
    histories: list[list[tuple[float, int]]], cap: float
) -> None:
    approvals = Approvals(zcdp_epsilon)
    for history in histories:
        charges = [charge for noise, n in history for charge in training(noise, 1.0, n)]
        for delta in (1e-3, 1e-6):
            expected = zcdp_epsilon(charges, delta) <= cap
            assert approvals.is_within(charges, epsilon=cap, delta=delta) == expected


def test_a_history_contained_in_an_approved_one_needs_no_accountant(
    state: Path, key: SigningKey
) -> None:
    accountant = _Counting()
    with open_ledger(state, key, accountant=accountant) as ledger:
        whole = training(5.0, 0.1, 200)
        assert not ledger.would_exceed(whole, epsilon=50.0, delta=1e-5)
        for number in range(20):
            charges = training(5.0, 0.1, 10)
            assert not ledger.would_exceed(charges, epsilon=50.0, delta=1e-5)
            reserve(ledger, request_of(number), charges)
        assert accountant.num_asked == 1
        # One step more than was approved, another part, another delta, less noise: asked anew.
        others = [
            training(5.0, 0.1, 1),
            (replace(training(5.0, 0.1, 1)[0], part=Part.TEST),),
            training(4.9, 0.1, 1),
        ]
        for asked, other in enumerate(others, start=2):
            ledger.would_exceed(other, epsilon=50.0, delta=1e-5)
            assert accountant.num_asked == asked
        ledger.would_exceed((), epsilon=50.0, delta=1e-6)
        assert accountant.num_asked == 5


def test_a_refused_history_is_not_approved_by_a_larger_budget_before(
    state: Path, key: SigningKey
) -> None:
    with open_ledger(state, key) as ledger:
        many = training(1.0, 1.0, 50)
        assert not ledger.would_exceed(many, epsilon=1000.0, delta=1e-5)
        assert ledger.would_exceed(many, epsilon=1.0, delta=1e-5)


def test_what_is_unprotected_exceeds_every_finite_budget(state: Path, key: SigningKey) -> None:
    with open_ledger(state, key) as ledger:
        bare = (Charge(event=Unprotected()),)
        assert ledger.would_exceed(bare, epsilon=1e300, delta=1e-5)
        assert not ledger.would_exceed(bare, epsilon=math.inf, delta=1e-5)
        reserve(ledger, request_of(1), bare)
        assert ledger.would_exceed((), epsilon=1e300, delta=1e-5)


def test_an_epsilon_that_is_not_a_number_is_within_no_budget() -> None:
    approvals = Approvals(lambda charges, delta: math.nan)
    assert not approvals.is_within(training(), epsilon=math.inf, delta=1e-5)
    assert not Approvals(zcdp_epsilon).is_within(training(), epsilon=math.nan, delta=1e-5)


def test_the_ledger_asks_the_accountant_of_the_product_by_itself(
    state: Path, key: SigningKey
) -> None:
    spent = epsilon_of(training(steps=20), 1e-5)
    with Ledger.open(
        state, dataset_id=DATASET, cohort_size=303, simulation=True, key=key, durable=False
    ) as ledger:
        reserve(ledger, request_of(1), training(steps=10))
        more = training(steps=10)
        assert not ledger.would_exceed(more, epsilon=spent, delta=1e-5)
        assert ledger.would_exceed(more, epsilon=spent * 0.999, delta=1e-5)
