"""The coordinator's folder: made once, brought up to date, never set back."""

import os
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

import server.provision.provisioning as module
from common.errors import ProvisionError, SiteConfigError
from common.roster import roster_from_bytes
from server.provision.cli import provision
from server.provision.consortium import Validity, load_consortium
from tests.unit.provision_cases import NOW, ConsortiumFolder

PRIVATE = ("private/ca.key", "private/server.key", "private/coordinator.pem")
YEARS = timedelta(days=365)


@pytest.fixture
def made(tmp_path: Path) -> ConsortiumFolder:
    case = ConsortiumFolder(tmp_path, "alpha", "beta")
    case.provision()
    return case


def test_a_first_run_makes_keys_certificates_roster_and_a_folder_for_each_site(
    made: ConsortiumFolder,
) -> None:
    names = ("README.txt", "ca.pem", "client.pem")
    sent = [f"sites/{s}/{f}" for s in ("alpha", "beta") for f in names]
    rosters = ["roster.json", "sites/alpha/roster.json", "sites/beta/roster.json"]
    own = {"ca.pem", "server.pem", "issued.pem", "crl.pem", "consortium.toml", ".lock"}
    expected = {*PRIVATE, *sent, *rosters, *own}
    assert set(made.files()) == expected
    assert len({made.files()[name] for name in rosters}) == 1


def test_running_it_again_changes_nothing(made: ConsortiumFolder) -> None:
    before = {p: p.stat().st_mtime_ns for p in made.out.rglob("*") if p.is_file()}
    again = made.provision(now=NOW + timedelta(days=3))
    assert again.written == ()
    assert again.notices == ()
    assert again.roster.serial == 1
    assert {p: p.stat().st_mtime_ns for p in made.out.rglob("*") if p.is_file()} == before


def test_one_more_site_keeps_every_key_and_certificate(made: ConsortiumFolder) -> None:
    before, alpha = made.files(), made.keys["alpha"]
    made.add("gamma")
    again = made.provision(now=NOW + timedelta(days=3))
    for name in (*PRIVATE, "ca.pem", "server.pem"):
        assert made.files()[name] == before[name], name
    assert again.changes.added == ("gamma",)
    assert (again.roster.serial, again.roster.site("alpha")) == (2, alpha)


