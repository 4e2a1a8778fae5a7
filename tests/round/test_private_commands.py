"""Privacy as its users meet it at the command line: asked for, printed, looked up, refused."""

import json
from pathlib import Path

import pytest
import tomli_w

from client.config import load_site_config
from common.study_file import load_study, with_patient_privacy, without_privacy
from server.report.privacy import cost_of
from tests.round.commands import Run, edit


def test_any_study_runs_with_privacy_and_prints_what_every_site_spent(
    run: Run,
    study_file: Path,
    sites: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    done = run("simulate", study_file, "--sites", sites, "--epsilon", 2, "--out", out)
    assert done.code == 0
    privacy = json.loads((out / "results.json").read_text())["privacy"]
    assert (privacy["mode"], privacy["epsilon"], privacy["delta"]) == ("patient", 2.0, 1e-4)
    for site in ("ada", "bea", "cy"):
        spent = privacy["sites"][site]["epsilon"]
        assert 0 < spent <= 2.0
        assert cost_of(spent) in done.out
    assert "add or remove one patient" in " ".join(done.out.split())
    assert "Promised" in (out / "report.md").read_text()


def test_the_ledger_of_a_simulated_hospital_can_be_looked_up(
    run: Run,
    study_file: Path,
    sites: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    run("simulate", study_file, "--sites", sites, "--epsilon", 2, "--out", out)
    shown = run("ledger", sites / "ada", "--run", out, "--json")
    assert shown.code == 0
    view = json.loads(shown.out)
    assert view["simulation"]
    assert view["whole"]
    assert 0 < view["spent"] <= 2.0
    (path,) = (out / "sites" / "ada" / "ledger").glob("*.jsonl")
    text = path.read_text()
    path.write_text(text.replace('"sample_rate":', '"sample_rate": ', 1))
    broken = run("ledger", sites / "ada", "--run", out)
    assert broken.code == 1
    assert "not whole" in broken.out.lower()


def test_a_hospital_without_a_ledger_is_told_so_in_one_sentence(
    run: Run,
    sites: Path,
) -> None:
    shown = run("ledger", sites / "ada")
    assert shown.code == 1
    assert "Expected a ledger" in shown.err


@pytest.mark.parametrize(
    "words",
    [
        ("--epsilon", "-1"),
        ("--epsilon", "nan"),
        ("--epsilon", "1", "--delta", "2"),
        ("--delta", "0.001"),
    ],
)
def test_nonsense_about_privacy_is_refused_before_anything_is_written(
    run: Run,
    study_file: Path,
    sites: Path,
    tmp_path: Path,
    words: tuple[str, ...],
) -> None:
    out = tmp_path / "run"
    refused = run("simulate", study_file, "--sites", sites, *words, "--out", out)
    assert refused.code != 0
    assert "xpected" in refused.err or "--delta needs --epsilon" in refused.err
    assert not out.exists()


def test_a_study_whose_loss_compares_patients_is_refused_with_the_reason(
    run: Run,
    tmp_path: Path,
) -> None:
    table = load_study("tcga-brca-clinical").model_dump(mode="json", exclude_none=True)
    table["outcomes"]["survival"]["loss"] = "cox"
    path = tmp_path / "cox.toml"
    path.write_text(tomli_w.dumps(table))
    refused = run("simulate", path, "--epsilon", 3, "--out", tmp_path / "run")
    assert refused.code == 1
    assert not (tmp_path / "run").exists()
    assert "cox" in refused.err
    assert "discrete_time" in refused.err


def test_arms_compare_budgets_with_no_privacy(
    run: Run,
    study_file: Path,
    sites: Path,
    tmp_path: Path,
) -> None:
    edit(study_file, "rounds = 3", "rounds = 1")
    words = ("--epsilon", 1, "--epsilon", 50, "--seeds", 1, "--jobs", 1, "--out", tmp_path / "arms")
    done = run("arms", study_file, "--sites", sites, *words)
    assert done.code == 0
    for row in ("federated, no privacy", "pooled, no privacy", "federated, epsilon 1"):
        assert f"| {row} |" in done.out
    assert "| local only, epsilon 50 |" in done.out
    assert "pooled, epsilon" not in done.out


def test_privacy_leaves_out_what_looks_at_exact_outcomes_and_nothing_else() -> None:
    before = load_study("heart-disease")
    private = with_patient_privacy(before, epsilon=2.0, delta=1e-5)
    assert private.model.site_intercept_sd == 0.0
    back = without_privacy(private).model_dump()
    back["model"]["site_intercept_sd"] = before.model.site_intercept_sd
    assert back == before.model_dump()


def test_a_private_study_keeps_its_own_clipping_and_weights() -> None:
    shipped = load_study("heart-disease-private")
    other = with_patient_privacy(shipped, epsilon=1.0, delta=1e-5)
    expected = shipped.privacy.model_dump() | {"epsilon": 1.0, "delta": 1e-5}
    assert other.privacy.model_dump() == expected


def test_arms_refuse_a_delta_without_an_epsilon(run: Run, study_file: Path, sites: Path) -> None:
    refused = run("arms", study_file, "--sites", sites, "--delta", 1e-4)
    assert refused.code == 2
    assert "--delta needs --epsilon" in refused.err


def test_a_study_that_hides_sites_tells_that_epsilon_is_about_patients_instead(
    run: Run, study_file: Path, sites: Path, tmp_path: Path
) -> None:
    hidden = '[privacy]\nmode = "site"\nepsilon = 3.0\ndelta = 1e-4\n'
    study_file.write_text(study_file.read_text() + hidden)
    done = run("simulate", study_file, "--sites", sites, "--epsilon", 2, "--out", tmp_path / "run")
    assert done.code == 0
    assert "each patient is protected, in place of each site" in done.out


def test_an_interruption_before_the_first_round_leaves_nothing_to_go_on_with(
    run: Run, study_file: Path, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("simulations.simulate.open_sites", interrupted)
    words = ("simulate", study_file, "--sites", sites, "--out", tmp_path / "run")
    done = run(*words)
    assert done.code == 130
    assert "Interrupted before the first round. Give the same command again." in done.out
    monkeypatch.undo()


def test_check_site_tells_what_a_private_run_costs_here(
    run: Run, study_file: Path, sites: Path, tmp_path: Path
) -> None:
    path = tmp_path / "private.toml"
    private = '[privacy]\nmode = "patient"\nepsilon = 3.0\ndelta = 1e-4\n'
    path.write_text(study_file.read_text() + private)
    folder = sites / "ada"
    missing = run("check-site", folder, "--study", path)
    assert missing.code == 1
    assert "epsilon_budget and cohort_size in [policy]" in missing.out
    with (folder / "site.toml").open("a") as file:
        file.write("epsilon_budget = 10.0\ncohort_size = 60\n")
    content = run("check-site", folder, "--study", path)
    assert content.code == 0
    assert "one run here: epsilon 2.9" in content.out
    assert "budget 0 of 10 spent" in content.out
    assert len(content.out.splitlines()) <= 5
    assert not load_site_config(folder).state_dir.exists()


def test_a_device_that_is_not_there_is_refused_before_anything_is_measured(run: Run) -> None:
    refused = run("bench", "private-step", "--device", "tpu")
    assert refused.code == 2
    assert "expected cpu or cuda:N, found 'tpu'" in refused.err
    lacking = run("bench", "private-step", "--device", "cuda:99")
    assert lacking.code == 1
    assert "Expected the GPU cuda:99" in lacking.err
