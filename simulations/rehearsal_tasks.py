"""Tasks of a rehearsal that a site must refuse, and tasks at which its work fails."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from common.arrays import Arrays
from common.code_version import code_fingerprint
from common.messages import Task, TaskKind
from common.models.patient_model import PatientModel, state_of
from common.study import Study
from server.correspondence import Signed

Failure = type[BaseException] | None

_LAST_ROUND = 10**6
FAILURES: tuple[type[BaseException], ...] = (
    ValueError,
    KeyError,
    RuntimeError,
    MemoryError,
    OSError,
    torch.OutOfMemoryError,
)


def rehearsal_tasks(
    study: Study, site: str, correspondence: Signed
) -> Iterator[tuple[str, Task, Failure]]:
    """What each task is, the task, and the exception in which its work is to end.

    They are of runs of their own; all but one are signed by the coordinator.
    """
    arrays = state_of(PatientModel(study))

    def task(name: str, **fields: object) -> Task:
        usual: dict[str, object] = {
            "kind": TaskKind.TRAIN,
            "run_id": f"rehearsal-{name}",
            "round": 0,
            "nonce": name,
            "study_hash": study.hash,
            "code": code_fingerprint(),
            "site": site,
            "arrays": arrays,
        }
        return Task(**(usual | fields))  # type: ignore[arg-type]  # fields of a task, by name

    strange: dict[str, dict[str, object]] = {
        "another-site": {"site": "somebody-else"},
        "another-study": {"study_hash": "0" * 64},
        "another-code": {"code": "0" * 16},
        "last-round": {"round": _LAST_ROUND},
        "no-arrays": {"arrays": None},
        "arrays-to-enrol": {"kind": TaskKind.ENROL},
        "other-arrays": {"arrays": Arrays.pack({"extra": np.zeros(3, dtype=np.float32)})},
        "not-finite": {"arrays": replace(arrays, flat=np.full_like(arrays.flat, np.nan))},
        "huge": {"arrays": replace(arrays, flat=np.full_like(arrays.flat, 1e3))},
    }
    for name, fields in strange.items():
        yield name, correspondence.sign(task(name, **fields)), None
    yield "unsigned", task("unsigned"), None
    for failure in FAILURES:
        name = failure.__name__
        yield name, correspondence.sign(task(name)), failure
    again = correspondence.sign(task(FAILURES[0].__name__))
    yield "again", again, None
