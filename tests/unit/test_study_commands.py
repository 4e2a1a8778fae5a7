"""The commands that ask a person, and what they show: nothing is accepted without a person."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from client.acceptance import acceptances_path, accepted_studies
from client.agreement import Agreement, agreement_on, differences, what_leaves
from client.audit import audit_path
from client.cli_study import mount
from client.config import load_site_config
from client.egress import Declared
from client.plain_text import plain
from client.policy import Policy
from client.site import Site
from client.study_store import study_path
from common.arrays import size_of
from common.errors import StudyError, WardroundError
from common.messages import TaskKind
from common.models.patient_model import PatientModel, trainable_manifest
from common.normalisation import moments_manifest
from common.privacy.plan import describe, plan_of
from common.study import Study
from common.study_file import (
    load_study,
    override,
    shipped_studies,
    study_to_toml,
    with_patient_privacy,
)
from tests.unit.builders import MORE_OUTCOMES, study_of, task_of

app = typer.Typer()
mount(app)
ROOT = Path(__file__).parents[2]
POLICY = {"epsilon_budget": 10.0, "delta_budget": 1e-4, "cohort_size": 45, "min_patients": 20}
POLICY_OF_TESTS = Policy(allow_without_privacy=True)


def wardround(*arguments: object, code: int = 0) -> Result:
    """The command, run here; an error of ours is printed and exits with 1, as the real one does."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, WardroundError):
        result.exit_code = 1
    elif not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def folder(new_site: Callable[..., Path]) -> Path:
    return new_site(policy={"min_patients": 20})


@pytest.fixture
def file(tmp_path: Path, tiny_study: Study) -> Path:
    path = tmp_path / "sent.toml"
    path.write_text(study_to_toml(tiny_study))
    return path


def hashes(folder: Path) -> set[str]:
    return set(accepted_studies(load_site_config(folder)))


# Refusing is the default.


def test_a_script_must_name_the_whole_hash(folder: Path, file: Path, tiny_study: Study) -> None:
    wardround("study", "accept", folder, file, "--yes", code=1)
    for wrong in (tiny_study.hash[:8], "0" * 64, ""):
        wardround("study", "accept", folder, file, "--yes", "--hash", wrong, code=1)
    assert hashes(folder) == set()
    wardround("study", "accept", folder, file, "--yes", "--hash", tiny_study.hash)
    assert hashes(folder) == {tiny_study.hash}


def test_without_a_person_at_a_terminal_nothing_is_accepted(
    folder: Path, file: Path, tiny_study: Study
) -> None:
    result = CliRunner().invoke(
        app, ["study", "accept", str(folder), str(file)], input=tiny_study.hash[:8] + "\n"
    )
    assert result.exit_code == 1
    assert "Expected a person at a terminal" in result.output
    assert hashes(folder) == set()


@pytest.mark.parametrize("typed", ["right", "wrong"])
def test_a_person_types_the_first_digits_of_the_hash(
    folder: Path, file: Path, tiny_study: Study, typed: str
) -> None:
    answer = {"right": tiny_study.hash[:8], "wrong": "0" * 8}[typed]
    ours, theirs = pty.openpty()
    program = (
        "import typer\nfrom client.cli_study import mount\napp = typer.Typer()\nmount(app)\napp()"
    )
    os.write(ours, answer.encode() + b"\n")
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, "study", "accept", folder, file],
            stdin=theirs,
            capture_output=True,
            timeout=60,
            cwd=ROOT,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.returncode == 0) == (typed == "right"), done.stderr
    assert hashes(folder) == ({tiny_study.hash} if typed == "right" else set())


def test_a_hospital_that_cannot_take_part_accepts_nothing(
    new_site, file: Path, tiny_study: Study
) -> None:
    folder = new_site(policy={"allow_without_privacy": False, "min_patients": 20})
    result = wardround("study", "accept", folder, file, "--yes", "--hash", tiny_study.hash, code=1)
    assert "cannot take part" in result.output
    assert not acceptances_path(load_site_config(folder).state_dir).exists()


@pytest.mark.parametrize(
    "command", [("accept", "x.toml"), ("show", "0" * 64), ("withdraw", "0" * 64)]
)
def test_a_wrong_argument_changes_nothing(folder: Path, command: tuple[str, str]) -> None:
    name, argument = command
    wardround("study", name, folder, argument, code=1)
    assert not load_site_config(folder).state_dir.exists()


# List, show, withdraw, audit.


