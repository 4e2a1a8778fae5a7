"""The three ways of running one study that are compared: ours, ours behind stock nodes, and stock.

Each starts its own SuperLink (TLS, node authentication) and one process tree for each hospital,
and has ended all of them when it returns.
"""

import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import tomli_w

from client.agent_address import default_address
from client.agent_client import connect
from client.config import load_site_config
from client.site_keys import node_key_path
from common.study import Study
from common.study_file import study_to_toml
from server.app import Run, execute
from server.correspondence import Signed
from server.journal import Event
from server.superlink.control import Control, control_of, sites_of
from server.superlink.folder import Coordinator
from server.superlink.presence import ListedPresence
from server.superlink.task import task_of
from simulations.bench.federation.bundle import plain_bundle, relay_bundle, start_run
from simulations.bench.federation.processes import running, wait_until
from simulations.bench.federation.rounds import Round, rounds_of_journal, rounds_of_stock
from simulations.bench.federation.usage import (
    NO_MEMORY,
    Memory,
    Usage,
    Watch,
    cpu_by_role,
    memory_by_role,
    tree_of,
    usage_of,
)
from simulations.federation.folders import Deployment, deploy
from simulations.federation.run import federation
from simulations.marked_processes import free_port

_OPEN_TIMEOUT_S = 180.0
_MESSAGE_TIMEOUT_S = 30.0
_PATIENCE_S = 60.0
# The local work has one thread in every arm.
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run of one arm.

    Attributes:
        memory: of the largest process of each role, when the last round was over.
        cpu: seconds of processor time in a round after the first, by role.
        peak: as `memory`, at any moment of a run that is watched.
        peak_total: the most that all processes had at one moment of such a run.
    """

    rounds: Sequence[Round]
    memory: dict[str, Memory]
    cpu: dict[str, float]
    peak: dict[str, Memory] = field(default_factory=dict)
    peak_total: Memory = NO_MEMORY


Arm = Callable[[Study, Path, Path], Measured]


def ours(
    study: Study, sites: Path, folder: Path, *, watch_pause_s: float | None = None
) -> Measured:
    """What `wardround federation up` runs; this process is the coordinator.

    Args:
        watch_pause_s: sample memory all the time, so often; None for runs that are timed.
    """
    with ExitStack() as stack:
        own = stack.enter_context(federation(study, sites, folder))
        pids = [child.process.pid for child in own.family.children]
        meter = _Meter(lambda: [*_own(), *usage_of(_trees(pids))], study.training.rounds)
        watch = None
        if watch_pause_s is not None:
            watch = stack.enter_context(Watch(meter.sample, pause_s=watch_pause_s))
        own.run(resume=False, listeners=[meter.listen])
    measured = meter.measured(rounds_of_journal(meter.events))
    if watch is None:
        return measured
    return Measured(
        rounds=measured.rounds,
        memory=measured.memory,
        cpu=measured.cpu,
        peak=dict(watch.peak),
        peak_total=watch.peak_total,
    )


def relay(study: Study, sites: Path, folder: Path) -> Measured:
    """Our site processes behind stock SuperNodes that run the relay from a bundle."""
    deployment = deploy(study, sites, folder / "deployment")
    database = folder.resolve() / "superlink.db"
    with ExitStack() as stack:
        options = ["--isolation", "process", "--database", str(database)]
        link = stack.enter_context(_superlink(deployment, folder, options))
        place = Coordinator.open(deployment.coordinator)
        control = stack.enter_context(control_of(deployment.address, ca=place.ca))
        nodes = control.register(place.roster())
        serving, addresses = _site_processes(stack, deployment, folder)
        supernodes = [
            stack.enter_context(
                _supernode(name, deployment, folder, {"site-address": addresses[name]})
            )
            for name in deployment.sites
        ]
        programs = [link, *serving, *supernodes]
        _await_nodes(control, nodes, programs)
        run_id = start_run(deployment.address, place.ca, relay_bundle(folder / "bundle"))
        pids = [program.pid for program in programs]
        meter = _Meter(lambda: [*_own(), *usage_of(_trees(pids))], study.training.rounds)
        grid = stack.enter_context(
            task_of(
                run_id,
                address=deployment.address,
                ca=place.ca,
                patience_s=_PATIENCE_S,
                presence=ListedPresence(control.nodes),
            )
        )
        correspondence = Signed(key=place.key(), roster=place.roster(), sites_by_node=lambda: nodes)
        run = Run(
            study=study, folder=folder / "run", engine="superlink", correspondence=correspondence
        )
        execute(run, grid, listeners=[meter.listen])
    return meter.measured(rounds_of_journal(meter.events))


def stock(study: Study, sites: Path, folder: Path) -> Measured:
    """The plain app on a stock SuperLink and stock SuperNodes, with Flower's defaults."""
    deployment = deploy(study, sites, folder / "deployment")
    study_file, out = folder.resolve() / "study.toml", folder.resolve() / "rounds.jsonl"
    study_file.write_text(study_to_toml(study), encoding="utf-8")
    with ExitStack() as stack:
        link = stack.enter_context(_superlink(deployment, folder, []))
        place = Coordinator.open(deployment.coordinator)
        control = stack.enter_context(control_of(deployment.address, ca=place.ca))
        nodes = control.register(place.roster())
        supernodes = [
            stack.enter_context(_supernode(name, deployment, folder, {"site": str(site)}))
            for name, site in deployment.sites.items()
        ]
        programs = [link, *supernodes]
        _await_nodes(control, nodes, programs)
        config: dict[str, str | int] = {
            "study": str(study_file),
            "out": str(out),
            "num-sites": len(nodes),
        }
        start_run(deployment.address, place.ca, plain_bundle(), config)
        meter = _Meter(
            lambda: usage_of(_trees(program.pid for program in programs)), study.training.rounds
        )
        for number in range(1, study.training.rounds + 1):
            _await_line(number, out, programs, timeout_s=_MESSAGE_TIMEOUT_S * 2 * len(nodes))
            meter.finished(number)
    return meter.measured(rounds_of_stock(out.read_text(encoding="utf-8")))


