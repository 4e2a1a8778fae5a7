"""Probes of what a site charges: each runs tasks at a real site in a folder, and reads its files.

The file of the ledger is read here by ourselves, so that a ledger that forgets is noticed.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from client.charging import Ledgered
from client.ledger.entries import ledger_path, read_chain
from client.site import Site
from common.code_version import code_fingerprint
from common.messages import Reply, Task, TaskKind
from common.models.patient_model import PatientModel, state_of
from common.privacy.accounting import epsilon_of
from common.privacy.events import Charge, Gaussian, charge_from_json
from common.privacy.plan import plan_of
from simulations.site_folder import write_site_folder
from tests.unit.private_probes import plan_study

DATASET = "probed"


def task_of(kind: TaskKind, round_number: int = 0, run_id: str = "run") -> Task:
    study = plan_study()
    return Task(
        kind=kind,
        run_id=run_id,
        round=round_number,
        nonce=f"{run_id}-{kind}-{round_number}",
        study_hash=study.hash,
        code=code_fingerprint(),
        arrays=None if kind is TaskKind.ENROL else state_of(PatientModel(study)),
    )


def site_in(folder: Path, *, epsilon_budget: float | None = None) -> Site:
    """A simulated site of 65 training patients, which keeps a ledger."""
    rng = np.random.default_rng(0)
    num = 80
    patients = pd.DataFrame(
        {
            "patient_id": [f"p{i:03d}" for i in range(num)],
            "split": ["train" if i < 65 else "test" for i in range(num)],
            "event": rng.choice(["no", "yes"], num),
            "age_years": rng.uniform(20, 90, num),
            "glucose": rng.uniform(3, 20, num),
            "sex": rng.choice(["female", "male"], num),
            "heart_rate_bpm": rng.uniform(50, 120, num),
            "smoker": rng.choice(["never", "former", "now"], num),
        }
    )
    path = write_site_folder(
        folder / "probe", site="probe", dataset_id=DATASET, patients=patients, source="A probe."
    )
    if epsilon_budget is not None:
        with (path / "site.toml").open("a", encoding="utf-8") as file:
            file.write(f"epsilon_budget = {epsilon_budget}\n")
    return Site.simulated(path, plan_study(), state_dir=folder / "state")


def charged(folder: Path) -> list[Charge]:
    """All that the ledger's file says is spent."""
    chain = read_chain(ledger_path(folder / "state", DATASET).read_bytes())
    assert not chain.faults
    reserved = [entry for entry in chain.entries if entry.kind == "reserved"]
    return [charge_from_json(table) for entry in reserved for table in entry.fields["charges"]]


def _answers(site: Site, tasks: list[Task]) -> list[Reply]:
    replies = [site.answer(task) for task in tasks]
    site.close()
    return replies


def _run(run_id: str = "run") -> list[Task]:
    rounds = [task_of(TaskKind.TRAIN, n, run_id) for n in range(3)]
    last = task_of(TaskKind.EVALUATE, 3, run_id)
    return [task_of(TaskKind.ENROL, 0, run_id), *rounds, last]


def a_run_is_charged_whole(folder: Path) -> None:
    """Moments, every step and one evaluation are in the ledger's file, its memory, its receipt."""
    site = site_in(folder)
    replies = [site.answer(task) for task in _run()]
    remembered = _charging(site)._ledger.charges()
    site.close()
    assert [reply.status for reply in replies] == ["ok"] * 5
    charges = charged(folder)
    assert Counter(remembered) == Counter(charges), "the ledger forgets what is in its file"
    events = [c.event for c in charges if isinstance(c.event, Gaussian)]
    steps = sum(event.count for event in events if event.sample_rate < 1)
    assert steps == 3 * 4, f"{steps} of 12 steps are charged"
    assert sum(event.count for event in events if event.sample_rate == 1) == 2, "not all statistics"
    receipt = replies[-1].receipt
    assert receipt is not None
    assert receipt.epsilon == epsilon_of(charges, 1e-4), "the receipt forgets"


