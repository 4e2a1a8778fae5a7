"""A study on a running SuperLink: from the roster to a finished run folder."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from common.errors import CohortError, RunError
from common.roster import Roster
from server.app import Run, execute
from server.correspondence import Signed
from server.journal import Event, Listener
from server.superlink.control import Control, control_of, sites_of
from server.superlink.folder import Coordinator
from server.superlink.lock import alone
from server.superlink.presence import ListedPresence
from server.superlink.runtime import RunLost
from server.superlink.task import task_of

_LOOK_EVERY_S = 0.5
_STARTING_S = 10.0
_MOST_SKEW_S = 5.0
_MOST_LOST = 3


@dataclass(frozen=True, kw_only=True)
class Hospitals:
    """Which of the roster's sites are connected with the SuperLink."""

    connected: tuple[str, ...]
    missing: tuple[str, ...]


def run_study(
    run: Run,
    coordinator: Path,
    *,
    listeners: Sequence[Listener] = (),
    on_hospitals: Callable[[Hospitals], None] = lambda hospitals: None,
    on_notice: Callable[[str], None] = lambda text: None,
    look: Callable[[], None] = lambda: None,
    grace_s: float = 10.0,
    patience_s: float = 120.0,
) -> None:
    """Runs a study over the hospitals of a consortium; `run.folder` then holds what a run leaves.

    Guarantees:
        - Only the roster's sites are asked, and believed by their own signatures alone.
        - The nodes of the roster's sites are registered with the SuperLink, and no others.
        - A SuperLink that is killed and started again does not end the run: within `patience_s`
          calls are repeated, and where it has given the run up, a new one goes on at the same
          round.
        - One run at a time.
        - What `look` raises ends the run: while the SuperLink or hospitals are waited for, before
          the run as in its rounds, and at every event of the journal.

    Args:
        run: what to run; its engine, correspondence, key and receipts are set here.
        coordinator: the folder that `wardround provision` made, whose SuperLink is running.
        listeners: told of every event of the journal.
        on_hospitals: told who is connected, and again at every change, until the run starts.
        on_notice: told what the coordinator should know, one sentence each.
        look: called again and again.
        grace_s: how long to wait for further sites once there are `strategy.min_sites` of them.
        patience_s: how long a SuperLink may be away.

    Raises:
        ProvisionError, SiteConfigError: the coordinator's folder cannot be used.
        CohortError: too few sites are connected within `strategy.round_timeout_s`, or answer.
        RunError: the SuperLink does not answer, or another run is going on; and as `execute`.
        CheckpointError, StudyError: as `execute`.
    """
    place = Coordinator.open(coordinator)
    deployment = _Deployment(
        place=place,
        roster=place.roster(),
        listeners=(*listeners, _looking(look)),
        on_hospitals=on_hospitals,
        on_notice=on_notice,
        look=look,
        grace_s=grace_s,
        patience_s=patience_s,
    )
    with alone(place.superlink / "run.lock", "run"):
        num_lost, reached = 0, ""
        while True:
            try:
                deployment.attempt(run)
            except RunLost as fault:
                newest = _newest_checkpoint(run.folder)
                num_lost = num_lost + 1 if newest == reached else 1
                reached = newest
                is_at_start = not newest and run.init_from is not None
                if is_at_start or num_lost >= _MOST_LOST:
                    raise _lost(fault, may_resume=not is_at_start) from None
                on_notice(f"{str(fault).capitalize()}; going on in a new one at the same round.")
                run = replace(run, resume=True, init_from=None)
            else:
                return


def _looking(look: Callable[[], None]) -> Listener:
    """Asks at every event, but not while it is written that and why a run has failed."""

    def listen(event: Event) -> None:
        if event["event"] != "run_failed":
            look()

    return listen


