"""What is asked of MLflow: a run by its tag, and what is missing in it. Imports MLflow."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import alembic  # noqa: F401  # a store in SQLite needs both, which MLflow would say too late
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

from common.errors import RunError
from server.sinks.points import Point, Told

_TAG = "wardround.run_id"
# The most that MLflow takes at once; and the longest value of a setting.
_MOST_METRICS, _MOST_PARAMS, _LONGEST = 1000, 100, 6000
_PASSWORD = re.compile(r"://[^/\s]*@")
_STATUS = {"finished": "FINISHED", "failed": "FAILED"}


@contextmanager
def told_as_run_error(where: str) -> Iterator[None]:
    """Turns what MLflow and the network say into an error of ours.

    Guarantees:
        - A name and password in an address are not quoted.

    Raises:
        RunError: the store does not answer, or refuses.
    """
    try:
        yield
    except (MlflowException, OSError, sqlalchemy.exc.SQLAlchemyError) as fault:
        first = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        told = (
            f"Expected an MLflow store at {where}, found: {first} Check --mlflow; "
            "“wardround report RUN --mlflow” tells the run again at any time."
        )
        raise RunError(_PASSWORD.sub("://…@", told)) from None


@dataclass(kw_only=True)
class Store:
    """One run in a store of MLflow, and what is known to be there."""

    client: MlflowClient
    run: str
    status: str
    _there: set[tuple[str, int, float]] = field(default_factory=set)
    _settings: set[str] = field(default_factory=set)

    def tell(self, told: Told) -> None:
        """Adds the settings and points that are not there, and how the run stands."""
        params = [
            Param(name, value[:_LONGEST])
            for name, value in told.settings.items()
            if name not in self._settings
        ]
        for some in _batches(params, _MOST_PARAMS):
            self.client.log_batch(self.run, params=some)
        self._settings |= {param.key for param in params}
        points = [p for p in told.points if _key(p) not in self._there]
        metrics = [Metric(p.name, p.value, p.at, p.step) for p in points]
        for batch in _batches(metrics, _MOST_METRICS):
            self.client.log_batch(self.run, metrics=batch)
        self._there |= {_key(point) for point in points}
        status = _STATUS.get(told.status, "RUNNING")
        if status != self.status:
            end = None if status == "RUNNING" else told.ended_at
            self._set_status(status, end)

    def _set_status(self, status: str, end: int | None) -> None:
        if end is None:
            self.client.update_run(self.run, status=status)
        else:
            self.client.set_terminated(self.run, status=status, end_time=end)
        self.status = status

    def keep(self, files: Sequence[Path]) -> None:
        """Puts files beside the run; one of the same name is replaced."""
        for path in files:
            self.client.log_artifact(self.run, str(path))


def client_of(uri: str) -> MlflowClient:
    """A client of the store at an address."""
    return MlflowClient(tracking_uri=uri)


def store_of(client: MlflowClient, told: Told, artifacts: str | None) -> Store:
    """The run that is told of, found by its id or made, in the experiment named after its study."""
    experiment = client.get_experiment_by_name(told.study)
    key = (
        client.create_experiment(told.study, artifact_location=artifacts)
        if experiment is None
        else experiment.experiment_id
    )
    query = f"tags.`{_TAG}` = '{told.run_id}'"
    for run in client.search_runs([key], query, ViewType.ACTIVE_ONLY, max_results=1):
        there = {
            (metric.key, metric.step, metric.value)
            for name in run.data.metrics
            for metric in client.get_metric_history(run.info.run_id, name)
        }
        return Store(
            client=client,
            run=run.info.run_id,
            status=run.info.status,
            _there=there,
            _settings=set(run.data.params),
        )
    made = client.create_run(
        key, start_time=told.started_at, run_name=f"{told.study}-{told.run_id[:8]}"
    )
    client.log_batch(made.info.run_id, tags=[RunTag(_TAG, told.run_id)])
    return Store(client=client, run=made.info.run_id, status=made.info.status)


def _key(point: Point) -> tuple[str, int, float]:
    return point.name, point.step, point.value


def _batches(items: Sequence[Any], most: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), most):
        yield list(items[start : start + most])
