"""Whole runs of a consortium: real sites, signed both ways, and whoever is in between."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.config import load_site_config
from client.site import Site
from common.arrays import Arrays
from common.errors import CohortError
from common.messages import Reply, Task, TaskKind
from common.study import Study
from common.study_file import override
from server.app import Run, execute
from server.correspondence import Signed
from simulations.cohort import SiteEffects, write_cohort
from simulations.engine import InProcessGrid
from tests.round.conftest import Federate, Federation
from tests.unit.agent_cases import accept, private_of
from tests.unit.consortium import COORDINATOR, join, roster_of

NAMES = ("ada", "bea", "cy")
Nodes = Mapping[int, str]
ALL: Nodes = dict(enumerate(NAMES, start=1))


class Between:
    """Whoever carries the messages of a site, and may change both ways what they say."""

    def __init__(
        self,
        site: Site,
        *,
        task: Callable[[Task], Task] = lambda task: task,
        reply: Callable[[Reply], Reply] = lambda reply: reply,
    ) -> None:
        self.name = site.name
        self._site = site
        self._task = task
        self._reply = reply

    def refuse_malformed(self, kind: TaskKind) -> Reply:
        return self._site.refuse_malformed(kind)

    def answer(self, task: Task) -> Reply:
        if task.round == 0:  # until they are enrolled, and have trained once
            return self._site.answer(task)
        return self._reply(self._site.answer(self._task(task)))


class Consortium:
    """Three hospitals that have accepted a study, and their coordinator."""

    def __init__(self, folder: Path, study: Study) -> None:
        self.folder, self.study = folder, study
        effects = [SiteEffects(name=name, num_patients=80) for name in NAMES]
        write_cohort(study, effects, folder / "sites", seed=0)
        self.sites = {name: folder / "sites" / name for name in NAMES}
        for site in self.sites.values():
            accept(site, study, cohort_size=60)
        self.roster = roster_of(*map(join, self.sites.values()))

    def run(self, out: str, *, nodes: Nodes = ALL, **between: Callable[[Site], Any]) -> Federation:
        """One run, with somebody between the coordinator and the sites that are named."""
        opened = {name: Site.open(folder) for name, folder in self.sites.items()}
        carried: dict[str, Any] = {
            name: between.get(name, lambda site: site)(site) for name, site in opened.items()
        }
        run = Run(
            study=self.study,
            folder=self.folder / out,
            engine="in-process",
            durable=False,
            correspondence=Signed(key=COORDINATOR, roster=self.roster, sites_by_node=lambda: nodes),
            receipts=self.folder / "receipts",
        )
        try:
            execute(run, InProcessGrid(carried))
        finally:
            for site in opened.values():
                site.close()
        return Federation(folder=self.folder / out)

    def state_of(self, name: str) -> Path:
        return load_site_config(self.sites[name]).state_dir


def absences(run: Federation) -> list[tuple[str, str]]:
    return [(event["site"], event["reason"]) for event in run.events("absent")]


@pytest.fixture(scope="module")
def plain(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return Consortium(tmp_path_factory.mktemp("plain"), study)


@pytest.fixture
def private(study: Study, tmp_path: Path) -> Consortium:
    return Consortium(tmp_path, override(private_of(study), training__rounds=1))


def test_a_consortium_gets_the_model_of_the_simulation_bit_for_bit(
    plain: Consortium, federate: Federate
) -> None:
    run = plain.run("out")
    assert absences(run) == []
    assert len(run.events("reply")) == 3 * (1 + 3 + 1)
    assert run.model_bytes == federate(sites=plain.folder / "sites").model_bytes
    assert not (run.folder / "keys").exists()  # the coordinator's own key is used


def changed(arrays: Arrays | None) -> Arrays:
    """The arrays with one bit changed."""
    assert arrays is not None
    flat = arrays.flat.copy()
    flat.view(np.uint32)[-1] ^= 1
    return Arrays(manifest=arrays.manifest, flat=flat)


class Replaying:
    """Sends the first task that comes by, again and again."""

    def __init__(self) -> None:
        self._first: Task | None = None

    def __call__(self, task: Task) -> Task:
        self._first = self._first or task
        return self._first


ATTACKS: dict[str, tuple[Callable[[Site], Between], str]] = {
    "an answer in another site's name": (
        lambda site: Between(site, reply=lambda r: replace(r, site="bea")),
        "rejected: answers for another site",
    ),
    "an answer without a signature": (
        lambda site: Between(site, reply=lambda r: replace(r, signature=None)),
        "rejected: not signed by the site",
    ),
    "a changed update": (
        lambda site: Between(
            site, reply=lambda r: r if r.arrays is None else replace(r, arrays=changed(r.arrays))
        ),
        "rejected: not signed by the site",
    ),
    "a refusal that the site has not made": (
        lambda site: Between(site, reply=lambda r: replace(r, status="step_limit")),
        "rejected: not signed by the site",
    ),
    "a changed model": (
        lambda site: Between(site, task=lambda t: replace(t, arrays=changed(t.arrays))),
        "task_not_signed",
    ),
    "a task without a signature": (
        lambda site: Between(site, task=lambda t: replace(t, signature=None)),
        "task_not_signed",
    ),
    "a task that was for another site": (
        lambda site: Between(site, task=lambda t: replace(t, site="bea")),
        "task_not_signed",
    ),
    "a task from before, which is answered as such": (
        lambda site: Between(site, task=Replaying()),
        "rejected: answers another task",
    ),
}


@pytest.mark.threat("C-3", "N-1")
@pytest.mark.parametrize(("attack", "reason"), ATTACKS.values(), ids=ATTACKS)
def test_whoever_is_in_between_can_make_a_site_absent_and_nothing_more(
    plain: Consortium,
    attack: Callable[[Site], Between],
    reason: str,
    request: pytest.FixtureRequest,
) -> None:
    run = plain.run(f"attacked-{request.node.callspec.id}".replace(" ", "-"), cy=attack)
    told = absences(run)
    assert ("cy", reason) in told
    assert {site for site, _ in told} == {"cy"}
    assert {reason for _, reason in told} == {reason}
    taken = [event["sites"] for event in run.events("aggregated")]
    assert taken[0] == ["ada", "bea", "cy"]
    # The first task that is replayed is answered once more: it is the newest one.
    assert taken[-1] == ["ada", "bea"]


@pytest.mark.threat("C-3", "K-1")
def test_a_node_of_no_site_in_the_roster_is_never_asked(private: Consortium) -> None:
    run = private.run("out", nodes={1: "ada", 2: "bea", 3: "dora"})
    assert set(absences(run)) == {("node 3", "not in the roster")}
    assert not (private.state_of("cy") / "audit.jsonl").exists()


@pytest.mark.threat("C-3")
def test_two_nodes_that_were_given_each_others_names_are_believed_in_nothing(
    plain: Consortium,
) -> None:
    with pytest.raises(CohortError, match="2 sites"):
        plain.run("swapped", nodes={1: "ada", 2: "cy", 3: "bea"})
    told = absences(Federation(folder=plain.folder / "swapped"))
    reason = "rejected: answers for another site"
    assert sorted(told) == [("bea", reason), ("cy", reason)]


@pytest.mark.threat("K-1")
def test_a_site_that_is_struck_off_during_a_run_is_asked_no_more(plain: Consortium) -> None:
    nodes = dict(ALL)

    def strike_off(reply: Reply) -> Reply:
        nodes[3] = "nobody"
        return reply

    run = plain.run("struck-off", nodes=nodes, cy=lambda site: Between(site, reply=strike_off))
    assert set(absences(run)) == {("cy", "not in the roster")}
    assert [e["sites"] for e in run.events("aggregated")] == [
        ["ada", "bea", "cy"],
        ["ada", "bea", "cy"],
        ["ada", "bea"],
    ]


def test_a_node_that_becomes_known_during_a_run_takes_part_from_then_on(plain: Consortium) -> None:
    nodes = {1: "ada", 2: "bea"}

    def make_known(reply: Reply) -> Reply:
        nodes[3] = "cy"
        return reply

    run = plain.run("known-later", nodes=nodes, bea=lambda site: Between(site, reply=make_known))
    assert absences(run) == [("node 3", "not in the roster")]
    assert run.events("aggregated")[-1]["sites"] == ["ada", "bea", "cy"]


@pytest.mark.threat("I-2")
def test_a_ledger_that_was_set_back_between_two_runs_is_noticed_at_the_first_task(
    private: Consortium,
) -> None:
    Site.open(private.sites["cy"]).close()
    state, copy = private.state_of("cy"), private.folder / "copy"
    shutil.copytree(state, copy)
    first = private.run("first")
    assert absences(first) == []
    assert {path.stem for path in (private.folder / "receipts").iterdir()} == set(NAMES)
    shutil.rmtree(state)
    shutil.copytree(copy, state)
    second = private.run("second")
    assert absences(second) == [("cy", "ledger_behind")]
    assert {event["site"] for event in second.events("enrolled")} == {"ada", "bea"}
