"""The time and memory of a private training step over a plain one of the same model.

A step is a clipped sum, noise, and a move of the parameters; a plain one a gradient and the move.
All modes of a model and batch size are measured by turns in one process, on one torch thread, in
processor time (on a GPU in wall time); ratios are of medians. That a mode gives the clipped sum is
checked before its figure is given. Memory is that of a fresh process for each mode.
"""

import gc
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.models.patient_model import PatientModel
from common.privacy.mechanisms import NoiseSource, add_gaussian
from common.study import Study
from simulations.bench.private_models import MODELS, batch_of, study_of
from simulations.bench.private_modes import (
    MAX_GRAD_NORM,
    MODES,
    Batch,
    Gradients,
    one_by_one,
    why_not,
)

_NOISE_MULTIPLIER = 1.0
_LEARNING_RATE = 1e-3
# Slower than all others by far.
_LARGEST_LOOP = 32


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model and batch size to measure."""

    model: str
    batch: int
    repetitions: int


QUICK = tuple(
    Case(model=model, batch=batch, repetitions=repetitions)
    for model in MODELS
    for batch, repetitions in ((32, 7), (128, 5))
)
FULL = tuple(
    Case(model=model, batch=batch, repetitions=repetitions)
    for model in MODELS
    for batch, repetitions in ((32, 21), (128, 11), (512, 5))
)


def bench_private_step(
    *,
    full: bool = False,
    echo: Callable[[str], None] = lambda line: None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Private steps over plain ones, by model, batch size and mode, and the memory of a step.

    Returns:
        {"cases": rows of `measure`, "summary": one row of `model`, `batch`, `ours_over_plain` and
        `ours_secure_over_plain` (with noise of a secure source) for each model and batch size,
        "memory": what `memory` returns}.

    Args:
        full: batches of 512 as well, and more repetitions.
        echo: told of each case as it begins.
        device: "cpu", or "cuda".
    """
    cases: list[dict[str, Any]] = []
    for case in FULL if full else QUICK:
        echo(f"private step: {case}")
        cases += measure(study_of(case.model), case, device)
    echo("memory of a step of the fusion model, 512 patients")
    return {"cases": cases, "summary": summary(cases), "memory": memory("fusion", 512, device)}


