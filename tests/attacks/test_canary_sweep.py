"""I-1, the canary sweep: nothing that comes out of a hospital holds a value of a patient.

More than a thousand values that stand nowhere else are planted in a hospital's data. It then takes
part in a run, and everything that can go wrong goes wrong; whatever was printed, logged, sent or
written outside of the site folder is searched. Local outputs that are meant to hold values are left
out by rule: the file that `wardround predict` writes, and personal models in the state folder.

`WARDROUND_HYPOTHESIS=full` damages every table in every way.
"""

import errno
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

import client.agent
import client.site
import client.work
import simulations.cli
from client.acceptance import accept
from client.agent_service import answer_bytes
from client.config import load_site_config
from client.dossier.making import make_dossier
from client.site import Site
from common.messages import OK, TaskKind
from common.metrics.attributions import is_attribution
from common.metrics.subgroups import is_of_group
from common.study import Study
from common.study_file import study_to_toml
from simulations.canaries import Search
from simulations.federation.run import DEPLOYMENT
from simulations.rehearsal import Rehearsal, rehearsal, rehearse, reply_of
from tests.attacks.sweep_cases import (
    COMMANDS,
    DAMAGES,
    TABLES,
    damage_images,
    exchange_images,
    quote_of,
)
from tests.campaigns import IS_FULL, Campaign
from tests.unit.agent_cases import bytes_of
from tests.unit.builders import task_of
from tests.unit.consortium import join, signed

FEWEST_CANARIES = 1000
FEWEST_FAULTS = 40

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def made(hospital: Path, swept: Study) -> Iterator[Rehearsal]:
    """After the rehearsal: the happy path, refused tasks, hostile tasks and failures."""
    with rehearsal(hospital, swept, seed=1) as rehearsed:
        rehearse(rehearsed)
        yield rehearsed


def type_command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of `wardround WORDS`, in this process, so that faults can be injected."""
    monkeypatch.setattr("sys.argv", ["wardround", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        simulations.cli.main()
    return stop.value.code if isinstance(stop.value.code, int) else 0


# The happy path.


def test_more_than_a_thousand_values_are_planted_in_data_of_every_kind(made: Rehearsal) -> None:
    assert len(made.canaries) > FEWEST_CANARIES
    planted = {*made.canaries.words.values(), *made.canaries.numbers.values()}
    for place in (
        "patients.csv, column patient_id",
        "patients.csv, column age_years",
        "patients.csv, column stay_days",
        "patients.csv, the header",
        "vitals.csv, column value (heart_rate_bpm)",
        "vitals.csv, column minutes",
        "notes.csv, column text",
        "imaging.csv, column file",
        "genomics.csv, column g1",
        "the header of an image (.png)",
    ):
        assert place in planted


def test_the_planted_values_are_in_the_files_that_the_site_reads(
    made: Rehearsal, search: Search
) -> None:
    found = {hit.planted for hit in search.in_files(made.hospitals / made.name)}
    assert found == {*made.canaries.words.values(), *made.canaries.numbers.values()}


def test_nothing_of_a_run_with_refusals_and_failures_holds_a_value(
    made: Rehearsal, campaign: Campaign
) -> None:
    campaign.tries(len(made.canaries), "values planted")
    campaign.found({"messages": len(made.sent)})
    answers = [reply_of(data).status for data in made.sent]
    # Enrolment, two rounds and the last evaluation, and one task of a large model.
    assert answers.count(OK) == 5
    assert len(set(answers)) >= 8
    # Sums of all that a study can ask for are among them.
    statistics = {name for data in made.sent for name in reply_of(data).metrics}
    assert any(map(is_of_group, statistics))
    assert any(map(is_attribution, statistics))
    assert (made.out / "in-process" / "report.html").is_file()
    assert (made.out / "logs" / "rehearsal.log").stat().st_size > 0
    assert made.search() == []


def test_a_dossier_of_all_that_happened_holds_no_value(made: Rehearsal, search: Search) -> None:
    sites = sorted(made.out.glob(f"*/{DEPLOYMENT}/sites/{made.name}/site"))
    assert sites
    for site in sites:
        dossier = make_dossier(site, None, made_at=datetime(2026, 4, 1, tzinfo=UTC))
        assert dossier.dossier["left"]["num_messages"] > 0
        assert dossier.dossier["left"]["refusals"]
        assert search.in_bytes(dossier.to_bytes(), "dossier.json") == []
        assert search.in_bytes(dossier.page().encode(), "dossier.html") == []


# Faults of the data.


def cases() -> list[tuple[str, str]]:
    if IS_FULL:
        return [(table, damage) for table in TABLES for damage in DAMAGES]
    names = list(DAMAGES)
    return [(TABLES[i % len(TABLES)], damage) for i, damage in enumerate(names)] + [
        ("patients", damage) for damage in names[1:8:3]
    ]


@pytest.mark.parametrize(("table", "damage"), cases())
def test_a_damaged_table_tells_no_value(
    table: str,
    damage: str,
    site_dir: Path,
    swept: Study,
    tmp_path: Path,
    nothing_told: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    DAMAGES[damage](site_dir / f"{table}.csv")
    check_and_open(site_dir, swept, tmp_path, monkeypatch)
    nothing_told()


@pytest.mark.parametrize("damage", [damage_images, exchange_images])
def test_damaged_images_tell_no_value(
    damage: Callable[[Path], None],
    site_dir: Path,
    swept: Study,
    tmp_path: Path,
    nothing_told: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damage(site_dir)
    check_and_open(site_dir, swept, tmp_path, monkeypatch)
    nothing_told()


def check_and_open(
    site_dir: Path, swept: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks the folder, for people and for machines, and serves it as a hospital would."""
    file = tmp_path / "study.toml"
    file.write_text(study_to_toml(swept))
    type_command(monkeypatch, "check-site", site_dir, "--study", file)
    type_command(monkeypatch, "check-site", site_dir, "--study", file, "--json")
    join(site_dir)
    accept(load_site_config(site_dir), swept)
    type_open(monkeypatch, site_dir)


