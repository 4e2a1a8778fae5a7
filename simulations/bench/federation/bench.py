"""The bench: one study at 4 and 8 hospitals, ours against stock Flower in the same run; and load.

Local training is the same call on the same patients on both sides, one torch thread a site. What is
subtracted from a round is, on both sides alike, the wall time of the slowest site within training
and evaluation; reading data, building the model, starting processes, messages, checks, journals and
checkpoints (with fsync) are overhead. Stock Flower sends training and evaluation as two messages,
reads data and builds the model for each, and uses its own defaults.
"""

import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.arrays import size_of
from common.errors import RunError
from common.models.patient_model import PatientModel, trainable_manifest
from common.study import Study
from common.study_file import load_study, override
from simulations.bench.federation.arms import Arm, Measured, ours, relay, stock
from simulations.bench.federation.rounds import Round, summary, with_ratios
from simulations.bench.federation.usage import Memory
from simulations.cohort import varied_sites, write_cohort

ARMS: dict[str, Arm] = {"ours": ours, "relay": relay, "stock": stock}
_SEED = 0
_LOCAL_STEPS = 5
# Hidden layers of this width make a model of 10 MB.
_LOAD_WIDTH = 1560
# A look at the pages of 33 processes takes a tenth of a second of the machine that they need.
_WATCH_PAUSE_S = 1.0

Echo = Callable[[str], None]


def bench_federation(
    *,
    study: str = "heart-disease",
    num_sites: Sequence[int] = (4, 8),
    rounds: int = 8,
    arms: Collection[str] = tuple(ARMS),
    echo: Echo = lambda line: None,
) -> dict[str, Any]:
    """Overhead of a round by arm, for each number of sites.

    Args:
        study: a shipped study, whose hospitals are simulated.
        rounds: of each run; the first is not counted, since libraries are loaded in it.
        arms: names out of `ARMS`.
        echo: told of each run as it begins.

    Returns:
        {"cases": [...]}, one case for each number of sites, with figures by arm.
    """
    effective = _study(load_study(study), rounds)
    cases = []
    for number in num_sites:
        measured = {}
        for name in ARMS:
            if name in arms:
                echo(f"{name}: {number} sites, {rounds} rounds")
                measured[name] = _run(ARMS[name], effective, number)
                # At once: an interruption of the next run must not take this one with it.
                overhead_s = summary(measured[name].rounds)["overhead_seconds"]
                echo(f"{name}: {overhead_s:.2f} s a round beyond local training (median)")
        figures = {name: summary(m.rounds) for name, m in measured.items()}
        cases.append(
            {
                "study": study,
                "sites": number,
                "rounds": rounds,
                "local_steps": _LOCAL_STEPS,
                "parameters": _num_parameters(effective),
                "tensors": len(PatientModel(effective).state_dict()),
                "arms": with_ratios(figures),
                "cpu_seconds": {name: m.cpu for name, m in measured.items()},
                "memory_mb": {
                    name: {role: _figures(memory) for role, memory in m.memory.items()}
                    for name, m in measured.items()
                },
            }
        )
    return {"cases": cases}


def bench_load(
    *, num_sites: int = 10, rounds: int = 20, echo: Echo = lambda line: None
) -> dict[str, Any]:
    """Many sites, many rounds, a model of 10 MB: whether anything is lost, and peak memory."""
    heart = load_study("heart-disease")
    wide = heart.granularities["labs"].model_copy(update={"hidden": (_LOAD_WIDTH, _LOAD_WIDTH)})
    grown = heart.model_copy(update={"granularities": {**heart.granularities, "labs": wide}})
    study = _study(grown, rounds)
    echo(f"load: {num_sites} sites, {rounds} rounds, {_num_parameters(study) * 4 / 1e6:.1f} MB")
    measured = _run(partial(ours, watch_pause_s=_WATCH_PAUSE_S), study, num_sites)
    return {
        "sites": num_sites,
        "rounds": rounds,
        "model_mb": _num_parameters(study) * 4 / 1e6,
        "replies_expected": num_sites * rounds,
        "replies_received": sum(one.num_sites for one in measured.rounds),
        **summary(measured.rounds),
        "peak_memory_mb": {role: _figures(memory) for role, memory in measured.peak.items()},
        "peak_total_mb": _figures(measured.peak_total),
    }


def _run(arm: Arm, study: Study, num_sites: int) -> Measured:
    """One run of one arm, in a folder of its own, with hospitals and keys of its own.

    Raises:
        RunError: a round lacked a site, so that figures would compare different work.
    """
    folder = Path(tempfile.mkdtemp(prefix="wr-bench-"))
    sites = varied_sites(study, num_sites=num_sites, seed=_SEED)
    write_cohort(study, sites, folder / "sites", seed=_SEED)
    measured = arm(study, folder / "sites", folder / "arm")
    check_complete(measured.rounds, num_sites, folder)
    # Kept where something failed: the logs say why.
    shutil.rmtree(folder)
    return measured


def check_complete(rounds: Sequence[Round], num_sites: int, folder: Path) -> None:
    """Nothing, if every site took part in every round. Raises `RunError` if not."""
    short = [number for number, one in enumerate(rounds, start=1) if one.num_sites != num_sites]
    if short:
        raise RunError(
            f"Expected {num_sites} sites in every round, found fewer in rounds {short}. The logs "
            f"are in {folder}."
        )


def _study(study: Study, rounds: int) -> Study:
    training = override(study, training__rounds=rounds).training.model_copy(
        update={"local_epochs": None, "local_steps": _LOCAL_STEPS}
    )
    return study.model_copy(update={"training": training})


def _num_parameters(study: Study) -> int:
    return size_of(trainable_manifest(PatientModel(study)))


def _figures(memory: Memory) -> dict[str, float]:
    return {"rss": round(memory.rss / 1e6, 1), "pss": round(memory.pss / 1e6, 1)}
