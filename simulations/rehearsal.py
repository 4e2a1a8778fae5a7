"""A rehearsal: a copy of a hospital, with canaries, among simulated ones, and all that comes out.

What runs is what a hospital runs: its door, its policy, its books, the coordinator's own code, and
every message in the form of bytes in which it would be sent. Must never write into the hospital's
folder or its state.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from flwr.app import Message
from numpy.typing import NDArray

import client.site
from client.config import load_site_config
from client.site import Site
from common import wire
from common.errors import RunError
from common.messages import OK, Reply, TaskKind
from common.study import Study
from common.study_file import override
from server.app import Run, execute
from server.correspondence import Signed
from server.superlink.folder import Coordinator
from simulations.canaries import Canaries, Hit, Search
from simulations.cohort import SiteEffects, write_cohort
from simulations.engine import InProcessGrid
from simulations.federation.folders import Deployment, deploy
from simulations.federation.run import DEPLOYMENT
from simulations.planting import plant
from simulations.rehearsal_tasks import rehearsal_tasks

Tell = Callable[[str], None]

_ROUNDS = 2
_MOST_PATIENTS = 300
_PEER_PATIENTS = 200
# At a hospital, meant to hold what is known of its patients, and never sent.
_LOCAL = ("personal",)


class RecordingGrid(InProcessGrid):
    """A grid that keeps every message as the bytes that would be sent."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        super().__init__(sites)
        self._names = dict(enumerate(sorted(sites), start=1))
        self.sent: list[tuple[str, bytes]] = []

    def _answer(self, message: Message) -> Message:
        reply = super()._answer(message)
        name = self._names[message.metadata.dst_node_id]
        self.sent.append((name, wire.records_to_bytes(reply.content)))
        return reply


@dataclass(kw_only=True)
class Rehearsal:
    """A copy of a site among simulated hospitals, in a private folder.

    Attributes:
        name: of the site.
        out: where everything that comes out is; `hospitals` holds the data.
        num_patients: of the site, that were copied.
        sent: the bytes of each message of the site.
    """

    study: Study
    name: str
    folder: Path
    canaries: Canaries
    num_patients: int = 0
    sent: list[bytes] = field(default_factory=list)

    @property
    def hospitals(self) -> Path:
        """The folders of the data."""
        return self.folder / "hospitals"

    @property
    def out(self) -> Path:
        """Everything that came out."""
        return self.folder / "out"

    def deploy(self, out: str) -> Deployment:
        """The consortium of the copy and the simulated hospitals, with its books below `out`."""
        return deploy(self.study, self.hospitals, self.out / out / DEPLOYMENT)

    def excluded(self) -> list[Path]:
        """What is meant to hold patients' values: the site's data, and its own models."""
        site_folders = self.out.glob(f"*/{DEPLOYMENT}/sites/*/site")
        local = [path for name in _LOCAL for path in self.out.glob(f"*/{DEPLOYMENT}/**/{name}")]
        return [*site_folders, *local]

    def search(self) -> list[Hit]:
        """The canaries in messages, in their arrays and statistics, and in every file that is out.

        Of one canary in several forms, each is told.
        """
        search = Search(self.canaries)
        hits: list[Hit] = []
        for number, data in enumerate(self.sent, start=1):
            where = f"message {number}"
            hits += search.in_bytes(data, where)
            hits += [h for values in numbers_of(data) for h in search.in_array(values, where)]
        hits += search.in_files(self.out, without=self.excluded())
        return hits


@contextmanager
def rehearsal(
    site_dir: Path,
    study: Study,
    *,
    seed: int,
    most_patients: int = _MOST_PATIENTS,
    tell: Tell = lambda text: None,
) -> Iterator[Rehearsal]:
    """The copy of a site, with canaries, among as many simulated hospitals as the study needs.

    Guarantees:
        - All of it is in one folder of this user alone, which is gone when the block is left.
        - Temporary files and logs of this process are in what is searched, as long as it lasts.
    """
    name = load_site_config(site_dir).name
    short = _shortened(study)
    with tempfile.TemporaryDirectory(prefix="wardround-self-test-") as place:
        folder = Path(place)
        made = Rehearsal(study=short, name=name, folder=folder, canaries=Canaries(seed=seed))
        made.out.mkdir()
        tell("copying the data, with canaries in them")
        made.num_patients = plant(
            site_dir, made.hospitals / name, short, made.canaries, most_patients=most_patients
        )
        peers = [f"peer-{i}" for i in range(1, max(2, short.strategy.min_sites))]
        effects = [SiteEffects(name=peer, num_patients=_PEER_PATIENTS) for peer in peers]
        tell(f"simulating {len(peers)} other hospitals")
        write_cohort(short, effects, made.hospitals, seed=0)
        with _captured(made.out):
            yield made