@dataclass(frozen=True, kw_only=True)
class _Deployment:
    place: Coordinator
    roster: Roster
    listeners: tuple[Listener, ...]
    on_hospitals: Callable[[Hospitals], None]
    on_notice: Callable[[str], None]
    look: Callable[[], None]
    grace_s: float
    patience_s: float

    def attempt(self, run: Run) -> None:
        """One run of Flower's. Raises `RunLost` where the SuperLink has given it up."""
        address, ca = self.place.address, self.place.ca
        with control_of(address, ca=ca) as control:
            patience_s = self.first_patience_s(run)
            skew_s = skew_of(control, patience_s=patience_s, look=self.look)
            if abs(skew_s) > _MOST_SKEW_S:
                self.on_notice(
                    f"This clock is {skew_s:+.0f} s off the SuperLink's: set both by NTP, or "
                    "hospitals may be refused."
                )
            sites = control.register(self.roster)
            self._gather(control, sites, run)
            run_id = control.start_run()
            correspondence = Signed(
                key=self.place.key(), roster=self.roster, sites_by_node=lambda: sites
            )
            presence = ListedPresence(control.nodes)
            with (
                task_of(
                    run_id, address=address, ca=ca, patience_s=self.patience_s, presence=presence
                ) as grid,
                grid.patient.looked_after(self.look),
            ):
                execute(
                    replace(
                        run,
                        engine="superlink",
                        correspondence=correspondence,
                        key=None,
                        receipts=self.place.receipts,
                    ),
                    grid,
                    listeners=self.listeners,
                )

    def first_patience_s(self, run: Run) -> float:
        """How long to wait for the SuperLink: it may just have been started, or be restarting."""
        return self.patience_s if run.resume else min(_STARTING_S, self.patience_s)

    def _gather(self, control: Control, sites: Mapping[int, str], run: Run) -> None:
        """Waits for the roster's sites. Raises `CohortError` if too few come in time."""
        plan = run.study.strategy
        deadline = time.monotonic() + plan.round_timeout_s
        told: tuple[str, ...] | None = None
        started_at: float | None = None
        while True:
            self.look()
            connected = sites_of(control.nodes()[0], sites)
            now = time.monotonic()
            if connected != told:
                missing = tuple(sorted(set(sites.values()) - set(connected)))
                self.on_hospitals(Hospitals(connected=connected, missing=missing))
                told = connected
            if len(connected) < plan.min_sites:
                started_at = None
            elif started_at is None:
                started_at = now
            if len(connected) == len(sites) >= plan.min_sites:
                return
            if started_at is not None and now >= min(started_at + self.grace_s, deadline):
                return
            if now >= deadline or len(sites) < plan.min_sites:
                raise CohortError(
                    f"Expected at least {plan.min_sites} connected sites (strategy.min_sites), "
                    f"found {len(connected)} of {len(sites)} in the roster within "
                    f"{plan.round_timeout_s:g} s; missing: {', '.join(missing) or 'none'}. Ask "
                    "them to start `wardround site up`, and give the same command again."
                )
            time.sleep(_LOOK_EVERY_S)


def skew_of(
    control: Control, *, patience_s: float, look: Callable[[], None] = lambda: None
) -> float:
    """Seconds that this clock is ahead of the SuperLink's, once that answers.

    Args:
        look: called before each try; what it raises ends the waiting.
    """
    deadline = time.monotonic() + patience_s
    while True:
        look()
        asked = datetime.now(UTC)
        try:
            _, theirs = control.nodes()
        except RunError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_EVERY_S)
            continue
        here = asked + (datetime.now(UTC) - asked) / 2
        return (here - theirs).total_seconds()


def _newest_checkpoint(folder: Path) -> str:
    """The name of the newest checkpoint of a run; "" if there is none."""
    return max((path.name for path in (folder / "checkpoints").glob("round-*.json")), default="")


def _lost(fault: RunLost, *, may_resume: bool) -> RunError:
    times = f"{_MOST_LOST} times at one round" if may_resume else "before the first round"
    return RunError(
        f"Expected the SuperLink to keep the run, found that {fault}, {times}. See "
        "superlink/superlink.log in the coordinator's folder, and "
        f"{'go on with --resume' if may_resume else 'start again with another --out'}."
    )
