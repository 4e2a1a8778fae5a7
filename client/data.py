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
from client.held_out import fold_of, split
from client.outcomes import read_outcomes, without_rare
from client.sources.identifiers import column_findings
from client.sources.readers import read_granularity
from client.sources.tables import read_table
from common.outcomes import ClassOutcome
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
    is_test_B, found = split(table, ids, study.evaluation, file, needs_all=needs_outcomes)
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
        is_fold_B = fold_of(ids, study.evaluation) == fold
    if not needs_outcomes:
        return replace(cohort, is_test_B=is_test_B | is_fold_B), findings
    cohort, found = _with_outcomes(cohort, is_fold_B, config, study)
    return cohort, findings + found


def _with_outcomes(
    cohort: Cohort, is_fold_B: NDArray[np.bool_], config: SiteConfig, study: Study
) -> tuple[Cohort, list[Finding]]:
    """The patients of whom some outcome is known; with a fold to validate on, it is held out alone.

    Args:
        is_fold_B: who is in that fold.
    """
    findings: list[Finding] = []
    if study.privacy.mode != "patient":
        # Not under privacy, where it would make every row depend on who else is there.
        is_train_B = ~cohort.is_test_B & ~is_fold_B
        rarest, file = config.policy.smallest_group, config.patients.name
        outcomes, findings = without_rare(cohort.outcomes, is_train_B, rarest, file=file)
        cohort = replace(cohort, outcomes=outcomes)
    is_known_B = np.any([a["known_B"] for a in cohort.outcomes.values()], axis=0)
    if study.evaluation.validation_fold is None:
        return cohort.select(is_known_B), findings
    validated = replace(cohort, is_test_B=is_fold_B)
    return validated.select(~cohort.is_test_B & is_known_B), findings


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
