"""The attacks of one command: what an arm reaches depends on nothing else, and who is asked for."""

from pathlib import Path

import pytest

from common.study import Study
from common.study_file import load_study, override, without_granularity
from simulations.attacks.exposure import PLAIN, protections
from simulations.attacks.inferred import Measured
from simulations.attacks.membership import LIRA, LOSS_THRESHOLD
from simulations.attacks.reconstruction import reconstruct
from simulations.attacks.simulated_members import TOLD, attack_members
from simulations.attacks.suite import attack_all

EPSILON = 8.0
PRIVATE = protections(EPSILON)[-1]


@pytest.fixture(scope="module")
def labs() -> Study:
    """The demo study with one table, and one round."""
    study = load_study("demo")
    for name in [name for name in study.granularities if name != "labs"]:
        study = without_granularity(study, name)
    return override(study, training__rounds=1)


def test_an_arm_reaches_the_same_alone_and_beside_others(labs: Study) -> None:
    alone = reconstruct(labs, [PRIVATE], seed=1).measured
    beside = reconstruct(labs, [PLAIN, PRIVATE], seed=1).measured
    assert alone
    assert alone.items() <= beside.items()
    assert {arm for _, arm in beside} == {PLAIN.name, PRIVATE.name}


def test_equal_arguments_give_equal_figures_of_membership(labs: Study, tmp_path: Path) -> None:
    found: list[Measured] = []
    for name in ("one", "two"):
        found.append({})
        attack_members(
            labs, [PRIVATE], seed=1, num_models=4, folder=tmp_path / name, measured=found[-1]
        )
    assert found[0] == found[1]
    assert set(found[0]) == {(LIRA, PRIVATE.name), (LOSS_THRESHOLD, PRIVATE.name)}
    assert found[0][LIRA, PRIVATE.name][TOLD] in (0.0, 1.0)


def test_without_shadows_nobody_is_asked_for_members(labs: Study) -> None:
    found = attack_all(labs, epsilon=EPSILON, seed=1, own_encoder=False, num_shadows=0)
    assert found.measured
    assert not {LIRA, LOSS_THRESHOLD} & {attack for attack, _ in found.measured}
