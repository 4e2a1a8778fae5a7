"""A site process that ends, or never begins: what runs is finished, what cannot end is given up."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import client.agent
import client.app
import client.device
from client.agent import serve
from client.config import load_site_config
from client.site import Site
from common.errors import DataError, SiteProcessError
from common.study import Study
from tests.unit.agent_cases import (
    WAIT_S,
    Gate,
    accept,
    ask,
    private_of,
    running,
)
from tests.unit.builders import task_of

ROOT = Path(__file__).parents[2]
CANARY = "Mrs Miller, born 1943"


@pytest.fixture(scope="module")
def study(tiny_study: Study) -> Study:
    return private_of(tiny_study)


@pytest.fixture
def folder(new_site: Callable[..., Path], study: Study) -> Path:
    return accept(new_site(), study, cohort_size=45)


def test_a_running_task_is_finished_and_its_reply_delivered_after_stop(
    folder: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    monkeypatch.setattr(Site, "answer", gate.before(Site.answer))
    with running(folder) as agent, ThreadPoolExecutor(2) as callers:
        call = callers.submit(ask, agent.site, task_of(study))
        assert gate.reached.acquire(timeout=WAIT_S)
        waiting = callers.submit(ask, agent.site, task_of(study))
        agent.stop.set()
        with pytest.raises(SiteProcessError, match="UNAVAILABLE"):
            waiting.result(WAIT_S)
        assert not agent.site.is_serving()
        gate.open.set()
        assert call.result(WAIT_S).status == "ok"
    assert agent.ended.result(WAIT_S)
    Site.open(folder).close()  # its ledger is free
    assert not (load_site_config(folder).state_dir / "socket" / "site.sock").exists()


def test_a_task_that_does_not_end_is_given_up(
    folder: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    monkeypatch.setattr(Site, "answer", gate.before(Site.answer))
    monkeypatch.setattr(client.agent, "_SENDING_S", 0.1)
    with running(folder, grace_s=0.1) as agent, ThreadPoolExecutor(1) as callers:
        call = callers.submit(ask, agent.site, task_of(study))
        assert gate.reached.acquire(timeout=WAIT_S)
        agent.stop.set()
        assert agent.ended.result(WAIT_S) is False
        with pytest.raises(SiteProcessError):
            call.result(WAIT_S)
        gate.open.set()


def test_loading_that_does_not_end_is_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    monkeypatch.setattr(Site, "open", gate.before(Site.open))
    with running(folder, wait=False, grace_s=0.1) as agent:
        assert gate.reached.acquire(timeout=WAIT_S)
        agent.stop.set()
        assert agent.ended.result(WAIT_S) is False
        gate.open.set()


def test_a_fault_of_loading_is_told_without_its_text(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError(CANARY)

    monkeypatch.setattr(Site, "open", fails)
    with pytest.raises(DataError, match="found RuntimeError") as fault:
        serve(folder, ready=lambda _: None, stop=threading.Event())
    assert "Miller" not in str(fault.value)
    assert fault.value.__cause__ is None


def test_a_site_that_cannot_be_opened_says_why_and_leaves_no_socket(folder: Path) -> None:
    (folder / "patients.csv").write_text("nothing\n")
    with pytest.raises(DataError, match="patients"):
        serve(folder, ready=lambda _: None, stop=threading.Event())
    assert not (load_site_config(folder).state_dir / "socket" / "site.sock").exists()
