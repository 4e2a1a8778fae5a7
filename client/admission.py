"""The way in: what a task must be before any of it is worked on, one rule a function.

It comes after `client.trust` has said that the coordinator asks, and before the model sees an
array. The rules stand in the order in which they are asked; `docs/what-leaves.md` is made of them.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from client.personal import personal_folder
from client.prepared import Prepared
from client.work import Work
from common.code_version import code_fingerprint
from common.errors import Refusal, RefusalCode
from common.messages import Task, TaskKind


def admitted(task: Task, works: Mapping[str, Work]) -> Work:
    """The work that is asked for, once no rule is broken.

    Args:
        works: of the studies that this hospital has accepted, by their hash.

    Raises:
        Refusal: with the code of the first rule that is broken.
    """
    check_code(task)
    work = accepted_work(task, works)
    prepared = work.prepared
    check_run_id(task)
    prepared.policy.check_round(task.round)
    check_round(task, prepared)
    prepared.policy.check_study(prepared.study, prepared.cohort_size)
    if task.kind is TaskKind.ENROL:
        check_no_arrays(task)
    else:
        check_manifest(task, prepared)
        check_numbers(task)
    return work


def check_code(task: Task) -> None:
    """The coordinator runs the same version of Wardround, to the byte: no new code comes in.

    Threat: S1-3. Refuses: CODE_MISMATCH.
    """
    if task.code != code_fingerprint():
        raise Refusal(
            RefusalCode.CODE_MISMATCH,
            "Expected a task from the same version of Wardround, found another. Update.",
        )


def accepted_work(task: Task, works: Mapping[str, Work]) -> Work:
    """The study is one that a person of this hospital has accepted, unchanged in every setting.

    Threat: S1-1. Refuses: STUDY_NOT_ACCEPTED.
    """
    work = works.get(task.study_hash)
    if work is None:
        raise Refusal(
            RefusalCode.STUDY_NOT_ACCEPTED,
            f"Expected an accepted study, found {task.study_hash[:12]}….",
        )
    return work


def check_run_id(task: Task) -> None:
    """The id of the run is a plain word: it becomes the name of a folder of this hospital's.

    Threat: S1-4. Refuses: MESSAGE_MALFORMED.
    """
    try:
        personal_folder(Path(), task.run_id)
    except ValueError:
        code = RefusalCode.MESSAGE_MALFORMED
        raise Refusal(code, "Expected a run id that is a word, found another.") from None


def check_round(task: Task, prepared: Prepared) -> None:
    """The round is one that the accepted study has: what a person agreed to is not gone beyond.

    After the last one nothing is trained any more.

    Threat: S1-1, S1-5. Refuses: ROUND_LIMIT.
    """
    rounds = prepared.study.training.rounds
    last = rounds - 1 if task.kind is TaskKind.TRAIN else rounds
    if task.round > last:
        raise Refusal(
            RefusalCode.ROUND_LIMIT,
            f"Expected at most round {last} of the study's {rounds} (from 0), found {task.round}.",
        )


def check_no_arrays(task: Task) -> None:
    """An enrolment brings no arrays: there is nothing to load.

    Threat: S1-4. Refuses: ARRAYS_MISMATCH.
    """
    if task.arrays is not None:
        raise Refusal(
            RefusalCode.ARRAYS_MISMATCH, "Expected an enrolment without arrays, found some."
        )


def check_manifest(task: Task, prepared: Prepared) -> None:
    """The model has the accepted study's parameters, by name, order and shape: no further layer.

    Threat: S1-2, S1-4. Refuses: ARRAYS_MISMATCH.
    """
    if task.arrays is None or task.arrays.manifest != prepared.manifest:
        raise Refusal(
            RefusalCode.ARRAYS_MISMATCH,
            "Expected the arrays of the study's model, found others.",
        )


def check_numbers(task: Task) -> None:
    """The model's numbers are finite and of 32 bits.

    Threat: S1-4. Refuses: ARRAYS_NOT_FINITE.
    """
    arrays = task.arrays
    if arrays is not None and (arrays.flat.dtype != np.float32 or not arrays.is_finite()):
        raise Refusal(
            RefusalCode.ARRAYS_NOT_FINITE, "Expected finite float32 arrays, found others."
        )
