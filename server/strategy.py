"""The strategy: enrol, then rounds of train-and-aggregate, then one last evaluation.

Written over Flower's `Strategy` interface, with a `start` of its own: one exchange a round (a
training task also evaluates the model that it carries), a checkpoint after every aggregation, and
sites that are late, failed or refusing are simply absent from the round.
"""

import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from common import wire
from common.arrays import Arrays, Manifest, l2_norm, size_of
from common.errors import CohortError, RunError
from common.messages import TaskKind
from common.models.patient_model import block_owner
from common.normalisation import add_moments, normalisation_of
from common.study import Study
from common.tail_average import TailAverage
from server.aggregation import SiteUpdate, add_to_parameters, long_updates
from server.checkpoint import Checkpoint, CheckpointFolder
from server.combining import Combining
from server.correspondence import Correspondence
from server.grid import exchange, wait_for_nodes
from server.journal import Journal
from server.newcomers import Newcomers
from server.optimizer import OptimizerState, step
from server.post import Post
from server.receipts import Receipts

Oracle = Callable[[int, ArrayRecord], MetricRecord | None]


class BlockwiseStrategy(Strategy):
    """Federated averaging per parameter block, with server optimizers, checkpoints and a journal.

    Guarantees:
        - A round is aggregated from at least `strategy.min_sites` sites, or not at all, and a
          block from at least `strategy.min_sites_per_block` of them.
        - The model is finite after every round.
        - A site that is late, failed, refusing or dropped is absent, and is in the journal.
        - The result does not depend on the order in which replies arrive.
        - After each aggregation there is a checkpoint before the next round is asked for.
        - What is evaluated last, and released, is the study's average of models, or the last one.

    Args:
        manifest: the trainable parameters of the study's model.
        resumed: the checkpoint to go on from, or None.
        transferred: granularities whose encoders come from another model: they keep its
            normalisation, behind which they were trained.
        combining: how the updates of a round become one.
        receipts: what hospitals have signed so far.
        correspondence: who is asked, and by whose signature replies are believed.
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
        transferred: frozenset[str] = frozenset(),
        combining: Combining,
        receipts: Receipts,
        correspondence: Correspondence,
        seconds: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._study = study
        self._plan = study.strategy
        self._run_id = run_id
        self._manifest = manifest
        self._journal = journal
        self._checkpoints = checkpoints
        self._resumed = resumed
        self._transferred = transferred
        self._combining = combining
        self._seconds = seconds
        self._post = Post(
            study=study,
            run_id=run_id,
            journal=journal,
            receipts=receipts,
            correspondence=correspondence,
        )
        self._newcomers = Newcomers(study=study, post=self._post, journal=journal)
        self._held: tuple[ArrayRecord, Arrays] | None = None
        self._average = TailAverage.of(study, manifest)
        self._optimizer = OptimizerState.start(self._plan, size_of(manifest))
        self._tail = self._average.start()
        if resumed is not None:
            self._optimizer, self._tail = resumed.optimizer, resumed.tail

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
            RunError: the model is no longer finite.
        """
        nothing = ConfigRecord()
        arrays = self._begin(grid, initial_arrays, timeout)
        done = 0 if self._resumed is None else self._resumed.round
        num_failed = 0
        while done < num_rounds:
            self._newcomers.enrol(grid, grid.get_node_ids(), timeout)
            started = self._seconds()
            messages = list(self.configure_train(done + 1, arrays, nothing, grid))
            replies = self._ask(grid, messages, timeout)
            next_arrays, _ = self.aggregate_train(done + 1, replies)
            if next_arrays is None:
                num_failed += 1
                if num_failed >= self._plan.max_attempts:
                    self._fail(f"round {done}", num_failed)
                continue
            self._ask_oracle(evaluate_fn, done, arrays)
            num_failed, arrays, done = 0, next_arrays, done + 1
            model = self._arrays_of(arrays)
            self._tail = self._average.add(self._tail, model, round_number=done)
            self._save(done, model)
            self._journal.write(
                "round_finished", round=done, seconds=round(self._seconds() - started, 6)
            )
        arrays = self._record_of(self._average.released(self._tail, self._arrays_of(arrays)))
        last = list(self.configure_evaluate(done, arrays, nothing, grid))
        self.aggregate_evaluate(done, self._ask(grid, last, timeout))
        self._ask_oracle(evaluate_fn, done, arrays)
        result = Result()
        result.arrays = arrays
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Training tasks for all enrolled sites: the model of `server_round` - 1 aggregations."""
        return self._post.tasks(
            TaskKind.TRAIN,
            round_number=server_round - 1,
            arrays=self._hold(self._arrays_of(arrays), arrays),
            to=self._newcomers.roster.by_node(),
            returns=self._manifest,
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The model after `server_round` aggregations, or None where too few sites answered."""
        updates = [
            SiteUpdate(site=reply.site, update=reply.arrays, counts=reply.counts)
            for _, reply in self._post.open(replies)
            if reply.arrays is not None
        ]
        if len(updates) < self._plan.min_sites or self._held is None:
            return None, None
        started = self._seconds()
        combined = self._combining.combine(updates, round_number=server_round)
        move_P, optimizer = step(
            self._plan, self._optimizer, combined.update.flat, combined.trained_P
        )
        model = add_to_parameters(self._held[1], self._manifest, move_P)
        if not model.is_finite():
            raise RunError(
                f"Expected a finite model after round {server_round}, found NaN or infinity. Lower "
                "strategy.server_learning_rate or training.learning_rate, and start anew."
            )
        self._optimizer = optimizer
        self._journal.write(
            "aggregated",
            round=server_round,
            sites=sorted(update.site for update in updates),
            long_updates=long_updates(updates),
            update_norm=round(l2_norm(move_P), 9),
            seconds=round(self._seconds() - started, 6),
        )
        return self._record_of(model), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Evaluation tasks for all enrolled sites: the model after `server_round` aggregations."""
        return self._post.tasks(
            TaskKind.EVALUATE,
            round_number=server_round,
            arrays=self._arrays_of(arrays),
            to=self._newcomers.roster.by_node(),
            returns=None,
        )

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Writes the replies to the journal; metrics are merged from there, by `server.report`."""
        for _ in self._post.open(replies):
            pass
        return None

    def summary(self) -> None:
        """Nothing: the plan is in the journal, as a part of the study."""

    def _begin(self, grid: Grid, initial_arrays: ArrayRecord, timeout: float) -> ArrayRecord:
        """Enrols the sites; the arrays to start from, normalised."""
        nodes = wait_for_nodes(
            grid, self._plan.min_sites, timeout_s=min(timeout, self._plan.round_timeout_s)
        )
        self._newcomers.enrol(grid, nodes, timeout)
        roster = self._newcomers.roster
        if len(roster) < self._plan.min_sites:
            self._fail("the enrolment", 1)
        self._combining.start([site.counts for site in roster.by_node().values()])
        if self._resumed is not None:
            return self._record_of(self._resumed.model)
        named = wire.arrays_from_record(initial_arrays).unpack()
        moments = roster.moments()
        if moments:
            normalisation = normalisation_of(self._study, add_moments(moments))
            named |= {
                name: value.astype(np.float32)
                for name, value in normalisation.items()
                if block_owner(name) not in self._transferred
            }
        model = Arrays.pack(named)
        self._save(0, model)
        return self._record_of(model)

    def _ask(self, grid: Grid, messages: list[Message], timeout: float) -> Iterator[Message]:
        """The replies; silent sites are not waited for once `strategy.min_sites` have answered."""
        return exchange(
            grid,
            messages,
            timeout_s=timeout,
            is_enough=lambda: self._post.num_accepted >= self._plan.min_sites,
        )

    def _record_of(self, model: Arrays) -> ArrayRecord:
        """The model in Flower's form, and held in ours: converting costs more than averaging."""
        record = wire.arrays_to_record(model)
        self._hold(model, record)
        return record

    def _hold(self, model: Arrays, record: ArrayRecord) -> Arrays:
        self._held = (record, model)
        return model

    def _arrays_of(self, record: ArrayRecord) -> Arrays:
        if self._held is not None and self._held[0] is record:
            return self._held[1]
        return wire.arrays_from_record(record)

    def _ask_oracle(self, oracle: Oracle | None, round_number: int, arrays: ArrayRecord) -> None:
        metrics = None if oracle is None else oracle(round_number, arrays)
        if metrics is not None:
            self._journal.write("oracle", round=round_number, metrics=dict(metrics))

    def _save(self, round_number: int, model: Arrays) -> None:
        started = self._seconds()
        self._checkpoints.save(
            Checkpoint(
                run_id=self._run_id,
                study_hash=self._study.hash,
                round=round_number,
                model=model,
                optimizer=self._optimizer,
                tail=self._tail,
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
