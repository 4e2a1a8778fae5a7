"""What the parts of a page of results are named after."""

from pathlib import Path

from simulations.results.run import code_files

ROOT = Path(__file__).parents[2]


def test_a_part_depends_on_both_sides_of_a_run_and_not_on_reports() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in code_files()}
    assert {"server/aggregation.py", "server/optimizer.py", "server/strategy.py"} <= names
    assert {"simulations/engine.py", "simulations/simulate.py", "simulations/arms.py"} <= names
    assert "simulations/datasets/dealing.py" in names
    assert not any(name.startswith(("server/report", "server/watch")) for name in names)
