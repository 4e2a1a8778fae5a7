"""A site's patients as arrays: one example is one patient, with all granularities of theirs.

The only place where a hospital's files are read. Patient ids serve to join the files and to split;
what goes on from here knows patients by a keyed hash alone. Imports no torch, so that a folder can
be checked without it.

Letters of shapes: B patients.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.config import SiteConfig
from client.findings import Finding, error, raise_errors, warning
from client.outcomes import read_outcomes, without_rare
from client.sources.identifiers import column_findings
from client.sources.readers import read_granularity
from client.sources.tables import read_table
from common.outcomes import ClassOutcome
from common.plan import Evaluation
from common.study import Study

ArraysByName = Mapping[str, NDArray[Any]]

# Drawn anew in every process and never written: a pseudonym links nothing beyond it.
_PSEUDONYM_KEY = secrets.token_bytes(32)


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The patients of a site.

    Attributes:
        arrays: by granularity, then by array name; the first axis is B, "present_B" always there.
        outcomes: by outcome, then by array name (`client.outcomes`); "known_B" always there.
        is_test_B: whether the patient is held out from training, bool.
        pseudonym_B: `pseudonym` of each patient's id.
    """

    arrays: Mapping[str, ArraysByName]
    outcomes: Mapping[str, ArraysByName]
    is_test_B: NDArray[np.bool_]
    pseudonym_B: NDArray[np.str_]

    def select(self, chosen_B: NDArray[np.bool_]) -> "Cohort":
        """The patients for whom `chosen_B` is true."""
        return Cohort(
            arrays=_chosen(self.arrays, chosen_B),
            outcomes=_chosen(self.outcomes, chosen_B),
            is_test_B=self.is_test_B[chosen_B],
            pseudonym_B=self.pseudonym_B[chosen_B],
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
        return len(self.is_test_B)

    def counts(self) -> dict[str, int]:
        """The patients, those who have each granularity, and those whose outcomes are known."""
        present = {name: int(a["present_B"].sum()) for name, a in self.arrays.items()}
        known = {name: int(a["known_B"].sum()) for name, a in self.outcomes.items()}
        return {"patients": len(self), **present, **known}


def _chosen(
    named: Mapping[str, ArraysByName], chosen_B: NDArray[np.bool_]
) -> dict[str, ArraysByName]:
    return {k: {key: value[chosen_B] for key, value in a.items()} for k, a in named.items()}


def concatenate(cohorts: Sequence[Cohort]) -> Cohort:
    """The patients of one or more cohorts of the same study as one cohort."""

    def joined(parts: Sequence[Mapping[str, ArraysByName]]) -> dict[str, ArraysByName]:
        return {
            name: {key: np.concatenate([part[name][key] for part in parts]) for key in arrays}
            for name, arrays in parts[0].items()
        }

    return Cohort(
        arrays=joined([c.arrays for c in cohorts]),
        outcomes=joined([c.outcomes for c in cohorts]),
        is_test_B=np.concatenate([c.is_test_B for c in cohorts]),
        pseudonym_B=np.concatenate([c.pseudonym_B for c in cohorts]),
    )


def pseudonym(patient_id: str) -> str:
    """A keyed hash of an id: the same within this process, and of no use outside of it."""
    return hashlib.blake2b(patient_id.encode(), key=_PSEUDONYM_KEY, digest_size=16).hexdigest()


def read_cohort(
    config: SiteConfig, study: Study, *, needs_outcomes: bool = True
) -> tuple[Cohort | None, list[Finding]]:
    """The site's patients, and everything that is wrong with the folder, in one pass.

    The cohort is None where there are errors among the findings.

    Args:
        needs_outcomes: leave out patients of whom no outcome is known; otherwise all patients are
            there, and what is wrong with outcomes is nobody's concern. Those who are in no part
            of the split, or in the fold for validation, then count as held out.
    """
    return cohort_of(*read_table(config.patients), config, study, needs_outcomes=needs_outcomes)


def cohort_of(
    table: pd.DataFrame | None,
    findings: list[Finding],
    config: SiteConfig,
    study: Study,
    *,
    needs_outcomes: bool,
) -> tuple[Cohort | None, list[Finding]]:
    """As `read_cohort`, of what `read_table` returned for the patients' table."""
    if table is None:
        return None, findings
    file = config.patients.name
    ids, found = _patient_ids(table, file)
    findings += found
    findings += column_findings(
        table.columns, exempt=_agreed_columns(study), file=file, identifiers=config.identifiers
    )
    outcomes, found = read_outcomes(table, study.outcomes, file=file)
    findings += found if needs_outcomes else []
    is_test_B, found = _split(table, ids, study.evaluation, file, needs_all=needs_outcomes)
    findings += found
    arrays: dict[str, ArraysByName] = {}
    for name, granularity in study.granularities.items():
        arrays[name], found = read_granularity(
            config, name, granularity, patients=table, ids=_different(ids)
        )
        findings += found
    if not any(a["present_B"].any() for a in arrays.values()):
        expected = f"a granularity of the study ({', '.join(study.granularities)})"
        findings.append(error(file, expected, "none for any patient", "Check the column names."))
    if any(f.severity == "error" for f in findings):
        return None, findings
    cohort = Cohort(
        arrays=arrays,
        outcomes=outcomes,
        is_test_B=is_test_B,
        pseudonym_B=np.array([pseudonym(i) for i in ids]),
    )
    fold = study.evaluation.validation_fold
    is_fold_B = np.zeros(len(ids), dtype=np.bool_)
    if fold is not None:
        is_fold_B = _fold_of(ids, study.evaluation) == fold
    if not needs_outcomes:
        return replace(cohort, is_test_B=is_test_B | is_fold_B), findings
    is_train_B = ~is_test_B & ~is_fold_B
    if study.privacy.mode != "patient":
        # Not under privacy, where it would make every row depend on who else is there.
        rarest = config.policy.smallest_group
        outcomes, found = without_rare(outcomes, is_train_B, rarest, file=file)
        cohort, findings = replace(cohort, outcomes=outcomes), findings + found
    is_known_B = np.any([a["known_B"] for a in outcomes.values()], axis=0)
    if fold is not None:
        return replace(cohort, is_test_B=is_fold_B).select(~is_test_B & is_known_B), findings
    return cohort.select(is_known_B), findings


def _agreed_columns(study: Study) -> set[str]:
    """The columns that every site has agreed to use, whatever their names look like."""
    parts = (*study.outcomes.values(), *study.granularities.values())
    return {
        "patient_id",
        study.evaluation.split_column,
        *(column for part in parts for column in part.columns),
    }


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


def _different(ids: "pd.Series[str]") -> pd.Index:
    """The ids with a number in the place of each that is empty or repeated, which is an error.

    So all that is wrong with the other files is found in the same pass.
    """
    is_usable_B = (ids != "") & ~ids.duplicated()
    if is_usable_B.all():
        return pd.Index(ids)
    # A number is no patient's id: those are text.
    both = enumerate(zip(ids, is_usable_B, strict=True))
    return pd.Index([i if is_usable else row for row, (i, is_usable) in both], dtype="object")


def _split(
    table: pd.DataFrame, ids: "pd.Series[str]", plan: Evaluation, file: str, *, needs_all: bool
) -> tuple[NDArray[np.bool_], list[Finding]]:
    """Who is held out: by the split column where there is one, else by a hash of the id.

    Args:
        needs_all: an empty cell is an error; otherwise such a patient is held out.
    """
    if plan.split_column not in table.columns:
        place_B = _places(ids, plan.split_seed, "test")
        return place_B < plan.test_fraction, []
    column = table[plan.split_column]
    where = f"{file}, column {plan.split_column}"
    is_empty_B = column.isna()
    num_other = int((~column.isin(["train", "test"]) & (needs_all | ~is_empty_B)).sum())
    findings = []
    if num_other:
        found = f"{num_other} other values"
        findings.append(error(where, "train or test for every patient", found, "Fix the column."))
    return (column.eq("test").fillna(False) | is_empty_B).to_numpy(dtype=np.bool_), findings


def _fold_of(ids: "pd.Series[str]", plan: Evaluation) -> NDArray[np.int64]:
    """The fold of each patient, 0…folds-1, for inner validation."""
    return (_places(ids, plan.split_seed, "fold") * plan.folds).astype(np.int64)


def _places(ids: "pd.Series[str]", seed: int, purpose: str) -> NDArray[np.float64]:
    """A number in [0, 1) for each patient that depends on nothing but the id, seed and purpose."""
    key = seed.to_bytes(8, "big") + purpose.encode()
    digests = (hashlib.blake2b(i.encode(), key=key, digest_size=6).digest() for i in ids)
    return np.array([int.from_bytes(digest, "big") / 2**48 for digest in digests])


def cohort_findings(cohort: Cohort, config: SiteConfig, study: Study) -> list[Finding]:
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
    return findings + _class_findings(cohort, study, file)


def _class_findings(cohort: Cohort, study: Study, file: str) -> list[Finding]:
    """A warning for each outcome of which a part of the patients shows one class only."""
    findings = []
    for name, outcome in study.outcomes.items():
        if not isinstance(outcome, ClassOutcome):
            continue
        for part, patients in (("training", cohort.train), ("held-out", cohort.test)):
            arrays = patients.outcomes[name]
            if len(np.unique(arrays["label_B"][arrays["known_B"]])) == 1:
                action = "Training goes on; AUROC is undefined for this site."
                expected = f"two classes of {name} or more among {part} patients"
                findings.append(warning(file, expected, "one", action))
    return findings
