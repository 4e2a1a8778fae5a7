"""The coordinator as a Flower ServerApp, and the run behind it, which every grid shares."""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.arrays import Manifest
from common.code_version import code_fingerprint, release
from common.errors import RunError, StudyError, WardroundError
from common.files import write_atomically
from common.model_file import MODEL_FILE, write_model
from common.models.patient_model import PatientModel, state_of, trainable_manifest
from common.privacy.mechanisms import NoiseSource
from common.privacy.plan import check_private
from common.run_folder import check_unused, run_folder
from common.signing import SigningKey
from common.study import Study
from common.study_file import study_of_run, study_to_toml
from common.wire import arrays_from_record, arrays_to_record
from server.checkpoint import Checkpoint, CheckpointFolder
from server.combining import combining_of
from server.correspondence import Correspondence, Unsigned
from server.journal import Event, Journal, Listener, read_journal
from server.receipts import Receipts
from server.report import write_report
from server.strategy import BlockwiseStrategy, Oracle
from server.transfer import Transfer, transfer

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs the study of the run configuration on Flower's grid."""
    config = context.run_config
    run = Run(
        study=study_of_run(config),
        folder=run_folder(str(config["out"]), context.run_id),
        engine="flower",
        resume=bool(config["resume"]),
        durable=bool(config["durable"]),
        init_from=Path(str(config["init-from"])) if config["init-from"] else None,
    )
    execute(run, grid)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is to be run, and where its files go.

    Attributes:
        engine: the transport, for the record: "in-process" or "flower".
        resume: go on from the newest checkpoint of the folder, or where the hospitals enrol if it
            ended before there was one, instead of beginning another run.
        durable: wait for the disk (fsync) at every checkpoint and journal line.
        init_from: a folder with a model, whose blocks the study starts from where they fit.
        noise: of the privacy of sites, injected by a simulation so that it can be repeated;
            without it, a new secret one.
        correspondence: who is asked, and by whose signature replies are believed; in a simulation,
            whoever is on the grid.
        key: of the coordinator, for receipts; None: the correspondence's, or where it has none,
            one that is made in the run's folder if the study needs receipts.
        receipts: a folder of the coordinator's where the newest head of each hospital's ledger is
            kept from run to run; None: within the run alone.

    Raises:
        RunError: a run that goes on would start from another model, or `key` is not the one that
            signs the tasks.
    """

    study: Study
    folder: Path
    engine: str
    resume: bool = False
    durable: bool = True
    init_from: Path | None = None
    noise: NoiseSource | None = None
    correspondence: Correspondence = field(default_factory=Unsigned)
    key: SigningKey | None = None
    receipts: Path | None = None

    @property
    def journal_path(self) -> Path:
        """Where its events are written."""
        return self.folder / "journal.jsonl"

    def __post_init__(self) -> None:
        signing = self.correspondence.key
        if signing and self.key and signing.public_key != self.key.public_key:
            raise RunError(
                "Expected one key of the coordinator, found one that signs tasks and another for "
                "receipts. Leave `key` out."
            )
        if self.resume and self.init_from is not None:
            raise RunError(
                "Expected --resume or --init-from, found both. A run that goes on starts from its "
                "own checkpoint: leave --init-from out."
            )


@dataclass(frozen=True, kw_only=True)
class _Beginning:
    """Where a run begins.

    Attributes:
        resumed: the checkpoint that it goes on from.
        start: the model of a run without one, and what of it comes from another model.
    """

    run_id: str
    resumed: Checkpoint | None
    start: Transfer


def execute(
    run: Run, grid: Grid, *, listeners: Sequence[Listener] = (), oracle: Oracle | None = None
) -> None:
    """Runs a study over a grid; its folder then holds model, journal, results and report.

    Args:
        listeners: told of every event of the journal, as it happens.
        oracle: exact metrics of a round, where somebody knows them: in simulation.

    Raises:
        RunError: the folder holds a run already, and `resume` was not asked for; or nothing in
            `init_from` fits.
        CheckpointError: there is nothing to resume, or it is of another study.
        CohortError: too few sites; the run can be resumed.
        StudyError: the study cannot be private as it asks to be; that of `init_from` is malformed;
            or an encoder that is frozen comes from no other model, and would stay at random.
    """
    torch.set_num_threads(1)
    check_private(run.study)
    if not run.resume:
        check_unused(run.folder)
    model = PatientModel(run.study)
    checkpoints = CheckpointFolder(run.folder / "checkpoints", durable=run.durable)
    beginning = _beginning(run, model, checkpoints)
    write_atomically(
        run.folder / "study.toml", study_to_toml(run.study).encode(), durable=run.durable
    )
    journal = Journal(run.journal_path, durable=run.durable, listeners=listeners)
    try:
        _announce(run, beginning, journal)
        strategy = _strategy(run, beginning, trainable_manifest(model), journal, checkpoints)
        result = strategy.start(
            grid,
            arrays_to_record(beginning.start.model),
            num_rounds=run.study.training.rounds,
            # Within one process a site works while it is waited for, and cannot be late.
            timeout=inf if run.engine == "in-process" else run.study.strategy.round_timeout_s,
            evaluate_fn=oracle,
        )
        write_model(run.folder / MODEL_FILE, arrays_from_record(result.arrays))
        journal.write("run_finished", round=run.study.training.rounds)
    except BaseException as fault:
        # Whoever looks finds what was reached; nothing here may hide why the run ended.
        with suppress(WardroundError, OSError):
            if isinstance(fault, WardroundError):
                journal.write("run_failed", reason=fault.code)
            write_report(run.folder)
        raise
    finally:
        journal.close()
    write_report(run.folder)


def _beginning(run: Run, model: PatientModel, checkpoints: CheckpointFolder) -> _Beginning:
    run_id, resumed = _resumed(run, checkpoints)
    start = Transfer(model=state_of(model), taken=frozenset(), left={})
    if resumed is None:
        start = _start(run, start)
    return _Beginning(run_id=run_id, resumed=resumed, start=start)


def _announce(run: Run, beginning: _Beginning, journal: Journal) -> None:
    """Writes what begins, or goes on, at the head of its events."""
    start, resumed = beginning.start, beginning.resumed
    journal.write(
        "run_resumed" if run.resume else "run_started",
        run_id=beginning.run_id,
        study=run.study.model_dump(mode="json"),
        study_hash=run.study.hash,
        seed=run.study.training.seed,
        num_rounds=run.study.training.rounds,
        round=0 if resumed is None else resumed.round,
        engine=run.engine,
        release=release(),
        code=code_fingerprint(),
    )
    if start.taken:
        journal.write("transferred", taken=sorted(start.taken), left=dict(start.left))


def _strategy(
    run: Run,
    beginning: _Beginning,
    manifest: Manifest,
    journal: Journal,
    checkpoints: CheckpointFolder,
) -> BlockwiseStrategy:
    history = list(read_journal(run.journal_path))
    return BlockwiseStrategy(
        study=run.study,
        run_id=beginning.run_id,
        manifest=manifest,
        journal=journal,
        checkpoints=checkpoints,
        resumed=beginning.resumed,
        transferred=beginning.start.taken,
        combining=combining_of(
            run.study, manifest=manifest, journal=journal, history=history, source=run.noise
        ),
        receipts=_receipts(run, history),
        correspondence=run.correspondence,
    )


def _resumed(run: Run, checkpoints: CheckpointFolder) -> tuple[str, Checkpoint | None]:
    """The run's id, and the checkpoint to go on from.

    A run that ended while hospitals enrolled has none, and begins again under its id: what
    hospitals had released by then they send once more, and it costs them nothing.
    """
    if not run.resume:
        return secrets.token_hex(8), None
    if run.journal_path.is_file() and not any((run.folder / "checkpoints").glob("round-*")):
        starts = [
            e
            for e in read_journal(run.journal_path)
            if e["event"] in ("run_started", "transferred")
        ]
        # One that had begun from another model has not written down which.
        if [event.get("study_hash") for event in starts] == [run.study.hash]:
            return str(starts[0]["run_id"]), None
    resumed = checkpoints.load(run.study.hash)
    return resumed.run_id, resumed


def _receipts(run: Run, history: Sequence[Event]) -> Receipts:
    """The receipts so far, of this run and where a folder keeps them of all before."""
    key = run.key or run.correspondence.key
    if key is None and run.study.privacy.mode == "patient":
        key = SigningKey.load_or_create(run.folder / "keys" / "coordinator.pem")
    signing_key_of = run.correspondence.signing_key_of
    receipts = Receipts(key, folder=run.receipts, signing_key_of=signing_key_of)
    receipts.resume(history)
    return receipts


def _start(run: Run, anew: Transfer) -> Transfer:
    """What a new run starts from. Raises `StudyError` where it would freeze a random encoder."""
    start = anew if run.init_from is None else transfer(run.study, anew.model, run.init_from)
    random = [name for name in run.study.model.frozen if name not in start.taken]
    if random:
        reasons = "; ".join(f"{name}: {start.left.get(name, 'no --init-from')}" for name in random)
        raise StudyError(
            "Expected every encoder of model.frozen to come from another model, found "
            f"{len(random)} that would stay at random ({reasons}). Name a model that has them by "
            "--init-from, or train them."
        )
    return start
