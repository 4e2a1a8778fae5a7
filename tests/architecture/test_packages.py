"""The packages as installed: their names are ours alone, and they load no more than we say."""

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.code_version import code_fingerprint, release
from simulations.cli import app

ROOT = Path(__file__).parents[2]
PACKAGES = ("client", "common", "server", "simulations")


def _loaded_by(statement: str) -> set[str]:
    """The top-level names of the modules that a fresh interpreter has after `statement`."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_no_other_distribution_owns_our_top_level_names() -> None:
    # The names are plain words, as a Flower App Bundle needs them; another owner would shadow us.
    owners = packages_distributions()
    for name in PACKAGES:
        assert set(owners.get(name, [])) <= {"wardround"}, name


@pytest.mark.parametrize(
    "module", ["common.wire", "common.study_file", "client.app", "client.data"]
)
def test_relays_and_checks_load_no_torch(module: str) -> None:
    assert "torch" not in _loaded_by(f"import {module}")


def test_the_command_line_loads_neither_torch_nor_flwr_nor_pandas() -> None:
    assert {"torch", "flwr", "pandas", "ray"}.isdisjoint(_loaded_by("import simulations.cli"))


def test_help_loads_neither_torch_nor_flwr_nor_pandas() -> None:
    statement = (
        "import contextlib, io, sys, simulations.cli\n"
        "sys.argv = ['wardround', '--help']\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "    simulations.cli.main()\n"
        "assert 'simulate' in out.getvalue()"
    )
    assert {"torch", "flwr", "pandas", "ray"}.isdisjoint(_loaded_by(statement))


def test_the_version_names_the_code_that_both_sides_compare() -> None:
    told = CliRunner().invoke(app, ["--version"])
    assert told.stdout == f"wardround {release()}, code {code_fingerprint()}\n"


def test_every_folder_of_code_is_an_installed_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert found == listed
    for package in found:
        assert (ROOT / Path(*package.split(".")) / "__init__.py").is_file(), package
