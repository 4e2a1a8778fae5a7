"""The results pages of the real studies: what each compares, with what, and how far it is to go."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from common.errors import StudyError
from common.study import Study
from simulations.datasets.anchors import read_folders
from simulations.datasets.anchors_flamby import flamby_results
from simulations.datasets.anchors_survival import cox_anchor
from simulations.datasets.eicu_demo import import_eicu_demo
from simulations.datasets.hannover_cxr import import_hannover_cxr
from simulations.datasets.heart_disease import import_heart_disease
from simulations.datasets.tcga_brca import import_tcga_brca
from simulations.results.methods import (
    APACHE,
    APACHE_METHOD,
    BOOSTING,
    FEDERATED_METHOD,
    LINEAR,
    LINEAR_METHOD,
    LOCAL_METHOD,
    LOGISTIC,
    MEDIAN_METHOD,
    POOLED_METHOD,
    POOLED_TRAINING,
    TABULAR_METHOD,
    alone,
)
from simulations.results.page import (
    BEST_SINGLE,
    Aim,
    Comparison,
    Group,
    Page,
    Reference,
    who_have_any,
    whom_an_arm_scores,
    whose_outcome_is_known,
)

SCORED = "patients scored by APACHE IVa"
FULL_DAY = "stays of at least one day"
WITH_OMICS = "patients with mRNA, miRNA or protein"
# What FLamby's results call its federated strategies; the others are pooled and local training.
_FEDERATED = ("Fed", "Cyclic", "Scaffold")

_SHARED_METHODS = (FEDERATED_METHOD, POOLED_METHOD, LOCAL_METHOD)
_WITHIN_A_HUNDREDTH = Comparison(other=POOLED_TRAINING, aim=-0.01)


def page_of(name: str) -> Page:
    """The page of a study.

    Raises:
        StudyError: there is none of this name.
    """
    for page in PAGES:
        if page.study == name:
            return page
    names = ", ".join(page.study for page in PAGES)
    raise StudyError(f"Expected a study with a results page ({names}), found '{name}'.")


def _eicu(source: Path, out: Path, fold: int) -> object:
    return import_eicu_demo(source, out, sites="region", test_fold=fold)


def _tcga(source: Path, out: Path, _: int) -> object:
    return import_tcga_brca(source, out)


def _hannover(source: Path, out: Path, fold: int) -> object:
    return import_hannover_cxr(source, out, test_fold=fold)


def _heart(source: Path, out: Path, _: int) -> object:
    return import_heart_disease(source, out)


def _cox(study: Study, sites: Path, published: Path) -> Sequence[Reference]:
    folders = sorted(path.parent for path in sites.glob("*/site.toml"))
    anchor = cox_anchor(read_folders(folders), study)
    name = "Cox model with ridge, clinical features, pooled"
    return [Reference(name=name, pooled=anchor.pooled, sites=anchor.mean_over_sites)]


def _cox_and_flamby(study: Study, sites: Path, published: Path) -> Sequence[Reference]:
    results = flamby_results(published, "tcga")
    federated = results[[str(name).startswith(_FEDERATED) for name in results.index]]
    references = [*_cox(study, sites, published)]
    for metric in ("pooled_mean", "sites_mean"):
        best = str(federated[metric].idxmax())
        row = dict(zip(federated.columns, federated.loc[best].to_numpy(dtype=float), strict=True))
        references.append(
            Reference(
                name=f"FLamby, published: {best}",
                pooled=row["pooled_mean"],
                pooled_sd=row["pooled_sd"],
                sites=row["sites_mean"],
                sites_sd=row["sites_sd"],
            )
        )
    return list({reference.name: reference for reference in references}.values())


PAGES: Final = (
    Page(
        study="eicu-demo",
        importer=_eicu,
        num_folds=5,
        has_seed_per_fold=True,
        methods=(
            *_SHARED_METHODS,
            *alone("physiology", "admission", "vitals", "notes"),
            TABULAR_METHOD,
            APACHE_METHOD,
            MEDIAN_METHOD,
        ),
        groups=(
            Group(name=SCORED, chosen=whom_an_arm_scores(APACHE, "mortality")),
            Group(name=FULL_DAY, chosen=whose_outcome_is_known("stay")),
        ),
        columns={"mortality": ("auroc", "auprc", "calibration_error"), "stay": ("mae", "r2")},
        comparisons=(
            Comparison(other=BOOSTING),
            Comparison(other=LOGISTIC),
            _WITHIN_A_HUNDREDTH,
            Comparison(other=BEST_SINGLE),
            Comparison(other=APACHE, group=SCORED),
            Comparison(other=BOOSTING, group=SCORED),
            Comparison(other=BOOSTING, group=FULL_DAY),
        ),
        notes=(
            "Whole hospitals are held out: no patient of a test hospital is seen in training.",
            "Seed i goes with fold i, so the spread is over folds and seeds together.",
            "A region's local model is judged on the held-out hospitals of that region.",
        ),
    ),
    Page(
        study="tcga-brca-clinical",
        importer=_tcga,
        methods=_SHARED_METHODS,
        columns={"survival": ("c_index", "loss")},
        comparisons=(_WITHIN_A_HUNDREDTH,),
        aims=(
            Aim(text="C-index on the pooled test", at_least=0.85, of_sites=False),
            Aim(text="C-index, mean over sites", at_least=0.82, of_sites=True),
        ),
        references=_cox_and_flamby,
        notes=("Patients and split are FLamby's; the spread is over seeds of training alone.",),
    ),
    Page(
        study="tcga-brca",
        importer=_tcga,
        methods=(*_SHARED_METHODS, *alone("clinical", "mrna", "mirna", "protein")),
        groups=(Group(name=WITH_OMICS, chosen=who_have_any("mrna", "mirna", "protein")),),
        columns={"survival": ("c_index", "num_events", "loss")},
        comparisons=(
            Comparison(other="clinical alone", group=WITH_OMICS),
            Comparison(other="clinical alone"),
            _WITHIN_A_HUNDREDTH,
        ),
        references=_cox_and_flamby,
        notes=(
            "Patients and split are FLamby's; the spread is over seeds of training alone.",
            "Patients without a granularity are predicted from what they have; by a single one "
            "that they lack, from nothing.",
        ),
    ),
    Page(
        study="tcga-brca-subtype",
        importer=_tcga,
        methods=(*_SHARED_METHODS, *alone("mrna", "mirna", "protein"), LINEAR_METHOD),
        columns={"subtype": ("auroc", "accuracy", "f1", "calibration_error")},
        comparisons=(
            Comparison(other=BEST_SINGLE),
            _WITHIN_A_HUNDREDTH,
            Comparison(other=LINEAR),
        ),
        notes=(
            "The patients of FLamby's split who have omics; the spread is over seeds of training "
            "alone. AUROC and F1 are means over classes, one against the rest.",
        ),
    ),
    Page(
        study="hannover-cxr",
        importer=_hannover,
        num_folds=4,
        methods=(*_SHARED_METHODS, *alone("imaging", "labs"), LINEAR_METHOD),
        comparisons=(
            Comparison(other=BEST_SINGLE),
            _WITHIN_A_HUNDREDTH,
            Comparison(other=LINEAR),
        ),
        notes=(
            "Caution: of 19 of the 25 patients who came to intensive care, the first image is of "
            "the very day of admission to the unit. A model may read the care, not the need of it.",
            "The hospitals are simulated: one clinic's patients, dealt at random.",
        ),
    ),
    Page(
        study="heart-disease-5class",
        importer=_heart,
        methods=(*_SHARED_METHODS, LINEAR_METHOD),
        columns={"disease_grade": ("auroc", "accuracy", "f1", "calibration_error")},
        comparisons=(_WITHIN_A_HUNDREDTH, Comparison(other=LINEAR)),
        notes=("AUROC and F1 are means over the five grades, one against the rest.",),
    ),
)
