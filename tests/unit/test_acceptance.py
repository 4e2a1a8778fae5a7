"""Which studies a hospital has agreed to: nothing without a signed record, and nothing changed.

200 random edits of the record; 2,000 under `WARDROUND_HYPOTHESIS=full`.
"""

import json
import os
import pwd
import random
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.acceptance import (
    Act,
    accept,
    acceptances_path,
    accepted_studies,
    history,
    os_user,
    standing_of,
    standings,
    withdraw,
)
from client.config import SiteConfig, load_site_config
from client.study_store import read_proposal, study_path, withdrawn_path
from common.code_version import code_fingerprint
from common.errors import SiteConfigError, StudyError
from common.signing import Purpose, SigningKey
from common.study import Study
from common.study_file import override, study_to_toml
from tests.unit.chained_edits import FOUND, Edit, Target, cut_in_a_line

NUM_EDITS = 2000 if os.environ.get("WARDROUND_HYPOTHESIS") == "full" else 200
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.fixture
def hospital(new_site: Callable[..., Path]) -> SiteConfig:
    return load_site_config(new_site())


@pytest.fixture
def other(tiny_study: Study) -> Study:
    return override(tiny_study, training__rounds=9)


def with_policy(config: SiteConfig, new_site: Callable[..., Path], *hashes: str) -> SiteConfig:
    """Another configuration of the same state folder, whose policy lists these studies."""
    state = {"state_dir": str(config.state_dir)}
    return load_site_config(new_site(site=state, policy={"accepted_studies": list(hashes)}))


# Refusing is the default.


def test_nothing_is_accepted_at_first(hospital: SiteConfig, tiny_study: Study) -> None:
    assert accepted_studies(hospital) == {}
    assert standings(hospital) == []
    assert not hospital.state_dir.exists() or not list(hospital.state_dir.iterdir())


def test_a_study_file_without_a_record_is_not_accepted(
    hospital: SiteConfig, tiny_study: Study
) -> None:
    path = study_path(hospital.state_dir, tiny_study.hash)
    path.parent.mkdir(parents=True)
    path.write_text(study_to_toml(tiny_study))
    assert accepted_studies(hospital) == {}


def test_a_torn_record_accepts_nothing(hospital: SiteConfig, tiny_study: Study) -> None:
    accept(hospital, tiny_study)
    path = acceptances_path(hospital.state_dir)
    whole = path.read_bytes()
    for stop in range(1, len(whole), 7):
        path.write_bytes(whole[:stop])
        assert accepted_studies(hospital) == {}
    path.write_bytes(whole[:40])
    accept(hospital, tiny_study)
    assert set(accepted_studies(hospital)) == {tiny_study.hash}


# Accepting.


def test_who_accepted_what_and_when_is_on_record(hospital: SiteConfig, tiny_study: Study) -> None:
    record = accept(hospital, tiny_study, clock=lambda: NOON)
    assert history(hospital) == [record]
    assert (record.act, record.study_hash, record.study) == ("accepted", tiny_study.hash, "tiny")
    assert (record.at, record.code) == ("2026-05-04T12:00:00+00:00", code_fingerprint())
    assert record.who == pwd.getpwuid(os.getuid()).pw_name


def test_the_user_is_not_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "the-director")
    assert os_user() != "the-director"


def test_an_accepted_study_is_the_one_that_was_shown(
    hospital: SiteConfig, tiny_study: Study, other: Study
) -> None:
    for study in (tiny_study, other):
        accept(hospital, study)
    assert accepted_studies(hospital) == {tiny_study.hash: tiny_study, other.hash: other}


def test_accepting_again_what_is_intact_changes_nothing(
    hospital: SiteConfig, tiny_study: Study
) -> None:
    first = accept(hospital, tiny_study, clock=lambda: NOON)
    before = acceptances_path(hospital.state_dir).read_bytes()
    assert accept(hospital, tiny_study) == first
    assert acceptances_path(hospital.state_dir).read_bytes() == before


def test_a_failure_before_the_record_leaves_the_study_unaccepted(
    hospital: SiteConfig, tiny_study: Study
) -> None:
    acceptances_path(hospital.state_dir).mkdir(parents=True)
    with pytest.raises(SiteConfigError, match="record of accepted studies"):
        accept(hospital, tiny_study)
    acceptances_path(hospital.state_dir).rmdir()
    assert accepted_studies(hospital) == {}


def test_the_record_is_readable_by_its_owner_alone_and_signed(
    hospital: SiteConfig, tiny_study: Study
) -> None:
    accept(hospital, tiny_study)
    path = acceptances_path(hospital.state_dir)
    assert path.stat().st_mode & 0o077 == 0
    assert "signature" in json.loads(path.read_bytes())


