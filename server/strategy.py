"""The strategy: enrol, then rounds of train-and-aggregate, then one last evaluation.

Written over Flower's `Strategy` interface, with a `start` of its own: one exchange a round (a
training task also evaluates the model that it carries), a checkpoint after every aggregation, and
sites that are late, failed or refusing are simply absent from the round.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from common import wire
from common.arrays import Arrays, Manifest
from common.code_version import code_fingerprint
from common.errors import CohortError
from common.normalisation import add_moments, moments_manifest, normalisation_of
from common.study import Study
from common.wire import Reply, Task, TaskKind
from server.aggregation import SiteUpdate, add_to_parameters, aggregate, combine_of
from server.checkpoint import Checkpoint, CheckpointFolder
from server.enrolment import Roster
from server.grid import exchange, wait_for_nodes
from server.inbox import Expected, open_reply
from server.journal import Journal
from server.optimizer import OptimizerState, step


@dataclass(frozen=True, kw_only=True)
class _Sent:
    """A message that was sent, and what an honest reply to it looks like."""

    message: Message
    expected: Expected


class BlockwiseStrategy(Strategy):
    """Federated averaging per parameter block, with server optimizers, checkpoints and a journal.

    Guarantees:
        - A round is aggregated from at least `strategy.min_sites` sites, or not at all.
        - A site that is late, failed, refusing or dropped is absent, and is in the journal.
        - The result does not depend on the order in which replies arrive.
        - After each aggregation there is a checkpoint before the next round is asked for.

    Args:
        manifest: the trainable parameters of the study's model.
        resumed: the checkpoint to go on from, or None.
    """

    def __init__(
        self,
        *,
        study: Study,
        run_id: str,
        manifest: Manifest,
        journal: Journal,
        checkpoints: CheckpointFolder,
        resumed: Checkpoint | None = None,
        seconds: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._study = study
        self._plan = study.strategy
        self._run_id = run_id
        self._manifest = manifest
        self._journal = journal
        self._checkpoints = checkpoints
        self._resumed = resumed
        self._seconds = seconds
        self._roster = Roster()
        self._declined: dict[int, str] = {}
        self._sent: list[_Sent] = []
        num_parameters = sum(block.size for block in manifest)
        self._optimizer = (
            OptimizerState.start(self._plan, num_parameters)
            if resumed is None
            else resumed.optimizer
        )

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """The result of the whole run.

        Args:
            initial_arrays: parameters and normalisation of the model, by name.
            num_rounds: aggregations in all; those before a resume count.
            timeout: seconds after which a site's reply is late.
            train_config: not used: what a site does is in the study that it has accepted.
            evaluate_config: not used, likewise.
            evaluate_fn: asked once per round, after the sites have evaluated its model; what it
                returns goes to the journal as that round's `oracle`.

        Raises:
            CohortError: fewer sites than the minimum, `strategy.max_attempts` times in a row.
        """
        nothing = ConfigRecord()
        arrays = self._begin(grid, initial_arrays, timeout)
        done = 0 if self._resumed is None else self._resumed.round
        num_failed = 0
        while done < num_rounds:
            self._enrol(grid, sorted(grid.get_node_ids()), timeout)
            started = self._seconds()
            messages = list(self.configure_train(done + 1, arrays, nothing, grid))
            replies = exchange(grid, messages, timeout_s=timeout)
            next_arrays, _ = self.aggregate_train(done + 1, replies)
            if next_arrays is None:
                num_failed += 1
                if num_failed >= self._plan.max_attempts:
                    self._fail(f"round {done}", num_failed)
                continue
            self._ask_oracle(evaluate_fn, done, arrays)
            num_failed, arrays, done = 0, next_arrays, done + 1
            self._save(done, wire.arrays_from_record(arrays))
            self._journal.write(
                "round_finished", round=done, seconds=round(self._seconds() - started, 6)
            )
        last = list(self.configure_evaluate(done, arrays, nothing, grid))
        self.aggregate_evaluate(done, exchange(grid, last, timeout_s=timeout))
        self._ask_oracle(evaluate_fn, done, arrays)
        result = Result()
        result.arrays = arrays
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Training tasks for all enrolled sites: the model of `server_round` - 1 aggregations."""
        return self._tasks(TaskKind.TRAIN, server_round - 1, arrays, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The model after `server_round` aggregations, or None where too few sites answered."""
        contents = {s.expected.site: s.expected for s in self._sent}
        updates = [
            SiteUpdate(site=reply.site, update=reply.arrays, counts=reply.counts)
            for reply in self._open(server_round - 1, replies)
            if reply.arrays is not None and reply.site in contents
        ]
        if len(updates) < self._plan.min_sites:
            return None, None
        started = self._seconds()
        combined = aggregate(
            updates,
            combine_of(self._plan.combine, self._plan.trimmed_fraction),
            equal_weights=self._plan.weights == "equal",
        )
        move_P, self._optimizer = step(
            self._plan, self._optimizer, combined.update.flat, combined.trained_P
        )
        model = add_to_parameters(self._model, self._manifest, move_P)
        self._journal.write(
            "aggregated",
            round=server_round,
            sites=sorted(update.site for update in updates),
            update_norm=round(float(np.linalg.norm(move_P)), 9),
            seconds=round(self._seconds() - started, 6),
        )
        return wire.arrays_to_record(model), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Evaluation tasks for all enrolled sites: the model after `server_round` aggregations."""
        return self._tasks(TaskKind.EVALUATE, server_round, arrays, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Writes the replies to the journal; metrics are merged from there, by `server.report`."""
        for _ in self._open(server_round, replies):
            pass
        return None

    def summary(self) -> None:
        """Writes the plan to the journal."""
        self._journal.write("strategy", strategy=self._plan.model_dump(mode="json"))

    def _ask_oracle(
        self,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None,
        round_number: int,
        arrays: ArrayRecord,
    ) -> None:
        metrics = None if evaluate_fn is None else evaluate_fn(round_number, arrays)
        if metrics is not None:
            self._journal.write("oracle", round=round_number, metrics=dict(metrics))

    def _begin(self, grid: Grid, initial_arrays: ArrayRecord, timeout: float) -> ArrayRecord:
        """Enrols the sites; the arrays to start from, normalised."""
        self.summary()
        nodes = wait_for_nodes(grid, self._plan.min_sites, timeout_s=timeout)
        self._enrol(grid, nodes, timeout)
        if len(self._roster) < self._plan.min_sites:
            self._fail("enrolment", 1)
        if self._resumed is not None:
            return wire.arrays_to_record(self._resumed.model)
        named = wire.arrays_from_record(initial_arrays).unpack()
        moments = self._roster.moments()
        if moments:
            named |= {
                name: value.astype(np.float32)
                for name, value in normalisation_of(self._study, add_moments(moments)).items()
            }
        model = Arrays.pack(named)
        self._save(0, model)
        return wire.arrays_to_record(model)

    def _enrol(self, grid: Grid, nodes: Sequence[int], timeout: float) -> None:
        """Asks the nodes that are not enrolled yet, and adds those that accept to the roster."""
        known = set(self._roster.by_node()) | set(self._declined)
        newcomers = [node_id for node_id in nodes if node_id not in known]
        if not newcomers:
            return
        is_federated = self._study.normalisation.method == "federated"
        manifest = moments_manifest(self._study) if is_federated else None
        self._sent = [
            self._send(grid, node_id, TaskKind.ENROL, 0, None, site=None, manifest=manifest)
            for node_id in newcomers
        ]
        replies = exchange(grid, [s.message for s in self._sent], timeout_s=timeout)
        for node_id, reply in self._open_by_node(0, replies):
            try:
                self._roster = self._roster.with_site(node_id, reply)
            except ValueError as fault:
                self._declined[node_id] = str(fault)
                self._journal.write("absent", round=0, site=reply.site, reason=str(fault))
            else:
                self._journal.write("enrolled", site=reply.site, counts=dict(reply.counts))

    def _tasks(
        self, kind: TaskKind, round_number: int, arrays: ArrayRecord, grid: Grid
    ) -> list[Message]:
        self._model = wire.arrays_from_record(arrays)
        manifest = self._manifest if kind is TaskKind.TRAIN else None
        self._sent = [
            self._send(
                grid, node_id, kind, round_number, self._model, site=site.site, manifest=manifest
            )
            for node_id, site in self._roster.by_node().items()
        ]
        self._journal.write(
            "asked",
            kind=kind.value,
            round=round_number,
            nonces={str(s.expected.site): s.expected.task.nonce for s in self._sent},
            bytes_down=sum(wire.num_bytes(s.message.content) for s in self._sent),
        )
        return [s.message for s in self._sent]

    def _send(
        self,
        grid: Grid,
        node_id: int,
        kind: TaskKind,
        round_number: int,
        arrays: Arrays | None,
        *,
        site: str | None,
        manifest: Manifest | None,
    ) -> _Sent:
        task = Task(
            kind=kind,
            run_id=self._run_id,
            round=round_number,
            nonce=secrets.token_hex(8),
            study_hash=self._study.hash,
            code=code_fingerprint(),
            arrays=arrays,
        )
        expected = Expected(
            task=task,
            study=self._study,
            site=site,
            manifest=manifest,
            dtype="float64" if kind is TaskKind.ENROL else "float32",
            counts=None if site is None else self._roster.sites[site].counts,
        )
        records = wire.task_to_records(task)
        message = grid.create_message(records, kind.value, node_id, f"round-{round_number}")
        return _Sent(message=message, expected=expected)

    def _open(self, round_number: int, replies: Iterable[Message]) -> Iterator[Reply]:
        """The replies that are accepted, as they come; all others are journalled as absent."""
        for _, reply in self._open_by_node(round_number, replies):
            yield reply

    def _open_by_node(
        self, round_number: int, replies: Iterable[Message]
    ) -> Iterator[tuple[int, Reply]]:
        waiting = {s.message.metadata.message_id: s for s in self._sent}
        for message in replies:
            sent = waiting.pop(message.metadata.reply_to_message_id, None)
            if sent is None:
                continue
            reply, reason = open_reply(message, sent.expected)
            if reply is None:
                self._absent(round_number, sent, reason)
                continue
            self._journal.write(
                "reply",
                round=round_number,
                kind=reply.kind.value,
                site=reply.site,
                counts=dict(reply.counts),
                metrics={name: list(values) for name, values in reply.metrics.items()},
                bytes_up=wire.num_bytes(message.content),
            )
            yield sent.message.metadata.dst_node_id, reply
        for sent in waiting.values():
            self._absent(round_number, sent, "late")

    def _absent(self, round_number: int, sent: _Sent, reason: str) -> None:
        node_id = sent.message.metadata.dst_node_id
        site = sent.expected.site
        if site is None:
            self._declined[node_id] = reason
        self._journal.write(
            "absent", round=round_number, site=site or f"node {node_id}", reason=reason
        )

    def _save(self, round_number: int, model: Arrays) -> None:
        started = self._seconds()
        self._checkpoints.save(
            Checkpoint(
                run_id=self._run_id,
                study_hash=self._study.hash,
                round=round_number,
                model=model,
                optimizer=self._optimizer,
            )
        )
        seconds = round(self._seconds() - started, 6)
        self._journal.write("checkpoint", round=round_number, seconds=seconds)

    def _fail(self, where: str, num_attempts: int) -> None:
        """Raises the `CohortError` that ends the run; what was reached is in the checkpoint."""
        raise CohortError(
            f"Expected at least {self._plan.min_sites} sites to answer (strategy.min_sites), found "
            f"fewer in {where}, {num_attempts} time(s) in a row. The reasons are in the journal; "
            "mend the sites and go on with --resume."
        )