def training_tells_no_statistic(folder: Path) -> None:
    """The reply to a training task holds an update and public weights, and nothing else."""
    (reply,) = _answers(site_in(folder), [task_of(TaskKind.TRAIN)])
    assert reply.arrays is not None
    assert not reply.metrics, "statistics before the last round"
    assert set(reply.counts.values()) <= {0, 1}, "counts of patients"


def one_evaluation_a_run(folder: Path) -> None:
    """A second evaluation, of another round, is beyond what a run may cost."""
    tasks = [task_of(TaskKind.EVALUATE, 1), task_of(TaskKind.EVALUATE, 2)]
    first, second = _answers(site_in(folder), tasks)
    assert (first.status, second.status) == ("ok", "budget_exceeded"), "another evaluation"


def all_runs_share_the_budget(folder: Path) -> None:
    """Where the budget has room for one run, a second one does not enrol."""
    whole = site_plan_cost()
    first = _answers(site_in(folder, epsilon_budget=1.05 * whole), _run())
    assert {reply.status for reply in first} == {"ok"}
    site = Site.simulated(folder / "probe", plan_study(), state_dir=folder / "state")
    (second,) = _answers(site, [task_of(TaskKind.ENROL, 0, "second")])
    assert second.status == "budget_exceeded", "the second run is free"


def site_plan_cost() -> float:
    """Epsilon of one whole run at the probes' site, spare rounds included."""
    return plan_of(plan_study(), cohort_size=65).epsilon


def _charging(site: Site) -> Ledgered:
    charging = site._charging
    assert isinstance(charging, Ledgered)
    return charging


def it_is_charged_before_it_is_done(folder: Path) -> None:
    """While the work of a task is done, its charges are in the ledger's file."""
    site = site_in(folder)
    seen: list[int] = []

    def work() -> Reply:
        seen.append(len(charged(folder)))
        return _reply()

    _charging(site).answer(task_of(TaskKind.TRAIN), site._works[plan_study().hash].prepared, work)
    site.close()
    assert seen == [1], "work was done before it was charged"


def what_fails_stays_spent(folder: Path) -> None:
    """Work that fails is not given back: neither in the file nor in what the budget is asked of."""
    site = site_in(folder)
    charging = _charging(site)

    def work() -> Reply:
        raise OSError

    try:
        prepared = site._works[plan_study().hash].prepared
        charging.answer(task_of(TaskKind.TRAIN), prepared, work)
    except OSError:
        spent = (len(charged(folder)), len(charging._ledger.charges()))
        assert spent == (1, 1), "a failure was given back"
    else:
        raise AssertionError("the failure was hidden")
    finally:
        site.close()


def a_repeated_task_is_not_done_again(folder: Path) -> None:
    """It gets the sealed answer, bit for bit, and costs nothing."""
    site = site_in(folder)
    prepared = site._works[plan_study().hash].prepared
    counted: list[int] = []

    def work() -> Reply:
        counted.append(1)
        return replace(_reply(), counts={"patients": len(counted)})

    task = task_of(TaskKind.TRAIN)
    replies = [_charging(site).answer(task, prepared, work) for _ in range(2)]
    site.close()
    assert len(counted) == 1, "a repeated task was worked on again"
    assert replies[0].counts == replies[1].counts
    assert len(charged(folder)) == 1


def _reply() -> Reply:
    return Reply(kind=TaskKind.TRAIN, run_id="run", round=0, nonce="n", site="probe")


PROBES: tuple[Callable[[Path], None], ...] = (
    a_run_is_charged_whole,
    training_tells_no_statistic,
    one_evaluation_a_run,
    all_runs_share_the_budget,
    it_is_charged_before_it_is_done,
    what_fails_stays_spent,
    a_repeated_task_is_not_done_again,
)
