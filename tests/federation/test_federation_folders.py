"""The folders of a federation on one machine, made from hospitals that must stay as they are."""

import tomllib
from pathlib import Path

import pytest
import tomli_w

from client.acceptance import accepted_studies
from client.config import load_site_config
from client.data import read_cohort
from client.roster import coordinator_key_of
from common.errors import CohortError, DataError, RunError
from common.study import Study
from common.study_file import load_study, override, study_from_toml, with_patient_privacy
from server.provision.consortium import load_consortium
from simulations.cohort import SiteEffects, varied_sites, write_cohort
from simulations.federation.folders import deploy
from simulations.federation.hospitals import derive_site
from tests.federation.federation_fixtures import tree_of
from tests.round.tiny import TINY_STUDY


@pytest.fixture
def study() -> Study:
    return study_from_toml(TINY_STUDY)


@pytest.fixture
def sites(tmp_path: Path, study: Study) -> Path:
    effects = [SiteEffects(name=name, num_patients=80) for name in ("ada", "bea")]
    write_cohort(study, effects, tmp_path / "sites", seed=0)
    return tmp_path / "sites"


def edit_site(folder: Path, section: str, **fields: object) -> None:
    path = folder / "site.toml"
    settings = tomllib.loads(path.read_text())
    settings[section] |= fields
    path.write_text(tomli_w.dumps(settings))


def test_every_hospital_joins_one_consortium_and_accepts_the_study(
    study: Study, sites: Path, tmp_path: Path
) -> None:
    deployment = deploy(study, sites, tmp_path / "run" / "deployment")
    assert sorted(deployment.sites) == ["ada", "bea"]
    keys = set()
    for name, folder in deployment.sites.items():
        config = load_site_config(folder)
        assert (config.name, config.threads) == (name, 1)
        assert list(accepted_studies(config)) == [study.hash]
        keys.add(coordinator_key_of(config.state_dir))
        assert config.state_dir.is_relative_to(tmp_path / "run")
    assert len(keys) == 1
    consortium = load_consortium(deployment.folder / "CONSORTIUM.toml")
    assert consortium.coordinator.addresses == (deployment.address,)
    assert deployment.address.startswith("127.0.0.1:")


def test_the_hospitals_own_folders_and_books_stay_as_they_are(
    study: Study, sites: Path, tmp_path: Path
) -> None:
    before = tree_of(tmp_path)
    deploy(study, sites, tmp_path / "run" / "deployment")
    after = {n: s for n, s in tree_of(tmp_path).items() if not n.startswith("run/")}
    assert after == before


def test_the_same_patients_are_read_from_files_that_name_others(tmp_path: Path) -> None:
    """Images are listed in a table, and may not lie outside of its folder."""
    study = load_study("demo")
    (effects, *_) = varied_sites(study, num_sites=1, seed=0)
    (folder,) = write_cohort(study, [effects], tmp_path / "sites", seed=0)
    derived = derive_site(folder, tmp_path / "run" / "site", study)
    ours, _ = read_cohort(derived, study)
    theirs, _ = read_cohort(load_site_config(folder), study)
    assert ours is not None
    assert theirs is not None
    assert ours.train.counts() == theirs.train.counts()
    assert ours.counts()["imaging"] > 0
    # What it may read as data is all that the hospital's own site process may read.
    read = {path.resolve() for path in derived.data_paths}
    assert read == {path.resolve() for path in load_site_config(folder).data_paths}


def test_the_policy_stays_the_hospitals_and_what_it_accepted_elsewhere_does_not_count(
    study: Study, sites: Path, tmp_path: Path
) -> None:
    edit_site(sites / "ada", "policy", accepted_studies=["0" * 64], max_rounds=7)
    deployment = deploy(study, sites, tmp_path / "deployment")
    policy = load_site_config(deployment.sites["ada"]).policy
    assert (policy.max_rounds, policy.accepted_studies) == (7, ())


def test_what_a_person_would_decide_for_a_private_study_is_decided_and_what_is_decided_stays(
    study: Study, sites: Path, tmp_path: Path
) -> None:
    private = with_patient_privacy(study, epsilon=3.0, delta=1e-4)
    edit_site(sites / "bea", "policy", cohort_size=50, epsilon_budget=20.0)
    deployment = deploy(private, sites, tmp_path / "deployment")
    ada, bea = (load_site_config(deployment.sites[name]).policy for name in ("ada", "bea"))
    num_patients = read_cohort(load_site_config(sites / "ada"), private)[0]
    assert num_patients is not None
    assert ada.cohort_size == len(num_patients.train)
    assert ada.epsilon_budget == 6.0
    assert (bea.cohort_size, bea.epsilon_budget) == (50, 20.0)


def test_going_on_keeps_keys_and_policies_and_starting_anew_does_not(
    study: Study, sites: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "deployment"
    first = deploy(study, sites, folder)
    keys = {p: p.read_bytes() for p in folder.rglob("keys/site.pem")}
    edit_site(first.sites["ada"], "policy", max_rounds=9)
    again = deploy(study, sites, folder, resume=True)
    assert keys == {p: p.read_bytes() for p in folder.rglob("keys/site.pem")}
    assert load_site_config(again.sites["ada"]).policy.max_rounds == 9
    deploy(study, sites, folder)
    assert keys != {p: p.read_bytes() for p in folder.rglob("keys/site.pem")}


def test_every_hospital_that_cannot_take_part_is_named(
    study: Study, sites: Path, tmp_path: Path
) -> None:
    for name in ("ada", "bea"):
        edit_site(sites / name, "policy", min_patients=1000)
    with pytest.raises(DataError, match=r"(?s)^ada: Expected.*\nbea: Expected"):
        deploy(study, sites, tmp_path / "deployment")


def test_two_hospitals_of_one_name_are_refused(study: Study, sites: Path, tmp_path: Path) -> None:
    edit_site(sites / "bea", "site", name="ada")
    with pytest.raises(DataError, match="found ada more than once"):
        deploy(study, sites, tmp_path / "deployment")


def test_too_few_hospitals_are_refused(study: Study, sites: Path, tmp_path: Path) -> None:
    many = override(study, strategy__min_sites=3)
    with pytest.raises(CohortError, match="Expected at least 3 sites"):
        deploy(many, sites, tmp_path / "deployment")
    with pytest.raises(RunError, match="found none"):
        deploy(study, tmp_path / "nowhere", tmp_path / "deployment")


def test_a_folder_that_is_not_a_federations_is_never_removed(
    study: Study, sites: Path, tmp_path: Path
) -> None:
    (tmp_path / "deployment").mkdir()
    (tmp_path / "deployment" / "thesis.txt").write_text("a year of work")
    with pytest.raises(RunError, match="found another"):
        deploy(study, sites, tmp_path / "deployment")
    assert (tmp_path / "deployment" / "thesis.txt").read_text() == "a year of work"
