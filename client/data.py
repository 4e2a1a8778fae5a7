"""A site's patients as arrays: one example is one patient, with all granularities of theirs.

The only place where a hospital's files are read. Patient ids are used to check and to split, and
are then forgotten. Imports no torch, so that a folder can be checked without it.

Letters of shapes: B patients.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.config import SiteConfig
from client.findings import Finding, error, raise_errors, warning
from client.sources.tables import read_table, read_tabular
from common.study import Evaluation, Study

GranularityArrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The patients of a site.

    Attributes:
        arrays: by granularity, then by array name; the first axis is B, "present_B" always there.
        labels_B: the class of each patient, int64.
        is_test_B: whether the patient is held out from training, bool.
    """

    arrays: Mapping[str, GranularityArrays]
    labels_B: NDArray[np.int64]
    is_test_B: NDArray[np.bool_]

    def select(self, chosen_B: NDArray[np.bool_]) -> "Cohort":
        """The patients for whom `chosen_B` is true."""
        arrays = {
            name: {key: value[chosen_B] for key, value in granularity.items()}
            for name, granularity in self.arrays.items()
        }
        return Cohort(
            arrays=arrays, labels_B=self.labels_B[chosen_B], is_test_B=self.is_test_B[chosen_B]
        )

    @property
    def train(self) -> "Cohort":
        """The patients to train on."""
        return self.select(~self.is_test_B)

    @property
    def test(self) -> "Cohort":
        """The patients to evaluate on: no one of `train`."""
        return self.select(self.is_test_B)

    def __len__(self) -> int:
        return len(self.labels_B)

    def counts(self) -> dict[str, int]:
        """The number of patients, and of those who have each granularity."""
        present = {name: int(a["present_B"].sum()) for name, a in self.arrays.items()}
        return {"patients": len(self), **present}


def read_cohort(config: SiteConfig, study: Study) -> tuple[Cohort | None, list[Finding]]:
    """The site's patients, and everything that is wrong with the folder, in one pass.

    The cohort is None where there are errors among the findings.
    """
    file = config.patients.name
    table, findings = read_table(config.patients)
    if table is None:
        return None, findings
    ids, found = _patient_ids(table, file)
    findings += found
    labels_B, found = _labels(table, study, file)
    findings += found
    is_test_B, found = _split(table, ids, study.evaluation, file)
    findings += found
    arrays: dict[str, GranularityArrays] = {}
    for name, granularity in study.granularities.items():
        arrays[name], found = read_tabular(table, granularity, name=name, file=file)
        findings += found
    if not any(a["present_B"].any() for a in arrays.values()):
        expected = f"a granularity of the study ({', '.join(study.granularities)})"
        findings.append(error(file, expected, "none for any patient", "Check the column names."))
    if any(f.severity == "error" for f in findings):
        return None, findings
    cohort = Cohort(arrays=arrays, labels_B=labels_B, is_test_B=is_test_B)
    if study.evaluation.validation_fold is not None:
        is_fold_B = _fold_of(ids, study.evaluation) == study.evaluation.validation_fold
        cohort = replace(cohort, is_test_B=is_fold_B).select(~is_test_B & (labels_B >= 0))
    else:
        cohort = cohort.select(labels_B >= 0)
    return cohort, findings


def usable_cohort(cohort: Cohort | None, findings: Sequence[Finding]) -> Cohort:
    """The cohort that `read_cohort` returned with these findings.

    Raises:
        DataError: there are errors among the findings; every one is told.
    """
    raise_errors(findings)
    if cohort is None:
        raise ValueError("expected a cohort where there are no errors")
    return cohort


def _patient_ids(table: pd.DataFrame, file: str) -> tuple["pd.Series[str]", list[Finding]]:
    where = f"{file}, column patient_id"
    if "patient_id" not in table.columns:
        nobody = pd.Series([""] * len(table))
        return nobody, [error(file, "a column patient_id", "none", "Add one id per patient.")]
    ids = table["patient_id"].fillna("")
    findings: list[Finding] = []
    num_empty = int((ids == "").sum())
    if num_empty:
        found = f"{num_empty} empty"
        findings.append(error(where, "an id for every patient", found, "Fill them in."))
    num_repeated = int(ids[ids != ""].duplicated().sum())
    if num_repeated:
        found = f"{num_repeated} rows that repeat an id"
        action = "Merge the rows of each patient: one row is one patient."
        findings.append(error(where, "every patient once", found, action))
    return ids, findings


