"""How a hospital runs its site process: who may reach it, with how many threads, when it renews."""

import grp
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import client.agent
from client.agent import serve
from client.config import load_site_config
from client.device import device_of
from client.site import Site
from common.errors import SiteConfigError, SiteProcessError
from common.study import Study
from tests.unit.agent_cases import WAIT_S, Gate, accept, ask, private_of, running, until
from tests.unit.builders import task_of

OWN_GROUP = grp.getgrgid(os.getgid()).gr_name


@pytest.fixture(scope="module")
def study(tiny_study: Study) -> Study:
    return private_of(tiny_study)


@pytest.fixture
def folder(new_site: Callable[..., Path], study: Study) -> Path:
    return accept(new_site(), study, cohort_size=45)


def ended() -> threading.Event:
    stop = threading.Event()
    stop.set()
    return stop


# Who may reach it.


def test_a_group_may_pass_to_the_socket_and_use_it_and_nothing_else(
    folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run" / "site.sock"
    with running(folder, address=f"unix:{path}", socket_group=OWN_GROUP) as agent:
        assert agent.site.is_serving()
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o710
        assert path.stat().st_gid == path.parent.stat().st_gid == os.getgid()
        lock = path.with_name("site.sock.lock")
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600


def test_a_folder_where_the_group_could_put_another_socket_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    for mode in (0o730, 0o711, 0o755):
        tmp_path.chmod(mode)
        with pytest.raises(SiteConfigError, match=f"{mode:04o}"):
            serve(
                folder,
                address=f"unix:{tmp_path}/s",
                socket_group=OWN_GROUP,
                ready=print,
                stop=ended(),
            )


def test_a_folder_that_was_the_groups_is_refused_to_one_user_alone(
    folder: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o710)
    with pytest.raises(SiteConfigError, match="chmod 700"):
        serve(folder, address=f"unix:{tmp_path}/s", ready=print, stop=ended())


@pytest.mark.parametrize(
    ("address", "group", "text"),
    [
        ("127.0.0.1:0", OWN_GROUP, "every user of this machine"),
        (None, "no-such-group-here", "groupadd"),
    ],
)
def test_a_group_that_would_mean_nothing_is_refused(
    folder: Path, address: str | None, group: str, text: str
) -> None:
    with pytest.raises(SiteConfigError, match=text):
        serve(folder, address=address, socket_group=group, ready=print, stop=ended())


# With what it computes.


@pytest.mark.parametrize("threads", [0, 3])
def test_threads_are_what_the_hospital_says_or_torchs_own(
    new_site: Callable[..., Path], study: Study, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    real_open = Site.open

    def opens(site_dir: Path) -> Site:
        told.append(-1)
        return real_open(site_dir)

    monkeypatch.setattr(torch, "set_num_threads", told.append)
    monkeypatch.setattr(Site, "open", opens)
    folder = accept(new_site(site={"threads": threads}), study, cohort_size=45)
    with running(folder):
        assert told == ([threads, -1] if threads else [-1])


@pytest.mark.parametrize("threads", [-1, 2000, 1.5, "many"])
def test_threads_are_a_number_of_threads(new_site: Callable[..., Path], threads: object) -> None:
    with pytest.raises(SiteConfigError, match=r"site\.threads"):
        load_site_config(new_site(site={"threads": threads}))


@pytest.mark.parametrize(
    ("num_gpus", "text"),
    [(0, "found none that torch can use"), (1, "1 here, numbered 0"), (2, "numbered 0 to 1")],
)
def test_a_gpu_that_is_not_there_is_one_sentence(
    num_gpus: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    with pytest.raises(SiteConfigError, match=rf"Expected the GPU cuda:2 .*{text}.*\"cpu\"\.$"):
        device_of("cuda:2")


# When it renews.


def test_a_drained_site_finishes_its_task_however_long_and_begins_no_other(
    folder: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, drain = Gate(), threading.Event()
    monkeypatch.setattr(Site, "answer", gate.before(Site.answer))
    # A task that had the grace alone would be given up.
    with running(folder, drain=drain, grace_s=0.0) as agent, ThreadPoolExecutor(2) as callers:
        call = callers.submit(ask, agent.site, task_of(study))
        assert gate.reached.acquire(timeout=WAIT_S)
        drain.set()
        until(lambda: not agent.site.is_serving())
        with pytest.raises(SiteProcessError, match="UNAVAILABLE"):
            ask(agent.site, task_of(study))
        assert not agent.ended.done()
        gate.open.set()
        assert call.result(WAIT_S).status == "ok"
        assert agent.ended.result(WAIT_S)
    assert gate.most_within == 1


def test_an_idle_site_that_is_drained_ends(folder: Path) -> None:
    drain = threading.Event()
    with running(folder, drain=drain) as agent:
        drain.set()
        assert agent.ended.result(WAIT_S)


def test_a_drained_site_that_is_told_to_end_has_its_grace_alone(
    folder: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, drain = Gate(), threading.Event()
    monkeypatch.setattr(Site, "answer", gate.before(Site.answer))
    monkeypatch.setattr(client.agent, "_SENDING_S", 0.1)
    with (
        running(folder, drain=drain, grace_s=0.1) as agent,
        ThreadPoolExecutor(1) as callers,
    ):
        call = callers.submit(ask, agent.site, task_of(study))
        assert gate.reached.acquire(timeout=WAIT_S)
        drain.set()
        until(lambda: not agent.site.is_serving())
        agent.stop.set()
        assert agent.ended.result(WAIT_S) is False
        with pytest.raises(SiteProcessError):
            call.result(WAIT_S)
        gate.open.set()
