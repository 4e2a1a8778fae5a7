"""The command line as its users meet it: what they type, what they read, the exit code."""

import json
import tomllib
from pathlib import Path

import pytest

from common.study import Study
from common.study_file import load_study, shipped_studies, study_from_toml, study_to_toml
from tests.round.commands import Run, edit
from tests.round.tiny import TINY_STUDY


def test_simulate_trains_and_names_report_results_and_model(
    run: Run, study_file: Path, sites: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    outcome = run("simulate", study_file, "--sites", sites, "--out", out)
    assert outcome.code == 0
    for name in ("report.md", "results.json", "model.safetensors"):
        assert name in outcome.out
        assert (out / name).is_file()
    results = json.loads((out / "results.json").read_text())
    assert results["status"] == "finished"
    assert [entry["round"] for entry in results["rounds"]] == [0, 1, 2, 3]
    assert set(results["rounds"][-1]["sites"]) == {"ada", "bea", "cy"}


def test_simulate_prints_results_as_json_and_nothing_else_on_stdout(
    run: Run, study_file: Path, sites: Path, tmp_path: Path
) -> None:
    outcome = run(
        "simulate", study_file, "--sites", sites, "--out", tmp_path / "run", "--json", "--rounds", 1
    )
    assert outcome.code == 0
    assert json.loads(outcome.out)["num_rounds"] == 1


def test_simulate_without_sites_simulates_hospitals(
    run: Run, study_file: Path, tmp_path: Path
) -> None:
    outcome = run("simulate", study_file, "--num-sites", 3, "--rounds", 1, "--out", tmp_path / "r")
    assert outcome.code == 0
    assert len(list((tmp_path / "r" / "hospitals").glob("*/site.toml"))) == 3


def test_several_classes_are_trained_and_reported_like_two(
    run: Run, study_file: Path, tmp_path: Path
) -> None:
    edit(study_file, 'kind = "binary"', 'kind = "multiclass"')
    edit(study_file, 'classes = ["no", "yes"]', 'classes = ["none", "mild", "severe"]')
    out = tmp_path / "run"
    outcome = run("simulate", study_file, "--num-sites", 3, "--out", out, "--rounds", 5)
    assert outcome.code == 0
    rounds = json.loads((out / "results.json").read_text())["rounds"]
    first, (oracle, pooled) = rounds[0], (rounds[-1][k]["event"] for k in ("oracle", "pooled"))
    assert oracle["loss"] < first["oracle"]["event"]["loss"]
    for name in ("accuracy", "f1", "loss", "brier", "calibration_error"):
        assert pooled[name] == pytest.approx(oracle[name])
    assert abs(pooled["auroc"] - oracle["auroc"]) <= pooled["auroc_error_bound"] + 1e-9


def test_an_override_makes_another_effective_study(
    run: Run, study_file: Path, study: Study, sites: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(
        "simulate", study_file, "--sites", sites, "--out", out, "--strategy", "fedadam", "--seed", 3
    )
    effective = load_study(out / "study.toml")
    assert (effective.strategy.name, effective.training.seed) == ("fedadam", 3)
    results = json.loads((out / "results.json").read_text())
    assert results["study_hash"] == effective.hash != study.hash


def test_simulate_refuses_an_occupied_folder_and_changes_nothing_in_it(
    run: Run, study_file: Path, sites: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run("simulate", study_file, "--sites", sites, "--out", out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    outcome = run("simulate", study_file, "--out", out)
    assert outcome.code == 1
    assert "--resume" in outcome.err
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(
    run: Run, study_file: Path, sites: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run("simulate", study_file, "--sites", sites, "--out", out)
    model = (out / "model.safetensors").read_bytes()
    outcome = run("simulate", study_file, "--sites", sites, "--out", out, "--resume")
    assert outcome.code == 0
    assert (out / "model.safetensors").read_bytes() == model


def test_a_folder_without_a_run_cannot_be_resumed_and_stays_empty(
    run: Run, study_file: Path, tmp_path: Path
) -> None:
    outcome = run("simulate", study_file, "--out", tmp_path / "run", "--resume")
    assert outcome.code == 1
    assert "Expected a run to go on with" in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("rounds = 3", "rounds = 0", "training.rounds"),
        ("rounds = 3", "rounds = 3\nlocal_steps = 3", "exactly one of local_epochs"),
        ("rounds = 3", "rounds = 3\nbatchsize = 3", "training.batchsize: unknown key"),
        ("width = 4", "width = 4\nnum_heads = 3", "num_heads divides"),
        ("range = [18, 100]", "range = [100, 18]", "low < high"),
        ('classes = ["no", "yes"]', 'classes = ["no"]', "expected 2 different"),
        ("[training]", "[training", "TOML"),
        ("age_years =", "steps_per_day =", "named once"),
    ],
)
def test_a_malformed_study_is_one_clear_error_and_writes_nothing(
    run: Run, study_file: Path, tmp_path: Path, old: str, new: str, expected: str
) -> None:
    edit(study_file, old, new)
    outcome = run("simulate", study_file, "--out", tmp_path / "run")
    assert outcome.code == 1
    assert expected in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "run").exists()


def test_an_unknown_study_name_lists_those_that_are_shipped(run: Run) -> None:
    outcome = run("simulate", "demmo")
    assert outcome.code == 1
    assert ", ".join(shipped_studies()) in outcome.err.replace("\n", " ")


def test_a_wrong_strategy_names_those_there_are(run: Run, study_file: Path) -> None:
    outcome = run("simulate", study_file, "--strategy", "fedsgd")
    assert outcome.code == 1
    assert "fedyogi" in outcome.err


def test_a_folder_without_sites_says_what_is_expected(
    run: Run, study_file: Path, tmp_path: Path
) -> None:
    outcome = run("simulate", study_file, "--sites", tmp_path, "--out", tmp_path / "run")
    assert outcome.code == 1
    assert "site.toml" in outcome.err
    assert not (tmp_path / "run").exists()


def test_simulate_names_the_faults_of_all_sites_before_it_starts(
    run: Run, study_file: Path, sites: Path, tmp_path: Path
) -> None:
    edit(sites / "ada" / "site.toml", "[policy]", "[polizei]")
    edit(sites / "cy" / "patients.csv", "cy-00002", "cy-00001")
    outcome = run("simulate", study_file, "--sites", sites, "--out", tmp_path / "run")
    assert outcome.code == 1
    assert "ada: " in outcome.err
    assert "polizei: unknown key" in outcome.err
    assert "cy: Expected every patient once, found 1 rows that repeat an id" in outcome.err
    assert not (tmp_path / "run").exists()


def test_a_site_below_its_minimum_is_absent_and_shown(
    run: Run, study_file: Path, sites: Path, tmp_path: Path
) -> None:
    edit(sites / "bea" / "site.toml", "min_patients = 20", "min_patients = 2000")
    out = tmp_path / "run"
    outcome = run("simulate", study_file, "--sites", sites, "--out", out)
    assert outcome.code == 0
    results = json.loads((out / "results.json").read_text())
    assert set(results["sites"]) == {"ada", "cy"}
    assert [a["reason"] for a in results["absent"]] == ["too_few_patients"]
    assert "too_few_patients" in (out / "report.md").read_text()


def test_too_few_sites_end_the_run_with_a_sentence(
    run: Run, study_file: Path, sites: Path, tmp_path: Path
) -> None:
    for name in ("ada", "bea"):
        edit(sites / name / "site.toml", "min_patients = 20", "min_patients = 2000")
    outcome = run("simulate", study_file, "--sites", sites, "--out", tmp_path / "run")
    assert outcome.code == 1
    assert "at least 2 sites" in outcome.err


def test_check_site_is_content_with_a_good_folder(run: Run, study_file: Path, sites: Path) -> None:
    outcome = run("check-site", sites / "ada", "--study", study_file)
    assert outcome.code == 0
    assert "ada can take part" in outcome.out


def test_check_site_tells_every_fault_in_one_pass_without_a_value(
    run: Run, study_file: Path, sites: Path
) -> None:
    table = sites / "ada" / "patients.csv"
    lines = table.read_text().splitlines()
    header = lines[0].split(",")
    for row, (column, value) in enumerate(
        [("age_years", "SECRETAGE"), ("age_years", "inf"), ("event", "SECRETEVENT")], start=1
    ):
        cells = lines[row].split(",")
        cells[header.index(column)] = value
        lines[row] = ",".join(cells)
    lines.append(lines[-1])
    table.write_text("\n".join(lines) + "\n")
    outcome = run("check-site", sites / "ada", "--study", study_file)
    assert outcome.code == 1
    for expected in (
        "found 1 cells of text (patients.csv, column age_years)",
        "found 1 infinite values (patients.csv, column age_years)",
        "found 1 other values (patients.csv, column event)",
        "found 1 rows that repeat an id (patients.csv, column patient_id)",
    ):
        assert expected in outcome.out
    assert "SECRET" not in outcome.out + outcome.err


def test_check_site_tells_that_the_policy_would_refuse_every_task(
    run: Run, study_file: Path, sites: Path
) -> None:
    path = sites / "ada" / "site.toml"
    edit(path, "allow_without_privacy = true", "allow_without_privacy = false")
    outcome = run("check-site", sites / "ada", "--study", study_file)
    assert outcome.code == 1
    assert "privacy_required" in outcome.out


def test_two_site_folders_with_one_name_are_an_error(
    run: Run, study_file: Path, sites: Path, tmp_path: Path
) -> None:
    edit(sites / "bea" / "site.toml", 'name = "bea"', 'name = "ada"')
    outcome = run("simulate", study_file, "--sites", sites, "--out", tmp_path / "run")
    assert outcome.code == 1
    assert "found ada more than once" in outcome.err


def test_a_site_cannot_be_late_within_one_process(
    run: Run, study_file: Path, sites: Path, tmp_path: Path
) -> None:
    study_file.write_text(TINY_STUDY + "[strategy]\nround_timeout_s = 0.000001\n")
    outcome = run("simulate", study_file, "--sites", sites, "--out", tmp_path / "run")
    assert outcome.code == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["absent"] == []


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "fedadam", "fedyogi", "fedadagrad"])
def test_every_strategy_learns_with_its_own_defaults(
    run: Run, tmp_path: Path, strategy: str
) -> None:
    # The tables of the demo: learning rates are what is looked at here.
    table = load_study("demo").model_dump(mode="json", exclude_none=True)
    table["outcomes"] = {"event": table["outcomes"]["event"]}
    table["granularities"] = {k: table["granularities"][k] for k in ("labs", "lifestyle")}
    study_file, out = tmp_path / "tables.toml", tmp_path / "run"
    study_file.write_text(study_to_toml(Study.model_validate(table)))
    outcome = run("simulate", study_file, "--rounds", 10, "--strategy", strategy, "--out", out)
    assert outcome.code == 0
    rounds = json.loads((out / "results.json").read_text())["rounds"]
    first, last = (entry["oracle"]["event"]["loss"] for entry in (rounds[0], rounds[-1]))
    # From .69, of nothing learned; what labs and lifestyle can tell of the event leaves about .55.
    assert last < 0.9 * first