def type_open(monkeypatch: pytest.MonkeyPatch, site_dir: Path) -> None:
    """Opens the site within the command `site serve`, which tells why it cannot."""

    def opened(folder: Path, *_: object) -> None:
        Site.open(folder).close()

    monkeypatch.setattr(client.agent, "serve_command", opened)
    type_command(monkeypatch, "site", "serve", site_dir)


# Faults of the software: an exception that quotes a patient, at every stage.


@pytest.fixture
def open_site(site_dir: Path, swept: Study) -> Iterator[Site]:
    join(site_dir)
    accept(load_site_config(site_dir), swept)
    site = Site.open(site_dir)
    yield site
    site.close()


STAGES = [
    (client.work, "fit_intercepts"),
    (client.work, "predict"),
    (client.work, "evaluate"),
    (client.work, "train"),
    (client.work, "parameters_of"),
    (client.site, "load_state"),
    (client.site, "release"),
    (client.site, "withheld"),
    (client.site, "audit_line"),
]
EXCEPTIONS = [ValueError, OSError, MemoryError, torch.OutOfMemoryError]


def test_an_exception_at_any_stage_of_the_door_tells_no_value(
    open_site: Site,
    swept: Study,
    made: Rehearsal,
    nothing_told: Callable[..., str],
    campaign: Campaign,
) -> None:
    kinds_of = [EXCEPTIONS if IS_FULL else EXCEPTIONS[n % 4 :][:1] for n in range(len(STAGES))]
    campaign.tries(sum(map(len, kinds_of)), "faults")
    sent = []
    quote = quote_of(made.canaries)
    for (module, name), kinds in zip(STAGES, kinds_of, strict=True):
        for kind in kinds:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, name, _raising(kind(quote)))
                task = task_of(swept, run_id=f"{name}-{kind.__name__}")
                sent.append(answer_bytes(open_site, bytes_of(task, "ada"), TaskKind.TRAIN))
            assert reply_of(sent[-1]).status != OK, name
    sent.append(answer_bytes(open_site, quote.encode(), TaskKind.TRAIN))  # a message that is none
    nothing_told(*sent)


def _raising(fault: BaseException) -> Callable[..., Any]:
    def raising(*_: object, **__: object) -> Any:
        raise fault

    return raising