def test_nothing_of_a_patient_is_in_the_record(
    hospital: SiteConfig, tiny_study: Study, patients
) -> None:
    accept(hospital, tiny_study)
    text = acceptances_path(hospital.state_dir).read_text()
    text += study_path(hospital.state_dir, tiny_study.hash).read_text()
    assert not any(patient in text for patient in patients()["patient_id"])


# The policy.


def test_what_the_policy_lists_counts_as_well(
    hospital: SiteConfig, new_site, tiny_study: Study, other: Study
) -> None:
    accept(hospital, tiny_study)
    listed = with_policy(hospital, new_site, other.hash)
    with pytest.raises(SiteConfigError, match="found no file"):
        accepted_studies(listed)
    study_path(hospital.state_dir, other.hash).write_text(study_to_toml(other))
    assert set(accepted_studies(listed)) == {tiny_study.hash, other.hash}
    assert [s.is_in_policy for s in standings(listed)] == [True, False]


def test_a_listed_study_that_is_on_record_is_the_file_that_was_shown(
    hospital: SiteConfig, new_site, tiny_study: Study
) -> None:
    accept(hospital, tiny_study)
    listed = with_policy(hospital, new_site, tiny_study.hash)
    _commented(study_path(hospital.state_dir, tiny_study.hash), tiny_study)
    with pytest.raises(SiteConfigError, match="Accept it again"):
        accepted_studies(listed)


def test_a_file_put_there_by_hand_after_a_withdrawal_is_told_by_its_hash_alone(
    hospital: SiteConfig, new_site, tiny_study: Study
) -> None:
    accept(hospital, tiny_study)
    withdraw(hospital, tiny_study.hash)
    path = study_path(hospital.state_dir, tiny_study.hash)
    path.write_text(study_to_toml(tiny_study) + "# by hand\n")
    assert accepted_studies(hospital) == {}
    assert set(accepted_studies(with_policy(hospital, new_site, tiny_study.hash))) == {
        tiny_study.hash
    }


def test_a_listed_study_whose_file_is_another_stops_the_site(
    hospital: SiteConfig, new_site, tiny_study: Study, other: Study
) -> None:
    listed = with_policy(hospital, new_site, tiny_study.hash)
    path = study_path(hospital.state_dir, tiny_study.hash)
    path.parent.mkdir(parents=True)
    path.write_text(study_to_toml(other))
    with pytest.raises(SiteConfigError, match="another study under its name"):
        accepted_studies(listed)


# What was changed.


def _swapped(path: Path, other: Study) -> None:
    path.write_text(study_to_toml(other))


def _commented(path: Path, other: Study) -> None:
    path.write_text(path.read_text() + "# harmless\n")


def _removed(path: Path, other: Study) -> None:
    path.unlink()


def _spoilt(path: Path, other: Study) -> None:
    path.write_bytes(b"\xff\xfe")


@pytest.mark.parametrize("change", [_swapped, _commented, _removed, _spoilt])
def test_a_study_whose_file_was_changed_stops_the_site_until_it_is_accepted_again(
    hospital: SiteConfig, tiny_study: Study, other: Study, change
) -> None:
    accept(hospital, tiny_study)
    change(study_path(hospital.state_dir, tiny_study.hash), other)
    with pytest.raises(SiteConfigError, match="Accept it again"):
        accepted_studies(hospital)
    (standing,) = standings(hospital)
    assert (standing.is_accepted, standing.kept.study) == (True, None)
    accept(hospital, tiny_study)
    assert accepted_studies(hospital) == {tiny_study.hash: tiny_study}
    assert len(history(hospital)) == 2


@pytest.fixture(scope="module")
def lived(new_site, tiny_study: Study) -> tuple[SiteConfig, Target]:
    config, older = load_site_config(new_site()), []
    path = acceptances_path(config.state_dir)
    for rounds in (3, 4, 5):
        study = override(tiny_study, training__rounds=rounds)
        accept(config, study)
        older.append(path.read_bytes())
    path.write_bytes(path.read_bytes() + b'{"act":"accep')
    for rounds in (4, 5):
        withdraw(config, override(tiny_study, training__rounds=rounds).hash)
    key = SigningKey.load(config.state_dir / "keys" / "site.pem")
    content = path.read_bytes()
    return config, Target(purpose=Purpose.ACCEPTANCE, key=key, content=content, older=older)