@dataclass
class _Meter:
    """Takes what processes used at the ends of the first and the last round."""

    sample: Callable[[], list[Usage]]
    num_rounds: int
    events: list[Event] = field(default_factory=list)
    samples: dict[int, list[Usage]] = field(default_factory=dict)

    def listen(self, event: Event) -> None:
        """Hears the journal."""
        self.events.append(event)
        if event["event"] == "round_finished":
            self.finished(event["round"])

    def finished(self, round_number: int) -> None:
        """Takes a sample, which no round's time includes."""
        if round_number in (1, self.num_rounds):
            self.samples[round_number] = self.sample()

    def measured(self, rounds: Sequence[Round]) -> Measured:
        """What was measured of a run of more than one round."""
        first = cpu_by_role(self.samples[1])
        last = cpu_by_role(self.samples[self.num_rounds])
        cpu = {r: (s - first.get(r, 0.0)) / (self.num_rounds - 1) for r, s in last.items()}
        memory = memory_by_role(self.samples[self.num_rounds])
        return Measured(rounds=rounds, memory=memory, cpu=cpu)


def _own() -> list[Usage]:
    """What this process uses, which is the coordinator."""
    return [replace(usage, role="coordinator") for usage in usage_of([os.getpid()])]


def _trees(pids: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(pid for root in pids for pid in tree_of(root)))


@contextmanager
def _superlink(
    deployment: Deployment, folder: Path, options: Sequence[str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A stock SuperLink that answers, with TLS and a list of nodes."""
    place = deployment.coordinator
    command = ["flower-superlink", "--host", "127.0.0.1", "--port", str(deployment.port)]
    command += ["--ssl-ca-certfile", str(place / "ca.pem")]
    command += ["--ssl-certfile", str(place / "server.pem")]
    command += ["--ssl-keyfile", str(place / "private" / "server.key")]
    command += ["--enable-supernode-auth", *options]
    with running(command, folder=folder / "superlink", environment=_ONE_THREAD) as program:
        log = folder / "superlink" / "log"
        wait_until(
            lambda: b"Uvicorn running" in log.read_bytes(),
            "a SuperLink that answers",
            [program],
            timeout_s=_OPEN_TIMEOUT_S,
        )
        yield program


def _site_processes(
    stack: ExitStack, deployment: Deployment, folder: Path
) -> tuple[list[subprocess.Popen[bytes]], dict[str, str]]:
    """The site process of every hospital, each of which answers; and their addresses by name."""
    serving, addresses = [], {}
    for name, site in deployment.sites.items():
        command = ["wardround", "site", "serve", str(site)]
        serving.append(
            stack.enter_context(running(command, folder=folder / name / "s", environment={}))
        )
        addresses[name] = default_address(load_site_config(site).state_dir)
    for name, address in addresses.items():
        with connect(address) as site_process:
            what = f"the site process of {name}"
            wait_until(site_process.is_serving, what, serving, timeout_s=_OPEN_TIMEOUT_S)
    return serving, addresses


@contextmanager
def _supernode(
    name: str, deployment: Deployment, folder: Path, config: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A stock SuperNode of a hospital, which shows the hospital's key."""
    state_dir = load_site_config(deployment.sites[name]).state_dir
    command = ["flower-supernode", "--superlink", deployment.address]
    command += ["--root-certificates", str(deployment.coordinator / "ca.pem")]
    command += ["--auth-supernode-private-key", str(node_key_path(state_dir))]
    command += ["--port", str(free_port())]
    command += ["--node-config", tomli_w.dumps(config).strip().replace(" = ", "=")]
    with running(command, folder=folder / name / "n", environment=_ONE_THREAD) as program:
        yield program


def _await_nodes(
    control: Control, nodes: dict[int, str], programs: list[subprocess.Popen[bytes]]
) -> None:
    wait_until(
        lambda: len(sites_of(control.nodes()[0], nodes)) == len(nodes),
        "every hospital's node",
        programs,
        timeout_s=_OPEN_TIMEOUT_S,
    )


def _await_line(
    number: int, path: Path, programs: list[subprocess.Popen[bytes]], *, timeout_s: float
) -> None:
    """Waits for the `number`-th line of a file that another process writes."""
    wait_until(
        lambda: path.exists() and path.read_bytes().count(b"\n") >= number,
        f"round {number} of stock Flower",
        programs,
        timeout_s=timeout_s,
    )