def test_private_keys_are_for_their_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    case = ConsortiumFolder(tmp_path, "alpha")
    mask = os.umask(0)
    try:
        case.provision()
    finally:
        os.umask(mask)
    for name in PRIVATE:
        assert stat.S_IMODE((case.out / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE((case.out / "private").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_key_that_others_can_read_is_not_used(made: ConsortiumFolder, name: str) -> None:
    (made.out / name).chmod(0o640)
    with pytest.raises((ProvisionError, SiteConfigError), match=r"found mode 0640.*chmod 600"):
        made.provision()


def test_what_is_sent_to_one_hospital_holds_nothing_private(made: ConsortiumFolder) -> None:
    secrets = [made.files()[name] for name in PRIVATE]
    bodies = [b"".join(secret.splitlines()[1:-1]) for secret in secrets]
    for name, content in made.files().items():
        if not name.startswith("private/"):
            assert b"PRIVATE" not in content, name
            flat = b"".join(content.splitlines())
            assert not any(body in flat for body in bodies), name


def test_the_roster_binds_keys_addresses_and_authority_to_the_coordinator(
    made: ConsortiumFolder,
) -> None:
    key = made.provision().roster.coordinator_key
    sent = made.out / "sites" / "alpha"
    roster = roster_from_bytes((sent / "roster.json").read_bytes(), coordinator_key=key)
    assert roster.sites == (made.keys["alpha"], made.keys["beta"])
    assert roster.addresses == ("localhost:9443",)
    authority = x509.load_pem_x509_certificate((sent / "ca.pem").read_bytes())
    assert roster.authority_sha256 == authority.fingerprint(SHA256()).hex()


@pytest.mark.parametrize("how", [{}, {"replace": ["beta"]}], ids=["unasked", "for another"])
def test_other_keys_of_a_known_site_are_refused_and_change_nothing(
    made: ConsortiumFolder, how: dict[str, Any]
) -> None:
    before, old = made.files(), made.keys["alpha"].fingerprints["node_key"]
    made.send_keys("alpha")
    made.add("gamma")
    new = made.keys["alpha"].fingerprints["node_key"]
    with pytest.raises(ProvisionError, match=f"'alpha'.*{old} → {new}.*--replace alpha"):
        made.provision(**how)
    assert made.files() == before


def test_other_keys_are_taken_where_replace_names_the_site(made: ConsortiumFolder) -> None:
    made.send_keys("alpha")
    again = made.provision(replace=["alpha"])
    assert again.changes.replaced == ("alpha",)
    assert (again.roster.serial, again.roster.site("alpha")) == (2, made.keys["alpha"])
    assert made.provision(replace=["alpha"]).written == ()


@pytest.mark.parametrize("name", ["alhpa", "gamma"])
def test_replace_of_a_site_that_was_not_known_is_refused(made: ConsortiumFolder, name: str) -> None:
    made.add("gamma")
    with pytest.raises(ProvisionError, match=f"found '{name}'.*alpha, beta"):
        made.provision(replace=[name])


def test_a_removed_site_is_not_in_the_roster_whose_serial_is_greater(
    made: ConsortiumFolder,
) -> None:
    made.remove("alpha")
    again = made.provision()
    assert again.changes.removed == ("alpha",)
    assert ([site.name for site in again.roster.sites], again.roster.serial) == (["beta"], 2)
    with pytest.raises(ProvisionError, match="'alpha' in roster 2"):
        again.roster.site("alpha")
    assert not (made.out / "sites" / "alpha").exists()


def test_files_of_others_in_the_folder_of_a_removed_site_stay(made: ConsortiumFolder) -> None:
    (made.out / "sites" / "alpha" / "letter.txt").write_text("mine", encoding="utf-8")
    made.remove("alpha")
    made.provision()
    assert [p.name for p in (made.out / "sites" / "alpha").iterdir()] == ["letter.txt"]


def test_a_site_that_comes_back_has_a_greater_serial_too(made: ConsortiumFolder) -> None:
    made.remove("alpha")
    made.provision()
    made.add("alpha")
    assert made.provision().roster.serial == 3


@pytest.mark.parametrize("lost", ["roster.json", "private/coordinator.pem", "ca.pem + key"])
def test_a_folder_that_lost_what_hospitals_trust_is_not_begun_anew(
    made: ConsortiumFolder, lost: str
) -> None:
    for name in ["ca.pem", "private/ca.key"] if lost == "ca.pem + key" else [lost]:
        (made.out / name).unlink()
    before = made.files()
    with pytest.raises(ProvisionError, match=r"found none.*[Rr]estore"):
        made.provision()
    assert made.files() == before


@pytest.mark.parametrize(
    ("old", "new"), [(b'"serial": 1', b'"serial": 7'), (b'"alpha"', b'"omega"'), (b"{", b"[")]
)
def test_a_changed_roster_is_not_gone_on_from(
    made: ConsortiumFolder, old: bytes, new: bytes
) -> None:
    path = made.out / "roster.json"
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(ProvisionError, match="changed or damaged"):
        made.provision()


def test_the_folder_of_another_consortium_is_refused(made: ConsortiumFolder) -> None:
    made.content["consortium"]["name"] = "south"
    made.save()
    with pytest.raises(ProvisionError, match="folder of 'south', found that of 'north'"):
        made.provision()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    case = ConsortiumFolder(tmp_path, "alpha")
    case.out.write_text("", encoding="utf-8")
    with pytest.raises(ProvisionError, match="Expected a folder as --out"):
        case.provision()


@pytest.mark.parametrize("stop", range(1, 14))
def test_a_run_that_was_cut_off_is_completed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    case = ConsortiumFolder(tmp_path, "alpha", "beta")
    real, calls = module.write_atomically, iter(range(1, 100))

    def write(*args: Any, **how: Any) -> None:
        if next(calls) == stop:
            raise OSError("cut off")
        real(*args, **how)

    monkeypatch.setattr(module, "write_atomically", write)
    with pytest.raises(OSError, match="cut off"):
        case.provision()
    keys = {name: (case.out / name).read_bytes() for name in PRIVATE}
    assert case.provision().roster.serial == 1
    assert {name: case.files()[name] for name in PRIVATE} == keys
    assert case.provision().written == ()


def test_a_new_host_makes_the_servers_certificate_again_with_its_key(
    made: ConsortiumFolder,
) -> None:
    before = made.files()
    made.content["coordinator"]["hosts"].append("fl.example.org")
    made.save()
    again = made.provision()
    assert "Made the server's certificate again" in again.notices[0]
    assert again.roster.addresses == ("localhost:9443", "fl.example.org:9443")
    for name in (*PRIVATE, "ca.pem"):
        assert made.files()[name] == before[name], name
    assert made.provision().written == ()


@pytest.mark.parametrize(
    ("days", "word"), [(336, "ends"), (366, "ended")], ids=["soon", "has ended"]
)
def test_a_certificate_that_ends_is_told_and_renewed_only_where_asked(
    made: ConsortiumFolder, days: int, word: str
) -> None:
    made.content["validity"] = {"site_days": 800}
    made.save()
    made.send_keys("alpha")
    made.send_keys("beta")
    made.provision(replace=["alpha", "beta"])
    before, later = made.files(), NOW + timedelta(days=days)
    told = made.provision(now=later)
    assert told.notices == (
        f"The server's certificate {word} on 2027-11-21: run again with --renew.",
    )
    assert made.files() == before
    again = made.provision(now=later, renew=True)
    assert "start the SuperLink again" in again.notices[0]
    assert [path.name for path in again.written] == ["server.pem"]
    assert made.provision(now=later, renew=True).written == ()


def test_renew_leaves_a_certificate_that_holds_long_enough(made: ConsortiumFolder) -> None:
    assert made.provision(now=NOW + timedelta(days=334), renew=True).written == ()


def test_a_renewed_authority_keeps_its_key_and_reaches_every_site(made: ConsortiumFolder) -> None:
    before, later = made.files(), NOW + 10 * YEARS
    assert len(made.provision(now=later).notices) == 3
    again = made.provision(now=later, renew=True)
    assert {name: made.files()[name] for name in PRIVATE} == {n: before[n] for n in PRIVATE}
    assert made.files()["sites/beta/ca.pem"] == made.files()["ca.pem"] != before["ca.pem"]
    assert again.roster.serial == 2
    assert "send every hospital its folder again" in again.notices[0]


def test_an_authority_that_has_ended_signs_nothing(made: ConsortiumFolder) -> None:
    made.content["coordinator"]["hosts"].append("fl.example.org")
    made.save()
    with pytest.raises(ProvisionError, match=r"ended on 2036-11-18.*--renew"):
        made.provision(now=NOW + 11 * YEARS)


def test_a_servers_certificate_never_outlives_its_authority(made: ConsortiumFolder) -> None:
    again = made.provision(now=NOW + timedelta(days=3600), renew=False)
    assert len(again.notices) == 2
    made.content["validity"] = {"server_days": 825}
    made.content["coordinator"]["hosts"].append("fl.example.org")
    made.save()
    made.provision(now=NOW + timedelta(days=3600))
    ca, server = (x509.load_pem_x509_certificate(made.files()[f]) for f in ("ca.pem", "server.pem"))
    assert server.not_valid_after_utc == ca.not_valid_after_utc


def test_the_authoritys_key_may_be_kept_elsewhere_while_nothing_is_signed(
    made: ConsortiumFolder,
) -> None:
    key = made.out / "private" / "ca.key"
    kept = key.rename(made.folder / "ca.key")
    made.content["coordinator"]["fleet_port"] = 443
    made.save()
    assert made.provision().roster.serial == 2
    made.content["coordinator"]["hosts"].append("fl.example.org")
    made.save()
    with pytest.raises(ProvisionError, match=r"authority's private key at .*Bring it back"):
        made.provision()
    kept.rename(key)
    assert made.provision().roster.serial == 3


@pytest.mark.parametrize("swapped", ["private/ca.key", "private/server.key", "ca.pem + key"])
def test_keys_and_certificates_that_do_not_belong_together_are_refused(
    made: ConsortiumFolder, tmp_path: Path, swapped: str
) -> None:
    (tmp_path / "other").mkdir()
    other = ConsortiumFolder(tmp_path / "other", "alpha")
    other.provision()
    for name in ["ca.pem", "private/ca.key"] if swapped == "ca.pem + key" else [swapped]:
        (made.out / name).write_bytes((other.out / name).read_bytes())
    before = made.files()
    with pytest.raises(ProvisionError, match=r"belong together|by this folder's authority"):
        made.provision()
    assert made.files() == before


@pytest.mark.parametrize("name", ["private/ca.key", "private/server.key", "ca.pem", "server.pem"])
def test_a_file_with_other_content_is_refused_and_never_quoted(
    made: ConsortiumFolder, name: str
) -> None:
    (made.out / name).write_bytes(b"CANARY")
    with pytest.raises(ProvisionError, match="found other content") as caught:
        made.provision()
    assert "CANARY" not in str(caught.value)


def test_the_shipped_defaults_are_ten_years_and_one() -> None:
    assert (Validity().ca_days, Validity().server_days) == (3650, 365)


def test_an_ipv6_address_is_written_as_one_dials_it(tmp_path: Path) -> None:
    case = ConsortiumFolder(tmp_path, "alpha")
    case.content["coordinator"]["hosts"] = ["2001:db8::1", "192.0.2.7"]
    case.save()
    addresses = load_consortium(case.file).coordinator.addresses
    assert addresses == ("[2001:db8::1]:9443", "192.0.2.7:9443")


def test_the_command_tells_fingerprints_and_where_the_files_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = ConsortiumFolder(tmp_path, "alpha")
    provision(case.file, case.out)
    out = capsys.readouterr().out
    assert case.keys["alpha"].fingerprints["node_key"] in out
    assert f"wardround server up {case.out}" in out
    assert "PRIVATE" not in out
    provision(case.file, case.out)
    assert "nothing was changed" in capsys.readouterr().out
