"""Checkpoints: what a killed server needs to go on at the same round.

One safetensors file and one JSON file a round; the JSON is written last and holds the digest of
both, so that a checkpoint is whole or is not one. The last two are kept: a damaged newest one
falls back to the one before, and never silently to the start.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from common.arrays import Arrays
from common.disk import MARGIN_BYTES, free_bytes
from common.errors import CheckpointError, RunError
from common.files import write_atomically
from common.tail_average import Tail
from server.optimizer import OptimizerState

_KEEP = 2


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The coordinator's state after `round` aggregations."""

    run_id: str
    study_hash: str
    round: int
    model: Arrays
    optimizer: OptimizerState
    tail: Tail


class CheckpointFolder:
    """The checkpoints of one run.

    Guarantees:
        - Where the next checkpoint would have no room, this is an error before its round begins.
    """

    def __init__(
        self,
        folder: Path,
        *,
        durable: bool = True,
        free_bytes: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._folder = folder
        self._durable = durable
        self._free_bytes = free_bytes

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint, and removes those that are older than the last two.

        Raises:
            RunError: the disk has no room for it, or none is left for the next one.
        """
        tensors = {f"model/{k}": v for k, v in checkpoint.model.unpack().items()}
        tensors["optimizer/first"] = checkpoint.optimizer.first_P
        tensors["optimizer/second"] = checkpoint.optimizer.second_P
        tensors["tail/sum"] = checkpoint.tail.sum_P
        content = save(tensors)
        header: dict[str, Any] = {
            "run_id": checkpoint.run_id,
            "study_hash": checkpoint.study_hash,
            "round": checkpoint.round,
            "tail_models": checkpoint.tail.num_models,
            "names": [block.name for block in checkpoint.model.manifest],
        }
        header["sha256"] = _digest(header, content)
        self._require(len(content), "this checkpoint")
        stem = f"round-{checkpoint.round:06d}"
        write_atomically(self._folder / f"{stem}.safetensors", content, durable=self._durable)
        text = json.dumps(header, indent=1).encode()
        write_atomically(self._folder / f"{stem}.json", text, durable=self._durable)
        for old in self._newest_first()[_KEEP:]:
            old.unlink()
            old.with_suffix(".safetensors").unlink(missing_ok=True)
        self._require(len(content), "the next checkpoint")

    def _require(self, num_bytes: int, what: str) -> None:
        needed = num_bytes + MARGIN_BYTES
        found = self._free_bytes(self._folder)
        if found < needed:
            raise RunError(
                f"Expected {needed >> 20} MiB of free disk for {what}, found {found >> 20} MiB "
                f"({self._folder}). Make room and go on with --resume."
            )

    def load(self, study_hash: str) -> Checkpoint:
        """The newest whole checkpoint.

        Raises:
            CheckpointError: there is none, all are damaged, or it is of another study.
        """
        headers = self._newest_first()
        for path in headers:
            checkpoint = _read(path)
            if checkpoint is None:
                continue
            if checkpoint.study_hash != study_hash:
                raise CheckpointError(
                    f"Expected a checkpoint of study {study_hash[:12]}…, found one of "
                    f"{checkpoint.study_hash[:12]}… in {self._folder}. Resume with the study and "
                    "the overrides that the run was started with."
                )
            return checkpoint
        found = f"{len(headers)} damaged ones" if headers else "none"
        raise CheckpointError(
            f"Expected a checkpoint in {self._folder}, found {found}. Start anew in another folder "
            "(--out)."
        )

    def _newest_first(self) -> list[Path]:
        return sorted(self._folder.glob("round-*.json"), reverse=True)


def _read(path: Path) -> Checkpoint | None:
    """The checkpoint, or None where it is damaged."""
    try:
        header = json.loads(path.read_bytes())
        content = path.with_suffix(".safetensors").read_bytes()
        if header.pop("sha256") != _digest(header, content):
            return None
        tensors: dict[str, NDArray[np.floating]] = load(content)
        return Checkpoint(
            run_id=header["run_id"],
            study_hash=header["study_hash"],
            round=header["round"],
            model=Arrays.pack({name: tensors[f"model/{name}"] for name in header["names"]}),
            optimizer=OptimizerState(
                first_P=tensors["optimizer/first"].astype(np.float64),
                second_P=tensors["optimizer/second"].astype(np.float64),
            ),
            tail=Tail(
                num_models=int(header["tail_models"]),
                sum_P=tensors["tail/sum"].astype(np.float64),
            ),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _digest(header: Mapping[str, Any], content: bytes) -> str:
    canonical = json.dumps(header, sort_keys=True).encode()
    return hashlib.sha256(canonical + b"\0" + content).hexdigest()