def test_a_study_is_accepted_listed_shown_and_withdrawn(
    folder: Path, file: Path, tiny_study: Study
) -> None:
    assert "No study was ever accepted" in wardround("study", "list", folder).output
    wardround("study", "accept", folder, file, "--yes", "--hash", tiny_study.hash)
    (row,) = json.loads(wardround("study", "list", folder, "--json").output)
    assert (row["hash"], row["accepted"], row["file_fault"]) == (tiny_study.hash, True, None)
    shown = wardround("study", "show", folder, tiny_study.hash[:8])
    for told in ("NO PATIENT IS PROTECTED", tiny_study.hash, "3 rounds", "intact"):
        assert told in shown.output
    wardround("study", "withdraw", folder, tiny_study.hash)
    assert "withdrawn" in wardround("study", "list", folder).output
    shown = json.loads(wardround("study", "show", folder, tiny_study.hash, "--json").output)
    assert (shown["accepted"], shown["agreement"]["name"]) == (False, "tiny")


def test_a_changed_file_is_told_and_is_an_exit_code(
    folder: Path, file: Path, tiny_study: Study
) -> None:
    wardround("study", "accept", folder, file, "--yes", "--hash", tiny_study.hash)
    path = study_path(load_site_config(folder).state_dir, tiny_study.hash)
    path.write_text(path.read_text() + "\n# more\n")
    assert "a changed file" in wardround("study", "list", folder, code=1).output
    assert "a changed file" in wardround("study", "show", folder, tiny_study.hash, code=1).output
    wardround("study", "accept", folder, file, "--yes", "--hash", tiny_study.hash)
    wardround("study", "list", folder)


def test_what_differs_from_the_accepted_study_is_shown(
    folder: Path, file: Path, tiny_study: Study, tmp_path: Path
) -> None:
    wardround("study", "accept", folder, file, "--yes", "--hash", tiny_study.hash)
    other = override(tiny_study, training__rounds=7)
    (tmp_path / "other.toml").write_text(study_to_toml(other))
    result = wardround(
        "study", "accept", folder, tmp_path / "other.toml", "--yes", "--hash", other.hash
    )
    assert "training.rounds: 3 -> 7" in result.output
    assert tiny_study.hash[:12] in result.output


def test_the_audit_of_a_simulated_run_is_shown_and_an_edit_is_an_exit_code(
    folder: Path, tmp_path: Path, tiny_study: Study
) -> None:
    state = tmp_path / "run" / "sites" / folder.name
    site = Site.simulated(folder, tiny_study, state_dir=state)
    for kind in (TaskKind.ENROL, TaskKind.TRAIN):
        assert site.answer(task_of(tiny_study, kind)).status == "ok"
    asked = ("audit", folder, "--simulated", tmp_path / "run")
    assert "the chain is whole" in wardround(*asked).output
    table = json.loads(wardround(*asked, "--json", "--run", "run").output)
    assert [answer["kind"] for answer in table["answers"]] == ["query", "train"]
    assert json.loads(wardround(*asked, "--json", "--run", "other").output)["answers"] == []
    path = audit_path(state)
    path.write_bytes(path.read_bytes().replace(b'"status":"ok"', b'"status":"no"', 1))
    assert "NOT what was written" in wardround(*asked, code=1).output


# What a person is shown.


def all_of(told: Agreement) -> str:
    return json.dumps(told.to_json(), ensure_ascii=False)


@pytest.mark.parametrize("study", [study_of(), study_of(outcomes=MORE_OUTCOMES)])
@pytest.mark.parametrize("is_private", [False, True])
def test_everything_that_egress_lets_out_is_named_with_its_size(
    study: Study, is_private: bool
) -> None:
    if is_private:
        study = with_patient_privacy(study, epsilon=2, delta=1e-5)
    update = trainable_manifest(PatientModel(study))
    declared = Declared.of(study, update=update, moments=moments_manifest(study))
    text = "\n".join(what_leaves(study, POLICY_OF_TESTS))
    for name, size in declared.metrics.items():
        assert f"{name.rpartition('.')[2]} {size}" in text
    for name in declared.counts:
        assert name in text
    for manifest in declared.manifests.values():
        assert f"{sum(block.size for block in manifest):,} " in text
    assert ("a public weight" in text) == is_private


def test_every_array_that_leaves_is_told_by_name_and_size() -> None:
    study = study_of()
    (text,) = (
        t
        for t in what_leaves(study, Policy(allow_without_privacy=True))
        if "moments of features" in t
    )
    blocks = moments_manifest(study)
    assert text.startswith(f"once, at enrolment: {size_of(blocks)} moments of features (")
    assert text.endswith(f"({', '.join(f'{block.name} {block.size}' for block in blocks)})")


def test_what_the_policy_keeps_is_told() -> None:
    policy = Policy(allow_without_privacy=True, metrics=("num_patients",))
    text = "\n".join(what_leaves(study_of(), policy))
    assert "statistics of event: num_patients 1; kept by the policy: " in text
    assert "confusion" in text.partition("kept by the policy")[2]


