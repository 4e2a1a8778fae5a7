"""A whole federation on this machine: its processes up, its study run, its processes down again."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.agent_address import default_address, parse_address
from client.config import load_site_config
from common.errors import CohortError, RunError, SiteConfigError, WardroundError
from common.study import Study
from server.app import Run
from server.journal import Listener
from server.superlink.control import Control, control_of, sites_of
from server.superlink.folder import Coordinator
from server.superlink.lock import alone
from server.superlink.run import run_study
from simulations.federation.folders import Deployment, deploy
from simulations.federation.processes import Family, family

# Of a site: its process loads torch and reads the data, and there may be many on two cores.
_CONNECT_TIMEOUT_S = 600.0
_ANSWER_TIMEOUT_S = 120.0
_LOOK_EVERY_S = 0.2
DEPLOYMENT = "deployment"

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Federation:
    """Hospitals that are connected with their coordinator, each with processes of its own."""

    study: Study
    out: Path
    deployment: Deployment
    family: Family

    def run(
        self, *, resume: bool, listeners: Sequence[Listener] = (), tell: Tell = lambda text: None
    ) -> None:
        """Runs the study; `out` then holds what every engine leaves there.

        Guarantees:
            - What `look` of the family raises ends the run.

        Raises:
            RunError: a process has ended for good; it is named.
            WardroundError: as `run_study` raises.
        """
        run = Run(study=self.study, folder=self.out, engine="superlink", resume=resume)
        try:
            run_study(
                run,
                self.deployment.coordinator,
                listeners=listeners,
                on_notice=tell,
                look=self.family.look,
            )
        except WardroundError:
            self.family.check()
            raise

    def stay(self) -> None:
        """Leaves all as it is, until it is interrupted. Raises `RunError` if a process ends."""
        while True:
            self.family.check()
            time.sleep(_LOOK_EVERY_S)


@contextmanager
def federation(
    study: Study,
    sites: Path,
    out: Path,
    *,
    resume: bool = False,
    tell: Tell = lambda text: None,
    look: Callable[[], None] = lambda: None,
) -> Iterator[Federation]:
    """The hospitals below `sites`, connected: TLS, node authentication, a process tree for each.

    Guarantees:
        - No process is left when the block is left, however it is left; and where this process is
          killed, the kernel ends them (Linux).
        - The hospitals' own folders, ledgers and policies stay as they are.

    Args:
        out: the run's folder; keys, books and logs are in `out/deployment`.
        resume: use what is in `out/deployment` again.
        tell: told what is being done, and how many hospitals are connected.
        look: called again and again, also while the study runs; what it raises ends all of it.

    Raises:
        DataError, CohortError, RunError: as `deploy`; or somebody else uses this folder.
        RunError: a process has ended, or the SuperLink does not answer.
        CohortError: not every hospital has connected within ten minutes.
    """
    folder = (out / DEPLOYMENT).resolve()
    with ExitStack() as stack:
        stack.enter_context(alone(out / ".federation.lock", "federation"))
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wr-")))
        members = stack.enter_context(family(folder, look=look))
        tell("making keys, certificates and folders")
        deployment = deploy(study, sites, folder, resume=resume)
        tell("starting the SuperLink")
        members.start("coordinator", ["server", "up", str(deployment.coordinator)])
        place = Coordinator.open(deployment.coordinator)
        control = stack.enter_context(control_of(deployment.address, ca=place.ca))
        _await_answer(control, members)
        # Before anybody knocks: a connector that is not known waits longer each time.
        nodes = control.register(place.roster())
        for number, (name, site) in enumerate(deployment.sites.items()):
            members.start(name, _site_up(site, deployment.address, sockets / f"{number}.sock"))
        _await_hospitals(control, nodes, members, tell)
        yield Federation(study=study, out=out, deployment=deployment, family=members)


def _site_up(site: Path, superlink: str, short: Path) -> list[str]:
    """The command that keeps a hospital up; its socket is at `short` where its own is too long."""
    command = ["site", "up", str(site), "--superlink", superlink]
    try:
        parse_address(default_address(load_site_config(site).state_dir))
    except SiteConfigError:
        command += ["--address", f"unix:{short}"]
    return command


def _await_answer(control: Control, members: Family) -> None:
    """Waits until the SuperLink answers. Raises `RunError` if it does not, or has ended."""
    deadline = time.monotonic() + _ANSWER_TIMEOUT_S
    while True:
        members.check()
        try:
            control.nodes()
        except RunError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_EVERY_S)
        else:
            return


def _await_hospitals(
    control: Control, nodes: Mapping[int, str], members: Family, tell: Tell
) -> None:
    """Waits until all are connected. Raises `RunError` or `CohortError` if that cannot be."""
    started = time.monotonic()
    told = -1
    while True:
        members.check()
        # Of connectors that were killed a moment ago, the SuperLink does not know it yet.
        new_s = time.monotonic() - started
        seen = tuple(node for node in control.nodes()[0] if node.silent_s < new_s)
        connected = sites_of(seen, nodes)
        if len(connected) != told:
            told = len(connected)
            tell(f"{told} of {len(nodes)} hospitals are connected")
        if told == len(nodes):
            return
        if new_s > _CONNECT_TIMEOUT_S:
            missing = ", ".join(sorted(set(nodes.values()) - set(connected)))
            raise CohortError(
                f"Expected every hospital to connect within {_CONNECT_TIMEOUT_S:.0f} s, found that "
                f"{missing} did not. See the logs in {members.logs}."
            )
        time.sleep(_LOOK_EVERY_S)