def test_a_full_disk_tells_no_value(
    open_site: Site, swept: Study, made: Rehearsal, nothing_told: Callable[..., str]
) -> None:
    sent = []
    full = OSError(errno.ENOSPC, quote_of(made.canaries))
    for name in ("write", "fsync"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, name, _raising(full))
            task = signed(task_of(swept, run_id=f"full-{name}"), "ada")
            sent.append(answer_bytes(open_site, bytes_of(task, "ada"), TaskKind.TRAIN))
    nothing_told(*sent)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_command_that_crashes_tells_its_place_and_no_value(
    command: str,
    site_dir: Path,
    swept: Study,
    made: Rehearsal,
    tmp_path: Path,
    nothing_told: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, module, function = COMMANDS[command]
    file = tmp_path / "study.toml"
    file.write_text(study_to_toml(swept))
    places = {
        "STUDY": file,
        "RUN": made.out / "in-process",
        "OUT": tmp_path / "out.csv",
        "HASH": swept.hash,
    }
    monkeypatch.setattr(
        importlib.import_module(module), function, _raising(RuntimeError(quote_of(made.canaries)))
    )
    name, *options = command.split(" --")
    typed = [*name.split(), site_dir, *(f"--{option}" for option in options if option != "json")]
    code = type_command(monkeypatch, *typed, *(places.get(word, word) for word in words))
    told = nothing_told()
    assert code == 1
    assert "RuntimeError" in told


# Other faults.


def test_predictions_are_told_to_their_file_alone(
    site_dir: Path,
    made: Rehearsal,
    search: Search,
    tmp_path: Path,
    nothing_told: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "predictions.csv"
    words = ("predict", site_dir, "--run", made.out / "in-process", "--out", out)
    assert type_command(monkeypatch, *words) == 0
    assert search.in_bytes(out.read_bytes(), "predictions")  # meant for the hospital
    nothing_told(meant_for_us=(out,))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("[policy]", "[policies]"),
        lambda text: text.replace('name = "ada"', 'name = "eve"'),
        lambda text: text.replace("patients.csv", "elsewhere.csv"),
        lambda text: text.replace("min_patients = 20", "min_patients = 5000"),
    ],
    ids=["no policy", "another name", "no table", "too few patients"],
)
def test_a_broken_site_toml_tells_no_value(
    change: Callable[[str], str],
    site_dir: Path,
    swept: Study,
    tmp_path: Path,
    nothing_told: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    join(site_dir)
    path = site_dir / "site.toml"
    path.write_text(change(path.read_text()))
    file = tmp_path / "study.toml"
    file.write_text(study_to_toml(swept))
    type_command(monkeypatch, "check-site", site_dir, "--study", file)
    type_open(monkeypatch, site_dir)
    nothing_told()


KILLED_AT = ["client.work.train", "client.site.prepare", "client.site.audit_line"]
if not IS_FULL:
    del KILLED_AT[1:]

# A site process that is killed in the middle: what it leaves is what a crash leaves.
_KILLED = """
import os, signal, sys
from importlib import import_module
from pathlib import Path
import client.work
from client.agent_service import answer_bytes
from client.site import Site
from common.messages import TaskKind
module, name = sys.argv[3].rsplit(".", 1)
def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(import_module(module), name, kill)
site = Site.open(Path(sys.argv[1]))
answer_bytes(site, Path(sys.argv[2]).read_bytes(), TaskKind.TRAIN)
"""


@pytest.mark.parametrize("place", KILLED_AT)
def test_a_killed_process_leaves_no_value(
    place: str,
    site_dir: Path,
    swept: Study,
    tmp_path: Path,
    search: Search,
    nothing_told: Callable[..., str],
) -> None:
    join(site_dir)
    accept(load_site_config(site_dir), swept)
    task, temporary = tmp_path / "task", tmp_path / "tmp"
    task.write_bytes(bytes_of(task_of(swept), "ada"))
    temporary.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", _KILLED, site_dir, task, place],
        env=os.environ | {"TMPDIR": str(temporary)},
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == -signal.SIGKILL
    assert search.in_bytes(ended.stdout + ended.stderr, "its output") == []
    nothing_told()


def test_the_faults_are_as_many_as_promised(made: Rehearsal) -> None:
    in_rehearsal = len({reply_of(data).nonce for data in made.sent if reply_of(data).status != OK})
    num_faults = (
        in_rehearsal + len(cases()) + 2 + len(STAGES) + 2 + len(COMMANDS) + 4 + len(KILLED_AT)
    )
    assert num_faults >= FEWEST_FAULTS
