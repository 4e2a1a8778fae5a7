"""`wardround audit-privacy`: what it writes, what it says, and when it ends with exit code 1."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from client import dp_training
from common.errors import RunError, StudyError
from common.model_file import read_model
from common.models.patient_model import state_of
from common.privacy.mechanisms import add_gaussian
from common.study import Study
from common.study_file import override, study_from_toml, with_patient_privacy
from server.report import write_report
from simulations.attacks.audit_run import recorded, verdict_of
from simulations.attacks.finding import Finding, finding_to_json
from simulations.attacks.retraining import retrained
from simulations.cli_audit import audit_privacy, mount
from simulations.cohort import SiteEffects, write_cohort
from simulations.simulate import Simulation, simulate
from tests.round.tiny import TINY_STUDY
from tests.unit.report_journals import event_of, page_of, plain_journal, private_journal

PLAIN = study_from_toml(TINY_STUDY)
PRIVATE = with_patient_privacy(PLAIN, epsilon=8.0, delta=1e-5)
PATIENT = "ada-00007"


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    effects = [SiteEffects(name=name, num_patients=40) for name in ("ada", "bea")]
    write_cohort(PLAIN, effects, folder, seed=0)
    return folder


@pytest.fixture(scope="module")
def finished(sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Study], Path]:
    runs: dict[str, Path] = {}

    def run_of(study: Study) -> Path:
        if study.hash not in runs:
            out = tmp_path_factory.mktemp("run") / "run"
            simulate(Simulation(study=study, sites=sites, out=out))
            runs[study.hash] = out
        return runs[study.hash]

    return run_of


@pytest.fixture
def run(finished: Callable[[Study], Path], tmp_path: Path) -> Path:
    return shutil.copytree(finished(PRIVATE), tmp_path / "run")


def audited(run: Path, sites: Path | None, **options: Any) -> int:
    """The exit code of a quick audit with four models, in this process."""
    named = {"sites": sites, "shadows": 3, "jobs": 1, "quick": True, "as_json": False}
    try:
        audit_privacy(run, **(named | options))
    except typer.Exit as ended:
        return ended.exit_code
    return 0


def results_in(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


def without_time(audit: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in audit.items() if key not in ("seconds", "at")}


def test_an_audit_is_written_to_file_journal_and_report_and_changes_nothing_else(
    run: Path, sites: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = results_in(run)
    assert audited(run, sites) == 0
    written = json.loads((run / "audit.json").read_text())
    last = json.loads((run / "journal.jsonl").read_text().splitlines()[-1])
    assert last.pop("event") == "privacy_audited"
    assert last.pop("at")
    assert last == written
    after = results_in(run)
    assert without_time(after.pop("audit")) == without_time(written)
    assert before.pop("audit") is None
    assert after == before
    assert written["verdict"] == "held"
    assert [f["attack"] for f in written["findings"]] == [
        "Gaussian canary audit",
        "one-run audit",
        "membership, likelihood ratio (LiRA)",
        "membership, loss threshold",
    ]
    assert all(f["epsilon_claimed"] > 7 for f in written["findings"])
    page = (run / "report.html").read_text()
    assert "Audited" in page
    assert "not attacked to find out" not in page
    assert "No attack refutes" in capsys.readouterr().err
    # The report stays a function of the journal alone.
    (run / "report.html").unlink()
    write_report(run)
    assert (run / "report.html").read_text() == page


def test_nothing_of_a_patient_is_in_an_audit(run: Path, sites: Path) -> None:
    assert PATIENT in (sites / "ada" / "patients.csv").read_text()
    audited(run, sites)
    for name in ("audit.json", "journal.jsonl", "report.html"):
        assert PATIENT not in (run / name).read_text()
    # Figures of attacks, texts of ours, and names: no list of anything.
    findings = json.loads((run / "audit.json").read_text())["findings"]
    assert not any(isinstance(value, list) for finding in findings for value in finding.values())


@pytest.mark.threat("S0-1", "R-1")
def test_a_bound_above_the_claim_is_exit_code_1_and_a_plain_sentence(
    run: Path,
    sites: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def half(values: Any, *, noise_multiplier: float, **rest: Any) -> Any:
        return add_gaussian(values, noise_multiplier=noise_multiplier / 2, **rest)

    monkeypatch.setattr(dp_training, "add_gaussian", half)
    assert audited(run, sites) == 1
    assert "is refuted" in capsys.readouterr().err
    assert results_in(run)["audit"]["verdict"] == "broken"
    assert "Do not release this model" in (run / "report.html").read_text()


def test_a_run_without_privacy_has_nothing_to_refute(
    finished: Callable[[Study], Path],
    sites: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(finished(PLAIN), tmp_path / "plain")
    assert audited(run, sites, as_json=True) == 0
    shown = capsys.readouterr()
    printed = json.loads(shown.out)
    assert printed["verdict"] == "no claim"
    assert {f["epsilon_claimed"] for f in printed["findings"]} == {"inf"}
    assert "claims no privacy" in shown.err
    assert "nothing to refute" in (run / "report.html").read_text()


def test_without_the_patients_of_the_run_patients_are_simulated_and_that_is_told(
    finished: Callable[[Study], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished(PLAIN), tmp_path / "plain")
    assert audited(run, None) == 0
    assert "not on this machine" in capsys.readouterr().err
    assert results_in(run)["audit"]["simulated_patients"]
    assert "patients simulated for it" in (run / "report.html").read_text()


def test_the_same_audit_finds_the_same(run: Path, sites: Path) -> None:
    findings = []
    for _ in range(2):
        audited(run, sites)
        findings.append(json.loads((run / "audit.json").read_text())["findings"])
    assert findings[0] == findings[1]


def test_a_retrained_model_is_that_of_the_run_but_for_what_is_drawn(
    finished: Callable[[Study], Path], sites: Path
) -> None:
    # Everybody in every step and no dropout: but for the order of sums, nothing is drawn. Hospitals
    # count alike, so that it does not matter which small groups their policies withhold.
    study = override(
        PLAIN, training__batch_size=1000, strategy__weights="equal", strategy__name="fedadam"
    )
    run = finished(study)
    model = retrained(study, recorded(run, sites).hospitals, seed=3)
    for name, value in read_model(run).items():
        assert np.allclose(value, state_of(model).unpack()[name], atol=1e-5), name


def test_folders_that_lack_a_hospital_of_the_run_are_refused(
    run: Path, sites: Path, tmp_path: Path
) -> None:
    shutil.copytree(sites / "ada", tmp_path / "some" / "ada")
    with pytest.raises(RunError, match="none of bea"):
        audited(run, tmp_path / "some")
    assert not (run / "audit.json").exists()


def test_a_run_that_is_not_finished_is_not_audited(run: Path, sites: Path) -> None:
    journal = run / "journal.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(RunError, match="Expected a finished run"):
        audited(run, sites)


def test_a_run_that_hides_hospitals_is_not_audited(run: Path, sites: Path) -> None:
    journal = run / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    lines[0]["study"]["privacy"] = {"mode": "site", "epsilon": 3.0, "delta": 1e-3}
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(StudyError, match="mode 'site'"):
        audited(run, sites)


def finding_of(bound: float | None, *, attack: str = "one-run audit") -> Finding:
    return Finding(
        attack=attack,
        target="a <b>test</b>",
        measures={"delta": 1e-5, "mu": 1.0},
        epsilon_lower_bound=bound,
        epsilon_claimed=2.0,
        succeeded=bound is None or bound > 2.0,
        limits="None & nothing.",
    )


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ((1.0, 1.9), "held"),
        ((1.0, 2.1), "broken"),
        ((1.0, None), "unclear"),
        ((2.1, None), "broken"),
        ((float("inf"), 1.0), "broken"),
    ],
)
def test_the_verdict_follows_from_bounds_and_claims(bounds, verdict: str) -> None:
    findings = [finding_of(bound) for bound in bounds]
    assert verdict_of(findings, is_private=True) == verdict
    assert verdict_of(findings, is_private=False) == "no claim"


def test_numbers_that_json_lacks_are_texts() -> None:
    table = finding_to_json(finding_of(float("inf")))
    assert table["epsilon_lower_bound"] == "inf"
    assert finding_to_json(finding_of(None))["epsilon_lower_bound"] is None
    assert finding_to_json(finding_of(float("nan")))["epsilon_lower_bound"] is None
    assert finding_to_json(finding_of(float("-inf")))["epsilon_lower_bound"] == "-inf"
    json.dumps(table, allow_nan=False)


def audit_event(verdict: str, *findings: Finding) -> dict[str, Any]:
    return event_of(
        "privacy_audited",
        run_id="abc",
        verdict=verdict,
        confidence=0.999,
        seed=1,
        num_shadows=3,
        quick=True,
        simulated_patients=False,
        hospital="north",
        seconds=12.5,
        findings=[finding_to_json(finding) for finding in findings],
    )


def test_the_newest_audit_is_in_the_page_with_its_limits_and_texts_are_escaped() -> None:
    old = audit_event("broken", finding_of(2.1))
    page = page_of([*private_journal(), old, audit_event("held", finding_of(1.0))])
    assert "No attack refutes" in page
    assert "Refuted" not in page
    assert "None &amp; nothing." in page
    assert "<b>test" not in page
    assert "which stands under" in page


@pytest.mark.parametrize("verdict", ["unclear", "of a later version"])
def test_a_verdict_that_vouches_for_nothing_is_a_warning(verdict: str) -> None:
    page = page_of([*private_journal(), audit_event(verdict, finding_of(None))])
    assert "Not vouched for" in page
    assert "no bound: the noise is not normal" in page


def test_a_run_that_was_not_audited_has_no_such_section() -> None:
    assert "Audited" not in page_of(plain_journal())


def test_the_command_is_mounted() -> None:
    app = typer.Typer()
    mount(app)
    assert [command.name for command in app.registered_commands] == ["audit-privacy"]
