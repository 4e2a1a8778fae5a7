"""The coordinator's half of the plain app: Flower's FedAvg, with a clock.

The bench copies this folder into an app bundle, and a stock SuperLink runs it.
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from common.models.patient_model import PatientModel
from common.study_file import load_study

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs the study's rounds, and writes one JSON line for each."""
    config = context.run_config
    study = load_study(str(config["study"]))
    num_sites = int(config["num-sites"])
    strategy = TimedFedAvg(Path(str(config["out"])), num_sites)
    strategy.start(
        grid,
        initial_arrays=ArrayRecord(PatientModel(study).state_dict()),
        num_rounds=study.training.rounds,
    )


class TimedFedAvg(FedAvg):
    """FedAvg that writes how long each round took, and its slowest site's training and evaluation.

    A round begins when its training is configured and ends when its evaluation is aggregated.
    """

    def __init__(self, out: Path, num_sites: int) -> None:
        super().__init__(
            min_train_nodes=num_sites,
            min_evaluate_nodes=num_sites,
            min_available_nodes=num_sites,
            train_metrics_aggr_fn=slowest,
            evaluate_metrics_aggr_fn=slowest,
        )
        self._out = out
        self._started = 0.0
        self._training: MetricRecord | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As FedAvg; the round's clock starts."""
        self._started = time.perf_counter()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """As FedAvg."""
        arrays, self._training = super().aggregate_train(server_round, replies)
        return arrays, self._training

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """As FedAvg; the round's clock stops."""
        evaluation = super().aggregate_evaluate(server_round, replies)
        line = {
            "round": server_round,
            "seconds": time.perf_counter() - self._started,
            "training": None if self._training is None else dict(self._training),
            "evaluation": None if evaluation is None else dict(evaluation),
        }
        with self._out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return evaluation


def slowest(replies: list[RecordDict], weighted_by_key: str) -> MetricRecord:
    """The seconds of the slowest site, and how many sites there were."""
    seconds = [float(str(reply.metric_records["metrics"]["seconds"])) for reply in replies]
    return MetricRecord({"num-sites": len(seconds), "seconds": max(seconds)})
