"""Site processes in tests: real folders, a real gRPC server in this process."""

import threading
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from client.agent import serve
from client.agent_client import SiteConnection, connect
from client.config import load_site_config
from common.messages import Reply, Task
from common.study import Study
from common.study_file import override, study_to_toml, with_patient_privacy
from common.wire import records_from_bytes, records_to_bytes, reply_from_records, task_to_records
from tests.unit.consortium import join, signed

WAIT_S = 60.0


def private_of(study: Study) -> Study:
    """The study with patient-level privacy."""
    public = override(study, normalisation__method="public_range")
    return with_patient_privacy(public, epsilon=4.0, delta=1e-4)


def accept(folder: Path, study: Study, *, cohort_size: int) -> Path:
    """The folder, once its hospital has joined and has accepted the private study."""
    path = folder / "site.toml"
    file = tomllib.loads(path.read_text(encoding="utf-8"))
    file["policy"] |= {
        "accepted_studies": [study.hash],
        "epsilon_budget": 10.0,
        "delta_budget": 1e-4,
        "cohort_size": cohort_size,
    }
    path.write_text(tomli_w.dumps(file), encoding="utf-8")
    accepted = load_site_config(folder).state_dir / "studies" / f"{study.hash}.toml"
    accepted.parent.mkdir(parents=True)
    accepted.write_text(study_to_toml(study), encoding="utf-8")
    join(folder)
    return folder


def ask(site: SiteConnection, task: Task, name: str = "alpha") -> Reply:
    """The site's reply to a task that the coordinator has signed, over the wire."""
    return reply_of(site.answer(bytes_of(task, name), task.kind.value))


def bytes_of(task: Task, name: str = "alpha") -> bytes:
    """The task to the site `name`, signed."""
    return records_to_bytes(task_to_records(signed(task, name)))


def reply_of(data: bytes) -> Reply:
    return reply_from_records(records_from_bytes(data))


@dataclass(frozen=True, kw_only=True)
class Running:
    """A site process in a thread of this one."""

    address: str
    site: SiteConnection
    stop: threading.Event
    ended: "Future[bool]"


@contextmanager
def running(folder: Path, *, wait: bool = True, **settings: Any) -> Iterator[Running]:
    """Serves a folder until the block ends; `wait` until it is ready, or failed."""
    address: list[str] = []
    stop, changed = threading.Event(), threading.Event()

    def ready(target: str) -> None:
        address.append(target)
        changed.set()

    with ThreadPoolExecutor(max_workers=1) as pool:
        ended = pool.submit(serve, folder, ready=ready, stop=stop, **settings)
        ended.add_done_callback(lambda _: changed.set())
        try:
            if wait:
                assert changed.wait(WAIT_S)
                if not address:
                    ended.result()
            state = load_site_config(folder).state_dir
            target = address[0] if address else f"unix:{state / 'socket' / 'site.sock'}"
            with connect(target) as site:
                yield Running(address=target, site=site, stop=stop, ended=ended)
        finally:
            stop.set()


class Gate:
    """Something that is held up until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = threading.Semaphore(0)
        self.open = threading.Event()
        self.num_within = 0
        self.most_within = 0

    def before(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """`inner`, held up."""

        def held(*args: Any, **kwargs: Any) -> Any:
            self.num_within += 1
            self.most_within = max(self.most_within, self.num_within)
            self.reached.release()
            assert self.open.wait(WAIT_S)
            self.num_within -= 1
            return inner(*args, **kwargs)

        return held


def until(is_true: Callable[[], bool]) -> None:
    """Waits until something is so, for a minute at most."""
    for _ in range(6000):
        if is_true():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come about")