@pytest.mark.threat("I-2")
@pytest.mark.parametrize("edit", [e for e in FOUND if e is not cut_in_a_line])
def test_every_edit_of_the_record_stops_the_site(
    lived: tuple[SiteConfig, Target], edit: Edit
) -> None:
    config, target = lived
    path, source = acceptances_path(config.state_dir), random.Random(edit.__name__)
    for number in range(-(-NUM_EDITS // (len(FOUND) - 1))):
        edited = edit(target, source)
        # Without its last newline or what stands after it, a record is a true one and torn.
        if edited == target.content or target.content.startswith(edited[: edited.rfind(b"\n") + 1]):
            continue
        path.write_bytes(edited)
        with pytest.raises(SiteConfigError):
            accepted_studies(config)
        assert path.read_bytes() == edited, number


def test_a_withdrawal_that_was_cut_off_stops_the_site(lived: tuple[SiteConfig, Target]) -> None:
    config, target = lived
    path = acceptances_path(config.state_dir)
    path.write_bytes(target.content)
    assert len(accepted_studies(config)) == 1
    for older in target.older[1:]:
        path.write_bytes(older)
        with pytest.raises(SiteConfigError, match="found no file"):
            accepted_studies(config)


def test_a_record_of_another_hospital_stops_the_site(
    hospital: SiteConfig, new_site, tiny_study: Study
) -> None:
    stranger = load_site_config(new_site())
    accept(stranger, tiny_study)
    accept(hospital, tiny_study)
    path = acceptances_path(hospital.state_dir)
    path.write_bytes(acceptances_path(stranger.state_dir).read_bytes())
    for asked in (accepted_studies, lambda c: accept(c, tiny_study), standings):
        with pytest.raises(SiteConfigError, match="not signed by the site's key"):
            asked(hospital)


def test_a_record_without_the_key_that_signed_it_stops_the_site(
    hospital: SiteConfig, tiny_study: Study, other: Study
) -> None:
    accept(hospital, tiny_study)
    (hospital.state_dir / "keys" / "site.pem").unlink()
    with pytest.raises(SiteConfigError, match="key"):
        accept(hospital, other)
    assert not (hospital.state_dir / "keys" / "site.pem").exists()


# Withdrawing.


def test_a_withdrawn_study_is_not_accepted_and_its_file_is_set_aside(
    hospital: SiteConfig, tiny_study: Study, other: Study
) -> None:
    for study in (tiny_study, other):
        accept(hospital, study)
    record = withdraw(hospital, tiny_study.hash[:8])
    assert record.act is Act.WITHDRAWN
    assert set(accepted_studies(hospital)) == {other.hash}
    assert not study_path(hospital.state_dir, tiny_study.hash).exists()
    assert withdrawn_path(hospital.state_dir, tiny_study.hash).is_file()
    assert standing_of(hospital, tiny_study.hash).kept.study == tiny_study


def test_a_withdrawn_study_may_be_accepted_again(hospital: SiteConfig, tiny_study: Study) -> None:
    accept(hospital, tiny_study)
    withdraw(hospital, tiny_study.hash)
    with pytest.raises(SiteConfigError, match="withdrawn already"):
        withdraw(hospital, tiny_study.hash)
    accept(hospital, tiny_study)
    assert set(accepted_studies(hospital)) == {tiny_study.hash}
    assert [record.act for record in history(hospital)] == ["accepted", "withdrawn", "accepted"]


def test_a_study_that_the_policy_lists_cannot_be_withdrawn_and_go_on(
    hospital: SiteConfig, new_site, tiny_study: Study
) -> None:
    accept(hospital, tiny_study)
    listed = with_policy(hospital, new_site, tiny_study.hash)
    before = acceptances_path(hospital.state_dir).read_bytes()
    with pytest.raises(SiteConfigError, match="Take it out there"):
        withdraw(listed, tiny_study.hash)
    assert acceptances_path(hospital.state_dir).read_bytes() == before


def test_a_hash_must_name_one_study(hospital: SiteConfig, tiny_study: Study) -> None:
    accept(hospital, tiny_study)
    for wrong in ("", tiny_study.hash[:7], "0" * 64, tiny_study.hash + "0"):
        with pytest.raises(SiteConfigError, match="one known study"):
            standing_of(hospital, wrong)


# Files that somebody sent.

HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "no_text": b"\x00\xff\xfe",
    "deep": b"a = " + b"[" * 100_000,
    "large": b"#" * (5 << 20),
    "no_study": b"[study]\nname = 'x'\n",
    "a_path_as_name": b"[study]\nname = '../../x'\n",
    "no_toml": b"{]",
    "numbers": b"training = 1e999999\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_an_error_and_no_crash(tmp_path: Path, name: str) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(StudyError):
        read_proposal(path)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(StudyError, match="found none"):
            read_proposal(path)


def test_a_proposal_is_the_study_of_its_file(tmp_path: Path, tiny_study: Study) -> None:
    path = tmp_path / "study.toml"
    path.write_text("# a comment\n" + study_to_toml(tiny_study))
    assert read_proposal(path) == tiny_study
    assert tomllib.loads(path.read_text())