def _labels(
    table: pd.DataFrame, study: Study, file: str
) -> tuple[NDArray[np.int64], list[Finding]]:
    """The label of each patient, -1 where the outcome is missing."""
    column, classes = study.outcome.column, study.outcome.classes
    where = f"{file}, column {column}"
    unknown_B = np.full(len(table), -1, dtype=np.int64)
    if column not in table.columns:
        return unknown_B, [error(file, f"the outcome column {column}", "none", "Add it.")]
    code_of = {form: i for i, c in enumerate(classes) for form in (c, f"{c}.0")}
    labels_B = np.asarray(table[column].map(code_of).fillna(-1), dtype=np.int64)
    findings: list[Finding] = []
    num_missing = int(table[column].isna().sum())
    num_unknown = int((labels_B < 0).sum()) - num_missing
    if num_unknown:
        expected, found = f"one of {', '.join(classes)}", f"{num_unknown} other values"
        findings.append(error(where, expected, found, "Recode the column."))
    if num_missing == len(table):
        findings.append(error(where, "outcomes", "none", "Fill the column in."))
    elif num_missing:
        found = f"{num_missing} patients without one"
        findings.append(warning(where, "an outcome", found, "These patients are left out."))
    return labels_B, findings


def _split(
    table: pd.DataFrame, ids: "pd.Series[str]", plan: Evaluation, file: str
) -> tuple[NDArray[np.bool_], list[Finding]]:
    """Who is held out: by the split column where there is one, else by a hash of the id."""
    if plan.split_column not in table.columns:
        place_B = _places(ids, plan.split_seed, "test")
        return place_B < plan.test_fraction, []
    column = table[plan.split_column]
    where = f"{file}, column {plan.split_column}"
    num_other = int((~column.isin(["train", "test"])).sum())
    findings = []
    if num_other:
        found = f"{num_other} other values"
        findings.append(error(where, "train or test for every patient", found, "Fix the column."))
    return (column == "test").fillna(False).to_numpy(dtype=np.bool_), findings


def _fold_of(ids: "pd.Series[str]", plan: Evaluation) -> NDArray[np.int64]:
    """The fold of each patient, 0…folds-1, for inner validation."""
    return (_places(ids, plan.split_seed, "fold") * plan.folds).astype(np.int64)


def _places(ids: "pd.Series[str]", seed: int, purpose: str) -> NDArray[np.float64]:
    """A number in [0, 1) for each patient that depends on nothing but the id, seed and purpose."""
    key = seed.to_bytes(8, "big") + purpose.encode()
    digests = (hashlib.blake2b(i.encode(), key=key, digest_size=6).digest() for i in ids)
    return np.array([int.from_bytes(digest, "big") / 2**48 for digest in digests])


def cohort_findings(cohort: Cohort, config: SiteConfig) -> list[Finding]:
    """What a person should know of a cohort before it takes part.

    Too few patients is an error here, for the person who checks the folder; a site that runs all
    the same refuses each task with a code, and stops nobody.
    """
    file = config.patients.name
    num_train, num_test = len(cohort.train), len(cohort.test)
    findings: list[Finding] = []
    if num_train < config.policy.min_patients:
        expected = f"at least {config.policy.min_patients} training patients (policy.min_patients)"
        action = "Add patients, or lower the policy's limit if your privacy officer agrees."
        findings.append(error(file, expected, str(num_train), action))
    if num_test < config.policy.smallest_group:
        expected = f"at least {config.policy.smallest_group} held-out patients"
        action = "No metrics will be sent (policy.smallest_group)."
        findings.append(warning(file, expected, str(num_test), action))
    for part, patients in (("training", cohort.train), ("held-out", cohort.test)):
        if len(np.unique(patients.labels_B)) == 1:
            action = "Training goes on; AUROC is undefined for this site."
            expected = f"two outcome classes or more among {part} patients"
            findings.append(warning(file, expected, "one", action))
    return findings
