"""A run as a run of MLflow, in a folder of this machine or at the address of somebody's server."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import RunError
from server.sinks.points import Told

if TYPE_CHECKING:
    from server.sinks.mlflow_store import Store

_DATABASE, _ARTIFACTS = "mlflow.db", "artifacts"
# What MLflow would tell its makers of its use is nobody's business.
_SILENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
}
# The coordinator of a run waits for a store: not for the quarter of an hour that MLflow would.
_HASTY = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
_KEPT = ("report.html", "results.json", "study.toml")


class Mlflow:
    """Tells a store of MLflow of runs.

    Guarantees:
        - A run is found again by its id: told twice, it is there once, and nothing in it is twice.
        - With a folder, nothing is asked of the network; and MLflow's telemetry is off in any case.
        - A store that does not answer is given up after two requests of 10 s, where the environment
          does not say otherwise.

    Args:
        where: a folder, for a store of its own in SQLite; or an address that MLflow knows.

    Raises:
        RunError: MLflow is not installed, or there is no store at that place.
    """

    def __init__(self, where: str) -> None:
        os.environ.update(_SILENT)
        for name, value in _HASTY.items():
            os.environ.setdefault(name, value)
        self._where = where
        self._stores: dict[str, Store] = {}
        try:
            import server.sinks.mlflow_store as stores
        except ModuleNotFoundError:
            raise RunError(
                "Expected MLflow, found that it is not installed. Install wardround[mlflow], or "
                "leave --mlflow out."
            ) from None
        # After the import, which sets levels of its own.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        with stores.told_as_run_error(where):
            uri, artifacts = _address(where)
            self._client = stores.client_of(uri)
        self._artifacts = artifacts
        self._module = stores

    def tell(self, told: Told) -> None:
        """Adds what the store does not have yet.

        Raises:
            RunError: the store does not answer, or refuses.
        """
        with self._module.told_as_run_error(self._where):
            self._store_of(told).tell(told)

    def keep(self, told: Told, folder: Path) -> None:
        """Adds the report of a run, as far as it is written.

        Raises:
            RunError: the store does not answer, or refuses.
        """
        with self._module.told_as_run_error(self._where):
            self._store_of(told).keep([folder / n for n in _KEPT if (folder / n).is_file()])

    def _store_of(self, told: Told) -> "Store":
        if told.run_id not in self._stores:
            self._stores[told.run_id] = self._module.store_of(self._client, told, self._artifacts)
        return self._stores[told.run_id]


def _address(where: str) -> tuple[str, str | None]:
    """The address of a store, and where it keeps files if it is ours."""
    if "://" in where:
        return where, None
    folder = Path(where).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / _DATABASE}", (folder / _ARTIFACTS).as_uri()
