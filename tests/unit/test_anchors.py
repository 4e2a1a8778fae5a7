"""The anchors: against definitions, numbers by hand, and the real data."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from common.errors import DataError
from common.study_file import load_study, study_from_toml
from simulations.datasets.anchors import held_out_scores, read_folders, with_apache
from simulations.datasets.anchors_flamby import flamby_results
from simulations.datasets.anchors_survival import cox_anchor, fit_cox
from simulations.datasets.eicu_demo import import_eicu_demo
from simulations.datasets.tcga_brca import import_tcga_brca
from simulations.site_folder import write_site_folder
from tests.unit.real_data import real_data

BINARY = study_from_toml(
    """
    study = { name = "anchors" }
    training = { rounds = 1, local_epochs = 1 }
    outcomes.event = { column = "event", kind = "binary", classes = ["no", "yes"] }
    [granularities.labs]
    kind = "tabular"
    features.age = { kind = "numeric", unit = "years", range = [0, 100] }
    features.sex = { kind = "categorical", categories = ["female", "male"] }
    """
)


def _patients(num_patients: int = 80) -> pd.DataFrame:
    random = np.random.default_rng(0)
    age = random.uniform(20, 90, num_patients)
    return pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in range(num_patients)],
            "site": "one",
            "fold": np.arange(num_patients) % 2,
            "event": np.where(age + random.normal(0, 15, num_patients) > 55, "yes", "no"),
            "age": np.where(random.uniform(size=num_patients) < 0.1, np.nan, age),
            "sex": random.choice(["female", "male", None], num_patients),
        }
    )


def test_a_score_depends_on_the_outcomes_of_other_folds_alone() -> None:
    patients = _patients()
    spoilt = patients.copy()
    is_fold = patients["fold"] == 1
    spoilt.loc[is_fold, "event"] = spoilt.loc[is_fold, "event"].to_numpy()[::-1]
    scores, other = (held_out_scores(table, BINARY) for table in (patients, spoilt))
    for name in ("gradient_boosting", "logistic"):
        assert scores.loc[is_fold, name].equals(other.loc[is_fold, name])
        assert not scores.loc[~is_fold, name].equals(other.loc[~is_fold, name])
        assert roc_auc_score(scores["label"], scores[name]) > 0.6


def test_a_category_that_training_never_met_is_scored() -> None:
    patients = _patients()
    patients["sex"] = np.where(patients["fold"] == 0, "unheard_of", "female")
    assert held_out_scores(patients, BINARY)[["gradient_boosting", "logistic"]].notna().all(None)


def test_scores_need_a_binary_outcome() -> None:
    with pytest.raises(ValueError, match="binary primary outcome"):
        held_out_scores(_patients(), load_study("tcga-brca-clinical"))


def test_site_folders_are_read_as_one_table(tmp_path) -> None:
    for site in ("a", "b"):
        write_site_folder(
            tmp_path / site,
            site=site,
            dataset_id="d",
            patients=pd.DataFrame({"patient_id": [f"{site}1"]}),
            source="A.",
        )
    table = read_folders([tmp_path / "b", tmp_path / "a"])
    assert table.to_dict("list") == {"patient_id": ["b1", "a1"], "site": ["b", "a"]}


def test_cox_of_two_patients_is_as_worked_by_hand() -> None:
    # The patient with x = 1 dies first: -log(e^b / (e^b + 1)) + 2 · ridge / 2 · b² is least where
    # 1 / (1 + e^b) = 2 · ridge · b; with ridge = 1 / (2 (1 + e)) that is b = 1.
    ridge = 1 / (2 * (1 + np.e))
    x_BF, time_B = np.array([[1.0], [0.0]]), np.array([1.0, 2.0])
    beta_F = fit_cox(x_BF, time_B, np.array([True, False]), ridge=ridge)
    assert beta_F == pytest.approx([1.0], abs=1e-6)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.003, 0.03, 1.0]))
def test_the_penalised_likelihood_of_cox_cannot_be_improved(seed, ridge) -> None:
    random = np.random.default_rng(seed)
    x_BF = random.normal(size=(40, 3)) * [1, 5, 0.2]
    # Whole months: many tied times.
    time_B = np.ceil(random.exponential(12, 40))
    event_B = random.uniform(size=40) < 0.5
    event_B[0] = True

    def loss(beta_F) -> float:
        """As it is defined, one event at a time."""
        eta_B = x_BF @ beta_F
        terms = [
            np.log(np.exp(eta_B[time_B >= time_B[i]]).sum()) - eta_B[i]
            for i in np.flatnonzero(event_B)
        ]
        return sum(terms) / 40 + ridge / 2 * float(beta_F @ beta_F)

    beta_F = fit_cox(x_BF, time_B, event_B, ridge=ridge)
    for direction_F in np.eye(3):
        slope = (loss(beta_F + 1e-5 * direction_F) - loss(beta_F - 1e-5 * direction_F)) / 2e-5
        assert slope == pytest.approx(0.0, abs=3e-7)


def test_cox_needs_a_survival_outcome() -> None:
    with pytest.raises(ValueError, match="survival outcome"):
        cox_anchor(_patients(), BINARY)


def test_the_pooled_cox_model_reaches_the_known_concordance_on_flambys_split(tmp_path) -> None:
    folders = import_tcga_brca(real_data("tcga_brca"), tmp_path)
    anchor = cox_anchor(read_folders(folders), load_study("tcga-brca-clinical"))
    # Golden: ridge .03, and the same from a second implementation (scipy's L-BFGS on the loss).
    assert anchor.pooled == pytest.approx(0.8465, abs=5e-4)
    assert anchor.mean_over_sites == pytest.approx(0.8278, abs=5e-4)


def test_apache_reaches_the_known_auroc_on_the_patients_it_scored(tmp_path) -> None:
    source = real_data("eicu_demo")
    patients = read_folders(import_eicu_demo(source, tmp_path))
    label = (patients["hospital_mortality"] == "expired").astype(int)
    scores = with_apache(patients[["patient_id", "site", "fold"]].assign(label=label), source)
    # Of 1818 patients, 1410 were scored and 126 of these died.
    assert (scores["apache"].notna().sum(), scores.dropna()["label"].sum()) == (1410, 126)
    assert scores["apache"].dropna().between(0, 1).all()
    scored = scores.dropna()
    assert roc_auc_score(scored["label"], scored["apache"]) == pytest.approx(0.8734, abs=5e-4)


def test_flambys_results_are_means_over_seeds_as_worked_by_hand(tmp_path) -> None:
    for seed in range(42, 47):
        rows = [
            # By seed: 0, .1, .2, .3, .4 pooled, mean .2; the variance of 0…4 is 2.5.
            ("Ours", "Pooled Test", (seed - 42) / 10),
            ("Ours", "client_test_0", 0.5),
            ("Ours", "client_test_1", 0.7),
            ("Theirs", "Pooled Test", 0.9),
            ("Theirs", "client_test_0", 0.1),
        ]
        table = pd.DataFrame(rows, columns=["Method", "Test", "Metric"])
        table.to_csv(tmp_path / f"tcga_seed{seed}.csv", index=False)
    results = flamby_results(tmp_path, "tcga")
    assert list(results.index) == ["Theirs", "Ours"]
    assert results.loc["Ours"].to_dict() == pytest.approx(
        {
            "pooled_mean": 0.2,
            "pooled_sd": 2.5**0.5 / 10,
            "sites_mean": 0.6,
            "sites_sd": 0.0,
        }
    )
    with pytest.raises(DataError, match="found 0; absent: heart_seed42"):
        flamby_results(tmp_path, "heart")


def test_flambys_best_federated_concordance_is_the_published_one() -> None:
    results = flamby_results(real_data("flamby_reference_results"), "tcga")
    federated = results[results.index.str.startswith(("Fed", "Cyclic", "Scaffold"))]
    assert federated["pooled_mean"].max() == pytest.approx(0.842, abs=5e-4)
    assert federated["sites_mean"].max() == pytest.approx(0.815, abs=5e-4)