def summary(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each model and batch size, our step over the plain one, with both kinds of noise."""
    by_place: dict[tuple[str, int], dict[str, float]] = {}
    for row in cases:
        by_place.setdefault((row["model"], row["batch"]), {})[row["mode"]] = row["over_plain"]
    return [
        {
            "model": model,
            "batch": batch,
            "ours_over_plain": ratios["ours"],
            "ours_secure_over_plain": ratios["ours_secure"],
        }
        for (model, batch), ratios in by_place.items()
    ]


def measure(study: Study, case: Case, device: str = "cpu") -> list[dict[str, Any]]:
    """A row for each mode but "plain": `over_plain`, or None and `why_not`."""
    steps: dict[str, Callable[[], None]] = {}
    reasons: dict[str, str | None] = {}
    batch = batch_of(study, case.batch, device)
    expected = one_by_one(_model(study, device))(batch)
    for mode, build in MODES.items():
        if mode == "one_by_one" and case.batch > _LARGEST_LOOP:
            continue
        model = _model(study, device)
        gradients = build(model)
        reasons[mode] = None if mode == "plain" else why_not(gradients, batch, expected)
        if reasons[mode] is None:
            steps[mode] = _step(model, gradients, batch, None if mode == "plain" else _draw)
        if mode == "ours":
            reasons["ours_secure"] = None
            steps["ours_secure"] = _step(model, gradients, batch, _secure(NoiseSource.secure()))
    medians = _medians(steps, case.repetitions, device)
    return [
        {
            "model": case.model,
            "num_parameters": sum(p.numel() for p in model.parameters()),
            "batch": case.batch,
            "mode": mode,
            "over_plain": None if reason else medians[mode] / medians["plain"],
            "why_not": reason,
            "plain_ms": medians["plain"] * 1e3,
        }
        for mode, reason in reasons.items()
        if mode != "plain"
    ]


def memory(model: str, batch: int, device: str = "cpu") -> dict[str, Any]:
    """The most memory of a process that takes steps, plain or ours, and what of it is the steps'.

    Returns:
        `plain_bytes` and `ours_bytes`, of the whole process (on a GPU, of torch's allocator);
        `plain_step_bytes` and `ours_step_bytes`, beyond what was there before the first step;
        and ratios of both.
    """
    found: dict[str, int] = {}
    for mode in ("plain", "ours"):
        code = f"from {__name__} import *; print_memory({mode!r}, {model!r}, {batch}, {device!r})"
        result = subprocess.run(  # noqa: S603 - our own code and arguments
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        before, most = json.loads(result.stdout.splitlines()[-1])
        found |= {f"{mode}_bytes": most, f"{mode}_step_bytes": most - before}
    return {
        "model": model,
        "batch": batch,
        **found,
        "ours_over_plain": found["ours_bytes"] / found["plain_bytes"],
        "ours_step_over_plain_step": found["ours_step_bytes"] / found["plain_step_bytes"],
    }


def print_memory(mode: str, name: str, batch: int, device: str) -> None:
    """Prints bytes in use before the first step of this process, and the most until the third."""
    torch.set_num_threads(1)
    study = study_of(name)
    model, patients = _model(study, device), batch_of(study, batch, device)
    # One patient first: what torch loads at first use belongs to no step.
    small = batch_of(study, 1, device)
    for some in (small, patients):
        step = _step(model, MODES[mode](model), some, None if mode == "plain" else _draw)
        gc.collect()
        before = _bytes(device, "VmRSS")
        for _ in range(3):
            step()
    print(json.dumps([before, _bytes(device, "VmHWM")]))  # noqa: T201 - read by `memory`


def _model(study: Study, device: str) -> PatientModel:
    return PatientModel(study).to(device).train()


def _step(
    model: PatientModel,
    gradients: Gradients,
    batch: Batch,
    noised: Callable[[list[Tensor]], list[Tensor]] | None,
) -> Callable[[], None]:
    """A whole step of stochastic gradient descent."""
    parameters: list[Tensor] = list(model.parameters())

    def step() -> None:
        found = gradients(batch)
        with torch.no_grad():
            found = found if noised is None else noised(found)
            torch._foreach_add_(parameters, found, alpha=-_LEARNING_RATE)

    return step


def _draw(sums: list[Tensor]) -> list[Tensor]:
    """With noise of torch's own generator, which is no noise to protect anyone."""
    scale = _NOISE_MULTIPLIER * MAX_GRAD_NORM
    return [total + torch.normal(0.0, scale, total.shape, device=total.device) for total in sums]


def _secure(source: NoiseSource) -> Callable[[list[Tensor]], list[Tensor]]:
    """With noise of a secure source, as private training adds it."""

    def noised(sums: list[Tensor]) -> list[Tensor]:
        flat = torch.cat([total.flatten() for total in sums])
        values = add_gaussian(
            flat.double().cpu().numpy(),
            sensitivity=MAX_GRAD_NORM,
            noise_multiplier=_NOISE_MULTIPLIER,
            source=source,
        )
        moved = torch.from_numpy(values).to(flat)
        parts = torch.split(moved, [total.numel() for total in sums])
        return [part.view_as(total) for part, total in zip(parts, sums, strict=True)]

    return noised


def _medians(
    steps: Mapping[str, Callable[[], None]], repetitions: int, device: str
) -> dict[str, float]:
    """The median seconds of each step, taken by turns."""
    seconds: dict[str, list[float]] = {mode: [] for mode in steps}
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for repetition in range(1 + repetitions):
            for mode, step in steps.items():
                start = _now(device)
                step()
                if repetition > 0:
                    seconds[mode].append(_now(device) - start)
    return {mode: statistics.median(times) for mode, times in seconds.items()}


def _now(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _bytes(device: str, field: str) -> int:
    """Memory in use (VmRSS), or the most that there was (VmHWM)."""
    if device != "cpu":
        is_most = field == "VmHWM"
        return torch.cuda.max_memory_allocated() if is_most else torch.cuda.memory_allocated()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
