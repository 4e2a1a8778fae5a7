"""check-site of a private study: what a run would cost, and what the hospital has got wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from client.check import SiteCheck, check_site
from client.config import load_site_config
from client.ledger.entries import ledger_path
from client.ledger.ledger import Ledger
from client.site import Site
from common.messages import TaskKind
from common.privacy.events import Charge, Unprotected
from common.privacy.plan import plan_of
from common.signing import SigningKey
from common.study import Study
from common.study_file import override, study_to_toml, with_patient_privacy
from tests.unit.builders import task_of
from tests.unit.consortium import join, signed
from tests.unit.ledger_cases import request_of

POLICY = {"epsilon_budget": 10.0, "delta_budget": 1e-4, "cohort_size": 45, "min_patients": 20}


@pytest.fixture(scope="module")
def private(tiny_study: Study) -> Study:
    public = override(tiny_study, normalisation__method="public_range")
    return with_patient_privacy(public, epsilon=4.0, delta=1e-4)


@pytest.fixture
def hospital(new_site: Callable[..., Path], private: Study) -> Callable[..., Path]:
    """A new site folder with a decided policy, some of its keys replaced; None removes one."""

    def write(table: pd.DataFrame | None = None, **policy: Any) -> Path:
        return new_site(table, policy={**POLICY, **policy, "accepted_studies": [private.hash]})

    return write


def told(check: SiteCheck, severity: str = "error") -> str:
    return "\n".join(f.sentence() for f in check.findings if f.severity == severity)


def ledger_of(folder: Path) -> Ledger:
    """The open ledger of a real site."""
    config = load_site_config(folder)
    key = SigningKey.load_or_create(config.state_dir / "keys" / "site.pem")
    return Ledger.open(
        config.state_dir,
        dataset_id=config.dataset_id,
        cohort_size=config.policy.cohort_size,
        simulation=False,
        key=key,
    )


def open_site(folder: Path, study: Study) -> Site:
    path = load_site_config(folder).state_dir / "studies" / f"{study.hash}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(study_to_toml(study), encoding="utf-8")
    join(folder)
    return Site.open(folder)


def content_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "site.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_cost_of_a_run_is_that_of_the_sites_own_plan(hospital, private: Study) -> None:
    check = check_site(hospital(min_noise_multiplier=5.0), private)
    plan = plan_of(private, cohort_size=45, min_noise_multiplier=5.0)
    assert check.is_usable
    assert check.cost["epsilon"] == f"{plan.epsilon:.4g}"
    assert check.cost["noise multiplier"] == f"{plan.noise_multiplier:g}"
    assert check.cost["adjacency"] == "add or remove one patient"
    assert check.cost["budget"].startswith("0 of 10 spent")
    assert check.to_json()["cost"] == check.cost


def test_a_study_without_privacy_has_no_cost(new_site, tiny_study: Study) -> None:
    assert check_site(new_site(), tiny_study).cost == {}


@pytest.mark.parametrize("missing", [("epsilon_budget",), ("epsilon_budget", "cohort_size")])
def test_the_figures_that_nobody_has_decided_are_named(
    hospital, private: Study, missing: tuple[str, ...]
) -> None:
    check = check_site(hospital(**dict.fromkeys(missing)), private)
    assert f"Expected {' and '.join(missing)} in [policy]" in told(check)
    assert check.cost == {}


def test_the_text_of_the_refusal_is_told(hospital, private: Study) -> None:
    check = check_site(hospital(delta_budget=1e-6), private)
    assert "privacy_too_weak" in told(check)
    assert "Expected a delta of at most 1e-06 (policy.delta_budget), found 0.0001" in told(check)


def test_a_cohort_size_below_min_patients_is_an_error(hospital, private: Study) -> None:
    check = check_site(hospital(cohort_size=19), private)
    assert "Expected at least 20 training patients by cohort_size" in told(check)


@pytest.mark.parametrize(
    ("cohort_size", "is_far"), [(29, True), (30, False), (60, False), (61, True)]
)
def test_a_cohort_size_more_than_a_third_beside_the_patients_is_a_warning(
    hospital, private: Study, cohort_size: int, is_far: bool
) -> None:
    # There are 45 training patients.
    check = check_site(hospital(cohort_size=cohort_size), private)
    assert check.is_usable
    expected = "Expected about as many as there are training patients (45)"
    assert (expected in told(check, "warning")) == is_far


@pytest.mark.parametrize(
    ("budget", "spent", "fits"), [(3.9, 0, False), (4.1, 0, True), (4.1, 1, False)]
)
def test_a_budget_is_an_error_exactly_where_the_site_does_not_enrol(
    hospital, private: Study, budget: float, spent: int, fits: bool
) -> None:
    folder = hospital(epsilon_budget=budget)
    site = open_site(folder, private)
    for _ in range(spent):
        assert site.answer(signed(task_of(private, run_id="before"))).status == "ok"
    check = check_site(folder, private)
    status = site.answer(signed(task_of(private, TaskKind.ENROL, run_id="other"))).status
    site.close()
    assert status == ("ok" if fits else "budget_exceeded")
    assert check.is_usable == fits
    assert ("suffices for a whole run" in told(check)) == (not fits)
    assert check.cost["budget"].startswith("0 of") == (spent == 0)


def test_data_in_which_no_bound_holds_any_more_are_named(hospital, private: Study) -> None:
    folder = hospital()
    with ledger_of(folder) as ledger:
        charges = [Charge(event=Unprotected())]
        ledger.reserve(request_of(), charges, fingerprint="00" * 32, source_kind="secure")
    check = check_site(folder, private)
    assert "found a ledger in which no bound holds any more" in told(check)
    assert check.cost["budget"].startswith("unbounded of 10 spent")


def test_another_cohort_size_than_the_ledgers_is_an_error(hospital, private: Study) -> None:
    folder = hospital()
    ledger_of(folder).close()
    edit(folder, "cohort_size = 45", "cohort_size = 50")
    assert "Expected 45, which the ledger has kept, found 50" in told(check_site(folder, private))


def test_a_ledger_that_was_edited_is_an_error(hospital, private: Study) -> None:
    folder = hospital()
    ledger_of(folder).close()
    config = load_site_config(folder)
    path = ledger_path(config.state_dir, config.dataset_id)
    path.write_bytes(path.read_bytes().replace(b'"cohort_size":45', b'"cohort_size":46'))
    check = check_site(folder, private)
    assert "Expected a whole ledger, found entry 0 of 1 has another digest" in told(check)
    assert "budget" not in check.cost


def test_a_torn_end_which_the_site_mends_is_no_error(hospital, private: Study) -> None:
    folder = hospital()
    ledger_of(folder).close()
    config = load_site_config(folder)
    with ledger_path(config.state_dir, config.dataset_id).open("ab") as file:
        file.write(b'{"torn')
    assert check_site(folder, private).is_usable


def test_a_ledger_without_its_key_is_an_error(hospital, private: Study) -> None:
    folder = hospital()
    ledger_of(folder).close()
    (load_site_config(folder).state_dir / "keys" / "site.pem").unlink()
    assert "Expected a readable key at" in told(check_site(folder, private))


def test_nothing_is_written(hospital, private: Study) -> None:
    folder = hospital()
    before = content_of(folder.parent)
    check_site(folder, private)
    assert content_of(folder.parent) == before
    ledger_of(folder).close()
    before = content_of(folder.parent)
    check_site(folder, private)
    assert content_of(folder.parent) == before


def test_what_no_training_patient_has_belongs_into_lacks(
    hospital, private: Study, patients: Callable[..., pd.DataFrame]
) -> None:
    folder = hospital(patients().drop(columns=["smoker", "steps_per_day"]))
    assert "Expected lifestyle in lacks" in told(check_site(folder, private), "warning")
    edit(folder, "[data]\n", '[data]\nlacks = ["lifestyle"]\n')
    assert "lacks" not in told(check_site(folder, private), "warning")


def test_what_lacks_says_against_the_data_and_what_nobody_knows_is_told(
    hospital, private: Study
) -> None:
    folder = hospital()
    edit(folder, "[data]\n", '[data]\nlacks = ["labs", "imagin"]\n')
    warnings = told(check_site(folder, private), "warning")
    assert "only what no training patient has, found labs" in warnings
    assert "granularities and outcomes of this study, found imagin" in warnings


def test_a_hospital_without_a_public_figure_among_others_is_told(hospital, private: Study) -> None:
    table = private.model_dump(mode="json", exclude_none=True)
    for names, is_told in (({"beta": 200}, True), ({"alpha": 200}, False)):
        table["privacy"]["enrolment"] = names
        check = check_site(hospital(), Study.model_validate(table))
        assert ("Its updates will weigh as one patient's" in told(check, "warning")) == is_told


def test_a_study_that_no_noise_can_make_private_is_an_error(hospital, private: Study) -> None:
    impossible = with_patient_privacy(private, epsilon=1e-6, delta=1e-12)
    check = check_site(hospital(), impossible)
    assert "Expected a study that can be private at this hospital" in told(check)
    assert "noise multiplier of at most" in told(check)


def test_a_plain_study_on_data_with_a_budget_is_a_warning(hospital, tiny_study: Study) -> None:
    check = check_site(hospital(allow_without_privacy=True), tiny_study)
    assert check.is_usable
    assert "no bound holds after it" in told(check, "warning")


def test_data_that_may_take_part_in_no_further_run_without_privacy_are_an_error(
    hospital, tiny_study: Study
) -> None:
    folder = hospital(allow_without_privacy=True, max_runs_without_privacy=2)
    for run_id in ("one", "two"):
        assert check_site(folder, tiny_study).is_usable
        with ledger_of(folder) as ledger:
            charge = Charge(event=Unprotected())
            request = request_of(run=run_id)
            ledger.reserve(request, [charge], fingerprint="f" * 64, source_kind="secure")
    assert "found 2 of at most 2 on these data" in told(check_site(folder, tiny_study))