def test_arms_name_a_site_that_was_absent(
    run: Run, study_file: Path, sites: Path, tmp_path: Path
) -> None:
    edit(sites / "bea" / "site.toml", "min_patients = 20", "min_patients = 2000")
    words = ["arms", study_file, "--sites", sites, "--seeds", 1, "--jobs", 1]
    outcome = run(*words, "--out", tmp_path / "arms")
    assert outcome.code == 1
    assert "found bea absent" in outcome.err


def test_check_site_speaks_json(run: Run, study_file: Path, sites: Path) -> None:
    edit(sites / "ada" / "site.toml", "min_patients = 20", "min_patients = 2000")
    outcome = run("check-site", sites / "ada", "--study", study_file, "--json")
    assert outcome.code == 1
    check = json.loads(outcome.out)
    assert check["usable"] is False
    assert check["findings"][0]["severity"] == "error"


def test_check_site_without_a_policy_says_so(run: Run, study_file: Path, sites: Path) -> None:
    path = sites / "ada" / "site.toml"
    path.write_text(path.read_text().split("[policy]")[0])
    outcome = run("check-site", sites / "ada", "--study", study_file)
    assert outcome.code == 1
    assert "policy: required and missing" in outcome.err


def test_init_site_writes_a_folder_that_check_site_can_read(
    run: Run, study_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "St. Mary's"
    assert run("init-site", folder, "--study", study_file).code == 0
    outcome = run("check-site", folder, "--study", study_file)
    assert outcome.code == 1
    assert "found 0 rows" in outcome.out
    header = (folder / "patients.csv").read_text().strip()
    assert header == "patient_id,event,age_years,sex,steps_per_day"


def test_init_site_never_overwrites(run: Run, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text("mine")
    outcome = run("init-site", tmp_path)
    assert outcome.code == 1
    assert (tmp_path / "site.toml").read_text() == "mine"


def test_report_is_written_again_from_the_journal_alone(
    run: Run, study_file: Path, sites: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run("simulate", study_file, "--sites", sites, "--out", out)
    written = {name: (out / name).read_bytes() for name in ("results.json", "report.md")}
    for path in out.iterdir():
        if path.name != "journal.jsonl" and path.is_file():
            path.unlink()
    outcome = run("report", out)
    assert outcome.code == 0
    assert {name: (out / name).read_bytes() for name in written} == written


def test_report_of_a_folder_without_a_run_is_one_sentence(run: Run, tmp_path: Path) -> None:
    outcome = run("report", tmp_path)
    assert outcome.code == 1
    assert "Expected a journal" in outcome.err
    assert not list(tmp_path.iterdir())


def test_arms_compares_all_arms_with_and_without_a_granularity(
    run: Run, study_file: Path, sites: Path, tmp_path: Path
) -> None:
    out = tmp_path / "arms"
    words = ["arms", study_file, "--sites", sites, "--seeds", 2, "--jobs", 1, "--out", out]
    outcome = run(*words, "--without", "lifestyle")
    assert outcome.code == 0
    for arm in ("local only", "federated", "pooled", "logistic regression, pooled"):
        assert f"| {arm}, all granularities |" in outcome.out
        assert f"| {arm}, without lifestyle |" in outcome.out
    assert (
        (out / "arms.csv").read_text().startswith("arm,variant,seed,outcome,scope,metric,value\n")
    )


def test_studies_lists_and_prints_what_is_shipped(run: Run) -> None:
    assert "heart-disease-flamby" in run("studies").out
    printed = run("studies", "demo").out
    assert study_from_toml(printed).hash == load_study("demo").hash


def test_help_names_every_command(run: Run) -> None:
    outcome = run("--help")
    for command in ("simulate", "data", "check-site", "init-site", "arms", "report", "bench"):
        assert command in outcome.out


def test_a_vocabulary_of_a_public_text_can_be_put_into_a_study(run: Run, tmp_path: Path) -> None:
    (tmp_path / "public.txt").write_text("Fever and cough. Fever, rash.", encoding="utf-8")
    outcome = run("data", "vocabulary", tmp_path / "public.txt", "--min-count", 1, "--size", 2)
    assert outcome.code == 0
    assert tomllib.loads(outcome.out) == {"vocabulary": ["fever", "and"]}
