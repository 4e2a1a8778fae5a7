"""Masks: one for an exchange, and none that a hospital could know of before."""

import pytest

from server.superlink.masks import Masks


def test_the_messages_of_one_exchange_have_one_mask() -> None:
    masks = Masks()
    assert len({masks.mask_for(node_id) for node_id in (1, 2, 3)}) == 1


@pytest.mark.threat("N-3")
def test_no_node_gets_two_messages_under_one_mask() -> None:
    masks = Masks()
    exchanges = [{masks.mask_for(node_id) for node_id in (1, 2, 3)} for _ in range(3)]
    assert all(len(exchange) == 1 for exchange in exchanges)
    assert len(set.union(*exchanges)) == 3


def test_another_run_of_the_same_study_has_another_mask() -> None:
    assert Masks().mask_for(1) != Masks().mask_for(1)


def model() -> bytes:
    return bytes(range(256)) * 9


def test_messages_with_the_same_arrays_under_the_same_mask_hold_one_copy_of_them() -> None:
    masks = Masks()
    (first,) = masks.shared([model()])
    (second,) = masks.shared([model()])
    assert second is first


@pytest.mark.parametrize("other", [[], [b"x"], [model()[::-1]], [b"x", model()]])
def test_other_arrays_stay_what_they_are(other: list[bytes]) -> None:
    masks = Masks()
    masks.shared([model()])
    assert masks.shared(other) == other
    assert masks.shared([model()]) == [model()]