def test_the_plan_is_this_sites_own(new_site, tiny_study: Study) -> None:
    study = with_patient_privacy(
        override(tiny_study, normalisation__method="public_range"), epsilon=4, delta=1e-4
    )
    config = load_site_config(new_site(policy={**POLICY, "min_noise_multiplier": 5.0}))
    told = agreement_on(study, config)
    plan = plan_of(study, cohort_size=45, min_noise_multiplier=5.0)
    assert told.plan == dict(describe(plan))
    assert "at most epsilon 4 at delta 0.0001" in told.privacy
    undecided = load_site_config(new_site(policy={"min_patients": 20}))
    assert "not decided" in agreement_on(study, undecided).plan["plan"]


@pytest.mark.parametrize("mode", ["none", "site"])
def test_a_study_that_protects_no_patient_says_so_in_capitals(
    new_site, tiny_study: Study, mode: str
) -> None:
    privacy = {"mode": mode} | ({"epsilon": 1.0, "delta": 1e-5} if mode == "site" else {})
    public = override(tiny_study, normalisation__method="public_range")
    study = Study.model_validate(public.model_dump(exclude_none=True) | {"privacy": privacy})
    told = agreement_on(study, load_site_config(new_site()))
    assert f"Mode {mode}: NO PATIENT IS PROTECTED" in told.privacy
    assert told.plan["epsilon"] == "infinite"


def test_a_study_that_cannot_keep_its_promise_is_not_accepted(
    folder: Path, tiny_study: Study, tmp_path: Path
) -> None:
    # Exact moments of the sites beside a promise to hide the site: no site would start with it.
    privacy = {"mode": "site", "epsilon": 1.0, "delta": 1e-5}
    study = Study.model_validate(tiny_study.model_dump(exclude_none=True) | {"privacy": privacy})
    (tmp_path / "site.toml").write_text(study_to_toml(study))
    asked = ("accept", folder, tmp_path / "site.toml", "--yes", "--hash", study.hash)
    wardround("study", *asked, code=1)
    assert hashes(folder) == set()


@pytest.mark.parametrize("name", shipped_studies())
def test_every_shipped_study_can_be_shown(new_site, name: str) -> None:
    told = agreement_on(load_study(name), load_site_config(new_site()))
    assert told.name == name
    assert len(told.leaves) >= 4


def test_a_title_cannot_pretend_to_be_something_else(new_site, tiny_study: Study) -> None:
    title = "x\x1b[2J\r\nepsilon: 0.01\x07\u202e\u200b[bold]" + "y" * 1000
    hostile = override(tiny_study, study__title=title)
    told = agreement_on(hostile, load_site_config(new_site()))
    assert not {"\x1b", "\r", "\n", "\x07", "\u202e", "\u200b"} & set(told.title)
    assert len(told.title) <= 201
    assert "\x1b" not in all_of(told).encode().decode("unicode_escape", "ignore")


def test_hostile_values_are_plain_in_the_differences(tiny_study: Study) -> None:
    hostile = override(tiny_study, study__description="\x1b]0;x\x07" * 50)
    (line,) = differences(tiny_study, hostile)
    assert line.startswith("study.description:")
    assert "\x1b" not in line
    assert len(line) < 160


def test_a_key_that_one_of_two_studies_lacks_is_told_as_nothing(tiny_study: Study) -> None:
    adam = override(tiny_study, strategy__name="fedadam")
    faster = override(adam, strategy__server_learning_rate=0.5)
    key = "strategy.server_learning_rate"
    assert differences(adam, faster) == (f"{key}: (nothing) -> 0.5",)
    assert differences(faster, adam) == (f"{key}: 0.5 -> (nothing)",)


def test_many_differences_are_counted_and_an_order_alone_is_told(tiny_study: Study) -> None:
    far = differences(tiny_study, load_study("demo"))
    assert len(far) == 21
    assert far[-1].startswith("and ")
    table = tiny_study.model_dump(mode="json", exclude_none=True)
    table["granularities"] = dict(reversed(table["granularities"].items()))
    assert differences(tiny_study, Study.model_validate(table)) == (
        "the order of granularities, features or outcomes",
    )


def test_a_model_that_cannot_be_built_is_an_error() -> None:
    huge = study_of(
        granularities={
            "labs": {
                "kind": "tabular",
                "hidden": [2**62, 2**62],
                "features": {"age_years": {"kind": "numeric", "unit": "y", "range": [0, 100]}},
            }
        }
    )
    with pytest.raises(StudyError, match="too large"):
        what_leaves(huge, POLICY_OF_TESTS)


def test_plain_text_keeps_letters_of_all_languages() -> None:
    assert plain("Herz­klinik Zürich 心臓 ±3 µmol/l") == "Herz?klinik Zürich 心臓 ±3 µmol/l"
