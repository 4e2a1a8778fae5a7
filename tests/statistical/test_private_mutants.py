"""Broken variants of everything that privacy rests on: each must be noticed, the real code not."""

import re
from pathlib import Path

import pytest
import torch

from tests.unit import ledger_probes, private_probes
from tests.unit.mutant import Mutant
from tests.unit.mutants import MUTANTS
from tests.unit.private_probes import Probe

# As in `tests/unit/conftest.py`: more threads would wait for one another.
torch.set_num_threads(1)

PROBES = (*private_probes.PROBES, *ledger_probes.PROBES)


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.__name__)
def test_the_real_code_passes(probe: Probe, tmp_path: Path) -> None:
    probe(tmp_path)


@pytest.mark.threat("S0-1", "R-1")
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_broken_variant_is_noticed(
    mutant: Mutant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant.put_in(monkeypatch)
    # Only a probe's own verdict counts: any other exception would be a mutant that does not work.
    with pytest.raises(AssertionError):
        mutant.noticed_by(tmp_path)


def test_every_probe_notices_something() -> None:
    assert {mutant.noticed_by for mutant in MUTANTS} == set(PROBES)
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 15


def test_the_page_on_privacy_names_tests_that_exist() -> None:
    tests = Path(__file__).parents[1]
    page = (tests.parent / "docs" / "privacy.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)`: `(test_\w+)`", page)
    assert len(named) == 21
    for file, name in named:
        (path,) = tests.rglob(f"{file}.py")
        assert f"def {name}(" in path.read_text(encoding="utf-8"), f"{file}: {name}"
