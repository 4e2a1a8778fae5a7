"""The runner of mutants: what it breaks, and that it would see a test that does not look."""

import sys
import types

import pytest

from tests.mutation.__main__ import summary
from tests.mutation.door import ROOT, modules, name_of
from tests.mutation.operators import mutants_of
from tests.mutation.swap import swap

SOURCE = '''
LIMIT = 10


def passes(number: int, limit: int = LIMIT) -> bool:
    """Whether a number is within the limit."""
    if number > limit:
        raise ValueError(f"too large: {number + 1}")
    return number >= 0 and not number % 2


class Door:
    @property
    def name(self) -> str:
        return "door"
'''


@pytest.fixture
def loaded(tmp_path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("a_door")
    module.__file__ = str(tmp_path / "a_door.py")
    exec(compile(SOURCE, module.__file__, "exec"), vars(module))  # noqa: S102
    monkeypatch.setitem(sys.modules, "a_door", module)
    return module


def test_conditions_numbers_and_results_are_broken_and_no_text_is() -> None:
    changes = {(m.line, m.before, m.after) for m in mutants_of(SOURCE)}
    assert {
        (7, "number > limit", "number >= limit"),
        (7, "if number > limit:", "if False:"),
        (9, "number >= 0 and (not number % 2)", "number >= 0 or not number % 2"),
        (9, "number >= 0 and (not number % 2)", "number >= 0"),
        (9, "not number % 2", "number % 2"),
        (9, "0", "1"),
        (15, "return 'door'", "return None"),
    } <= changes
    assert not {line for line, _, _ in changes} & {2, 5, 6, 8}


def test_a_mutant_takes_the_place_of_the_loaded_code(loaded: types.ModuleType) -> None:
    (mutant,) = (m for m in mutants_of(SOURCE) if m.after == "number >= limit")
    assert loaded.passes(10)
    assert swap("a_door", mutant.tree()) == 1
    with pytest.raises(ValueError, match="too large"):
        loaded.passes(10)


def test_a_method_behind_a_property_is_reached(loaded: types.ModuleType) -> None:
    (mutant,) = (m for m in mutants_of(SOURCE) if m.after == "return None" and m.line == 15)
    assert swap("a_door", mutant.tree()) == 1
    assert loaded.Door().name is None


def test_the_door_is_made_of_modules_and_tests_that_are_there() -> None:
    for path, tests in modules().items():
        assert (ROOT / path).is_file()
        assert tests, f"no tests for {name_of(path)}"
        assert all((ROOT / test).is_file() for test in tests)


def told(came: str, **fields: object) -> dict[str, object]:
    where = {"path": "client/a.py", "line": 7, "before": "a < b", "after": "a <= b"}
    return where | {"came": came, "num_tests": 3} | fields


def test_what_nobody_noticed_is_named_and_what_is_out_of_reach_counts_for_nothing() -> None:
    every = [*map(told, ["caught", "too long", "survived", "out of reach"]), told("not run")]
    lines = list(summary(every))
    assert "| together | 2 (50%) | 4 |" in lines
    assert "- client/a.py:7 `a < b` as `a <= b` (survived, 3 tests)" in lines
    assert sum(line.startswith("- ") for line in lines) == 2
