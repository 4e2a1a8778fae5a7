"""A fixed synthetic study for membership inference, overfitted without privacy, and with privacy.

The table of docs/attacks.md is printed by `python -m tests.statistical.membership_study` (some
minutes of two cores).
"""

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from client.config import load_site_config
from client.data import Cohort, read_cohort, usable_cohort
from common.study import Study
from common.study_file import override, with_patient_privacy
from simulations.attacks.finding import Finding
from simulations.attacks.membership import attack_membership
from simulations.cohort import SiteEffects, write_cohort

MARKERS = [f"rs{number}" for number in range(1, 61)]
PRIVATE_EPSILON = 8.0


def overfitted_study() -> Study:
    """Tables and markers, trained far longer than is good for anybody."""
    numeric = {"kind": "numeric", "unit": "mg/dl", "range": [0, 500]}
    return Study.model_validate(
        {
            "study": {"name": "membership"},
            "outcomes": {"event": {"column": "event", "kind": "binary", "classes": ["no", "yes"]}},
            "granularities": {
                "labs": {
                    "kind": "tabular",
                    "hidden": [32],
                    "features": {f"lab_{letter}": numeric for letter in "abcdef"},
                },
                "genomics": {"kind": "markers", "hidden": [32], "markers": MARKERS},
            },
            "normalisation": {"method": "public_range"},
            "model": {"width": 16, "fusion": "gated_sum"},
            "training": {
                "rounds": 12,
                "local_epochs": 4,
                "batch_size": 32,
                "optimizer": "adamw",
                "learning_rate": 0.01,
            },
        }
    )


def sober_study() -> Study:
    """The same model, trained in fewer and larger steps, as privacy would have it."""
    return override(
        overfitted_study(),
        training__local_epochs=1,
        training__rounds=8,
        training__batch_size=256,
        training__learning_rate=0.02,
    )


def private(study: Study) -> Study:
    """The same steps under privacy."""
    return with_patient_privacy(study, epsilon=PRIVATE_EPSILON, delta=1e-5)


def hospitals(study: Study, *, num_patients: int, seed: int, out: Path) -> Mapping[str, Cohort]:
    """Two hospitals with so many patients together, written to disk and read back."""
    effects = [
        SiteEffects(name=name, num_patients=num_patients // 2, severity_shift=shift)
        for name, shift in (("alpha", -0.3), ("beta", 0.3))
    ]
    folders = write_cohort(study, effects, out, seed=seed)
    return {
        folder.name: usable_cohort(*read_cohort(load_site_config(folder), study))
        for folder in folders
    }


def attacked(study: Study, *, num_patients: int, num_models: int, seed: int) -> list[Finding]:
    """What the membership attacks reach; one process."""
    with tempfile.TemporaryDirectory() as out:
        patients = hospitals(study, num_patients=num_patients, seed=seed, out=Path(out))
    return attack_membership(
        study, patients, num_models=num_models, seed=seed, jobs=1, target="a fixed synthetic study"
    )


def table(num_seeds: int, only: str = "") -> Iterator[str]:
    """The lines of the table of docs/attacks.md, one seed of patients and models each.

    Args:
        only: of cases whose name has this in it.
    """
    yield "| study | seed | attack | AUC (95 %) | hits at 1 % false alarms | at .1 % | seconds |"
    yield "|---|---:|---|---|---|---|---:|"
    cases = (
        ("300 patients, overfitted, no privacy", overfitted_study(), 300),
        ("300 patients, the same steps, epsilon 8", private(overfitted_study()), 300),
        ("8,000 patients, no privacy", sober_study(), 8000),
        ("8,000 patients, epsilon 8", private(sober_study()), 8000),
    )
    for name, study, num_patients in cases:
        for seed in range(num_seeds if only in name else 0):
            started = time.perf_counter()
            findings = attacked(study, num_patients=num_patients, num_models=16, seed=seed)
            seconds = time.perf_counter() - started
            for finding in findings:
                cells = (
                    f"{finding.measures[n]:.3f} ({finding.measures[f'{n}_low']:.3f} to "
                    f"{finding.measures[f'{n}_high']:.3f})"
                    for n in ("auc", "tpr_at_0.01", "tpr_at_0.001")
                )
                yield (
                    f"| {name} | {seed} | {finding.attack} | {' | '.join(cells)} | {seconds:.0f} |"
                )


if __name__ == "__main__":
    for line in table(5, *sys.argv[1:2]):
        print(line, flush=True)  # noqa: T201
