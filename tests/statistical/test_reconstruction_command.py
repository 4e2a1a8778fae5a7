"""The command that runs the attacks, from a study's file to its page."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from common.study_file import load_study, override, study_to_toml, without_granularity
from simulations.cli_attack import attacks


def test_the_command_writes_what_attacks_reached_and_prints_it(tmp_path: Path) -> None:
    study = load_study("demo")
    for name in [name for name in study.granularities if name != "labs"]:
        study = without_granularity(study, name)
    # Of many rounds nothing here depends.
    study = override(study, training__rounds=1)
    path = tmp_path / "study.toml"
    path.write_text(study_to_toml(study), encoding="utf-8")
    app = typer.Typer()
    app.command()(attacks)
    out = tmp_path / "out"
    options = ["--seeds", "1", "--jobs", "1", "--no-audit", "--shadows", "3", "--out", str(out)]
    result = CliRunner().invoke(app, [str(path), *options])
    assert result.exit_code == 0, result.output
    assert "nothing recovered" in result.output
    table = json.loads((out / "attacks.json").read_text())
    reached = {(f["attack"].partition(" ")[0], f["target"]): f for f in table["findings"]}
    assert reached["analytic", "clipped only"]["succeeded"]
    assert reached["imprint", "no privacy"]["succeeded"]
    assert not any(f["succeeded"] for (_, arm), f in reached.items() if arm == "epsilon 8")
    assert {arm for attack, arm in reached if attack == "membership,"} == {
        "no privacy",
        "epsilon 8",
    }
    assert (out / "attacks.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("option", "value"), [("--epsilon", "0"), ("--seeds", "0"), ("--shadows", "2")]
)
def test_an_option_out_of_range_is_refused(option: str, value: str) -> None:
    app = typer.Typer()
    app.command()(attacks)
    assert CliRunner().invoke(app, ["demo", option, value]).exit_code == 2
