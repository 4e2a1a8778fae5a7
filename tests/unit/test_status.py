"""One glance at a hospital, and where a connector finds what it needs."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import client.cli
from client.config import load_site_config
from client.connector_files import connector_files
from client.site import Site
from client.status import lines_of, status_of
from common.errors import SiteConfigError
from common.study import Study
from tests.unit.agent_cases import WAIT_S, Gate, accept, ask, private_of, running
from tests.unit.builders import task_of


@pytest.fixture
def study(tiny_study: Study) -> Study:
    return private_of(tiny_study)


@pytest.fixture
def folder(new_site: Callable[..., Path], study: Study) -> Path:
    return accept(new_site(), study, cohort_size=45)


def heartbeat(folder: Path, said: str = "connected", *, age_s: float = 0.0) -> Path:
    path = load_site_config(folder).state_dir / "connector" / "heartbeat"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(said)
    at = path.stat().st_mtime - age_s
    os.utime(path, (at, at))
    return path


def test_a_hospital_whose_processes_work_is_well(folder: Path, study: Study) -> None:
    heartbeat(folder)
    with running(folder) as agent:
        before = status_of(folder, address=agent.address)
        ask(agent.site, task_of(study))
        after = status_of(folder, address=agent.address)
    assert before.is_well
    assert after.is_well
    assert before.site is not None
    assert after.site is not None
    assert (before.site.state, before.site.studies) == ("serving", (study.name,))
    assert before.site.last_answer is None
    assert after.site.last_answer is not None
    assert json.loads(json.dumps(after.to_json()))["well"] is True
    text = "\n".join(lines_of(after))
    assert all(
        word in text for word in ("serving", study.name, "connected", after.site.last_answer)
    )


def test_a_site_process_that_is_away_is_not_well(folder: Path) -> None:
    heartbeat(folder)
    status = status_of(folder)
    assert status.site is not None
    assert (status.site.state, status.is_well) == ("away", False)


def test_a_site_process_that_loads_is_waiting_and_not_well(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    monkeypatch.setattr(Site, "open", gate.before(Site.open))
    heartbeat(folder)
    with running(folder, wait=False):
        assert gate.reached.acquire(timeout=WAIT_S)
        status = status_of(folder)
        gate.open.set()
    assert status.site is not None
    assert (status.site.state, status.is_well) == ("waiting", False)


@pytest.mark.parametrize(
    ("said", "age_s", "state"),
    [
        ("connected", 80.0, "connected"),
        ("connected", 100.0, "stale"),
        ("connected", -100.0, "stale"),  # the clock was set
        ("", 0.0, "not connected"),
        ("the server is away\n\x1b[2J", 0.0, "not connected"),
    ],
)
def test_a_connector_is_as_its_heartbeat_says_while_that_is_fresh(
    folder: Path, said: str, age_s: float, state: str
) -> None:
    folder_of_heartbeat = heartbeat(folder, said, age_s=age_s).parent
    status = status_of(None, connector_dir=folder_of_heartbeat)
    assert status.site is None
    assert status.connector is not None
    assert (status.connector.state, status.is_well) == (state, state == "connected")
    assert "\x1b" not in "".join(lines_of(status))


def test_a_connector_that_never_ran_is_away(folder: Path) -> None:
    status = status_of(folder)
    assert status.connector is not None
    assert (status.connector.state, status.connector.age_s) == ("away", None)


def test_a_site_process_may_be_looked_at_alone(folder: Path) -> None:
    with running(folder):
        assert status_of(folder, with_connector=False).is_well
        assert not status_of(folder).is_well


def test_an_acceptance_that_cannot_be_verified_is_not_well_and_is_told(
    folder: Path, study: Study
) -> None:
    heartbeat(folder)
    with running(folder):
        state = load_site_config(folder).state_dir
        (state / "studies" / f"{study.hash}.toml").write_text("no study\n")
        status = status_of(folder)
    assert status.site is not None
    assert not status.is_well
    assert study.hash[:12] in status.site.fault


def test_a_torn_audit_line_is_no_answer(folder: Path) -> None:
    path = load_site_config(folder).state_dir / "audit.jsonl"
    path.write_text('{"at":"2026-01-02T03:04:05.678+00:00"}\n{"at":"2027')
    status = status_of(folder, with_connector=False)
    assert status.site is not None
    assert status.site.last_answer == "2026-01-02T03:04:05.678+00:00"


def test_status_ends_with_what_it_found(folder: Path) -> None:
    app = typer.Typer()
    client.cli.mount(app)
    heartbeat(folder)
    with running(folder):
        well = CliRunner().invoke(app, ["site", "status", str(folder), "--json"])
    away = CliRunner().invoke(app, ["site", "status", str(folder)])
    assert (well.exit_code, away.exit_code) == (0, 1)
    assert json.loads(well.output)["connector"]["state"] == "connected"
    assert "away" in away.output


def test_a_status_of_nothing_is_refused() -> None:
    with pytest.raises(SiteConfigError, match="--connector-dir"):
        status_of(None)


# Where a connector finds what it needs.


def test_a_connector_of_its_own_needs_no_site_folder(tmp_path: Path) -> None:
    (tmp_path / "node.key").touch()
    (tmp_path / "ca.pem").touch()
    files = connector_files(
        None, connector_dir=tmp_path, address="unix:/run/site.sock", superlink="hub:443"
    )
    assert files.heartbeat == tmp_path / "heartbeat"
    assert (files.auth_key, files.root_certificates) == (tmp_path / "node.key", tmp_path / "ca.pem")
    assert files.client_certificate is None
    assert (files.address, files.superlink) == ("unix:/run/site.sock", "hub:443")


@pytest.mark.parametrize("lacking", ["connector_dir", "address", "superlink"])
def test_a_connector_without_a_site_folder_has_to_be_told(tmp_path: Path, lacking: str) -> None:
    told: dict[str, Any] = {"connector_dir": tmp_path, "address": "unix:/s", "superlink": "h:1"}
    with pytest.raises(SiteConfigError, match="--connector-dir, --address and --superlink"):
        connector_files(None, **{**told, lacking: None})


def test_a_connector_of_a_site_folder_finds_what_the_hospital_has_joined(folder: Path) -> None:
    state = load_site_config(folder).state_dir
    (state / "ca.pem").touch()
    files = connector_files(folder)
    assert files.superlink == "localhost:9443"  # the roster's first address
    assert files.root_certificates == state / "ca.pem"
    assert files.folder == state / "connector"
    assert files.auth_key is None
    named = connector_files(folder, superlink="h:1", root_certificates=Path("other.pem"))
    assert (named.superlink, named.root_certificates) == ("h:1", Path("other.pem"))