def _shortened(study: Study) -> Study:
    """The study with few rounds, which asks nothing of a site that the whole one does not."""
    rounds = min(_ROUNDS, study.training.rounds)
    return override(study, training__rounds=rounds)


@contextmanager
def _captured(out: Path) -> Iterator[None]:
    """Sends temporary files and the most verbose log of this process to files below `out`."""
    temporary, logs = out / "tmp", out / "logs"
    temporary.mkdir()
    logs.mkdir()
    handler = logging.FileHandler(logs / "rehearsal.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    before, level = tempfile.tempdir, root.level
    tempfile.tempdir = str(temporary)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()
        tempfile.tempdir = before


def rehearse(
    made: Rehearsal, *, tell: Tell = lambda text: None, look: Callable[[], None] = lambda: None
) -> None:
    """A run of the study in this process, and then tasks that the site must refuse, or fails at.

    Args:
        look: called at every event of the run; what it raises ends the rehearsal.

    Raises:
        RunError: the run came to no end, or the site answered none of its tasks.
    """
    tell("a rehearsal: keys, certificates, enrolment, training, evaluation")
    deployment = made.deploy("in-process")
    coordinator = Coordinator.open(deployment.coordinator)
    torch.set_num_threads(1)
    with ExitStack() as stack:
        sites = {}
        for name, folder in deployment.sites.items():
            sites[name] = Site.open(folder)
            stack.callback(sites[name].close)
        nodes = dict(enumerate(sorted(sites), start=1))
        correspondence = Signed(
            key=coordinator.key(), roster=coordinator.roster(), sites_by_node=lambda: nodes
        )
        grid = RecordingGrid(sites)
        run = Run(
            study=made.study,
            folder=made.out / "in-process",
            engine="in-process",
            correspondence=correspondence,
            receipts=coordinator.receipts,
            durable=False,
        )
        try:
            execute(run, grid, listeners=[lambda _: look()])
        finally:
            made.sent += [data for name, data in grid.sent if name == made.name]
        if all(reply_of(data).status != OK for data in made.sent):
            raise RunError(
                "Expected the site to answer the rehearsal's tasks, found refusals alone: "
                f"{', '.join(sorted({reply_of(data).status for data in made.sent}))}. Mend what "
                "`wardround check-site` tells, and look at the policy in site.toml."
            )
        tell("tasks that the site must refuse, and failures")
        site = sites[made.name]
        quote = " ".join(list(made.canaries.words)[:3])
        for _, task, failure in rehearsal_tasks(made.study, site.name, correspondence):
            with _failing(failure, quote):
                made.sent.append(_bytes_of(site.answer(task)))
        made.sent.append(_bytes_of(site.refuse_malformed(TaskKind.TRAIN)))


@contextmanager
def _failing(failure: type[BaseException] | None, text: str) -> Iterator[None]:
    """Lets the site's work end in this exception, which quotes a patient."""
    if failure is None:
        yield
        return
    with mock.patch.object(client.site, "load_state", side_effect=failure(text)):
        yield


def _bytes_of(reply: Reply) -> bytes:
    return wire.records_to_bytes(wire.reply_to_records(reply))


def reply_of(data: bytes) -> Reply:
    """The reply that a site has sent as `data`."""
    return wire.reply_from_records(wire.records_from_bytes(data))


def numbers_of(data: bytes) -> list[NDArray[np.float64]]:
    """All numbers of a message that are not counts."""
    reply = reply_of(data)
    arrays = [] if reply.arrays is None else [reply.arrays.flat.astype(np.float64)]
    return [*arrays, *(np.array(values) for values in reply.metrics.values())]
