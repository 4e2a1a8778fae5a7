"""What a hospital takes from its coordinator: signed, its own, and never older than what it saw."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import client.roster as module
from client.cli_keys import site_join
from client.roster import accept_roster, accepted_roster, coordinator_key_of, join_consortium
from client.site_keys import make_site_keys
from common.errors import ProvisionError
from common.roster import Roster, roster_from_bytes, roster_to_bytes
from common.signing import Purpose, SigningKey
from common.site_keys import fingerprint
from server.provision.provisioning import provision
from tests.unit.provision_cases import NOW, ConsortiumFolder, new_keys

KEY = SigningKey.generate()
ALPHA, BETA = new_keys("alpha")[0], new_keys("beta")[0]


def roster(serial: int = 1, *, key: SigningKey = KEY, **changed: Any) -> bytes:
    content: dict[str, Any] = {
        "consortium": "north",
        "serial": serial,
        "issued_at": NOW,
        "coordinator_key": key.public_key,
        "authority_sha256": "ab" * 32,
        "addresses": ("localhost:9443",),
        "sites": (ALPHA, BETA),
    }
    return roster_to_bytes(Roster(**(content | changed)), key)


def _signed(payload: object, *, key: SigningKey = KEY) -> bytes:
    assert isinstance(payload, dict)
    signature = key.sign(payload, purpose=Purpose.ROSTER)
    return json.dumps({"roster": payload, "signature": signature}).encode()


def _payload() -> dict[str, Any]:
    payload = json.loads(roster())["roster"]
    assert isinstance(payload, dict)
    return payload


def test_an_accepted_roster_is_on_disk(tmp_path: Path) -> None:
    assert accepted_roster(tmp_path, KEY.public_key) is None
    accepted = accept_roster(tmp_path, roster(3), KEY.public_key)
    assert accepted_roster(tmp_path, KEY.public_key) == accepted
    assert accepted.site("beta") == BETA


@pytest.mark.threat("K-1")
def test_a_later_roster_is_accepted_and_an_older_one_refused(tmp_path: Path) -> None:
    accept_roster(tmp_path, roster(3), KEY.public_key)
    accept_roster(tmp_path, roster(9, sites=(BETA,)), KEY.public_key)
    with pytest.raises(ProvisionError, match="Expected roster 9 or a later one, found 3"):
        accept_roster(tmp_path, roster(3), KEY.public_key)
    seen = accepted_roster(tmp_path, KEY.public_key)
    assert seen is not None
    assert (seen.serial, seen.sites) == (9, (BETA,))


def test_the_same_roster_again_changes_nothing(tmp_path: Path) -> None:
    accept_roster(tmp_path, roster(3), KEY.public_key)
    before = (tmp_path / "roster.json").stat().st_mtime_ns
    accept_roster(tmp_path, roster(3), KEY.public_key)
    assert (tmp_path / "roster.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "changed",
    [{"sites": (ALPHA,)}, {"issued_at": NOW + timedelta(seconds=1)}, {"addresses": ("a:1",)}],
    ids=["sites", "date", "addresses"],
)
def test_two_rosters_with_one_serial_are_never_both_accepted(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    accept_roster(tmp_path, roster(3), KEY.public_key)
    with pytest.raises(ProvisionError, match="Expected one roster 3, found a second one"):
        accept_roster(tmp_path, roster(3, **changed), KEY.public_key)


def test_a_roster_of_another_consortium_is_refused(tmp_path: Path) -> None:
    accept_roster(tmp_path, roster(3), KEY.public_key)
    with pytest.raises(ProvisionError, match="roster of 'north', found one of 'south'"):
        accept_roster(tmp_path, roster(4, consortium="south"), KEY.public_key)


def test_a_roster_of_another_coordinator_is_refused(tmp_path: Path) -> None:
    accept_roster(tmp_path, roster(3), KEY.public_key)
    other = SigningKey.generate()
    with pytest.raises(ProvisionError, match="found another signature"):
        accept_roster(tmp_path, roster(4, key=other), KEY.public_key)
    with pytest.raises(ProvisionError, match="by the same coordinator"):
        accept_roster(tmp_path, roster(4, key=other), other.public_key)


@pytest.mark.parametrize("damage", [b"", b"{}", b"\x00" * 9])
def test_a_site_that_lost_what_it_saw_accepts_nothing(tmp_path: Path, damage: bytes) -> None:
    accept_roster(tmp_path, roster(3), KEY.public_key)
    (tmp_path / "roster.json").write_bytes(damage)
    with pytest.raises(ProvisionError, match="could be set back"):
        accept_roster(tmp_path, roster(4), KEY.public_key)


def test_a_roster_that_the_disk_did_not_take_is_not_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept_roster(tmp_path, roster(3), KEY.public_key)

    def full(*args: object, **how: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(OSError, match="disk full"):
        accept_roster(tmp_path, roster(4), KEY.public_key)
    seen = accepted_roster(tmp_path, KEY.public_key)
    assert seen is not None
    assert seen.serial == 3


@pytest.mark.threat("C-3")
@pytest.mark.parametrize("position", range(0, 2000, 61))
def test_a_changed_byte_is_seen(position: int) -> None:
    good = roster()
    changed = bytearray(good)
    changed[position % len(good)] ^= 1
    try:
        same = roster_from_bytes(bytes(changed), coordinator_key=KEY.public_key)
    except ProvisionError:
        return
    assert same == roster_from_bytes(good, coordinator_key=KEY.public_key)  # a space, at most


NOT_ROSTERS: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "words": lambda: b"words",
    "not utf-8": lambda: b"\xff\xfe\x00",
    "a list": lambda: b"[]",
    "a number": lambda: b"7",
    "a null": lambda: b"null",
    "deep": lambda: b"[" * 100_000,
    "no signature": lambda: json.dumps({"roster": _payload()}).encode(),
    "one key more": lambda: roster()[:-3] + b', "more": 1}\n',
    "signature a number": lambda: json.dumps({"roster": _payload(), "signature": 7}).encode(),
    "roster a list": lambda: json.dumps({"roster": [], "signature": "00" * 64}).encode(),
    "too long": lambda: roster() + b" " * 5_000_000,
}


@pytest.mark.parametrize("what", NOT_ROSTERS)
def test_what_is_no_signed_roster_is_one_error(what: str) -> None:
    with pytest.raises(ProvisionError, match="Expected a signed roster, found other content"):
        roster_from_bytes(NOT_ROSTERS[what](), coordinator_key=KEY.public_key)


SIGNED_BUT_WRONG: dict[str, Callable[[], dict[str, Any]]] = {
    "serial 0": lambda: _payload() | {"serial": 0},
    "serial a text": lambda: _payload() | {"serial": "2"},
    "serial true": lambda: _payload() | {"serial": True},
    "no zone": lambda: _payload() | {"issued_at": "2026-11-21T12:00:00"},
    "unknown key": lambda: _payload() | {"more": 1},
    "another version": lambda: _payload() | {"version": 2},
    "no address": lambda: _payload() | {"addresses": []},
    "a site twice": lambda: _payload() | {"sites": _payload()["sites"][:1] * 2},
    "another order": lambda: _payload() | {"sites": _payload()["sites"][::-1]},
    "a shared key": lambda: _payload() | {"sites": [_payload()["sites"][0], _twin()]},
    "the coordinator's key": lambda: _payload() | {"sites": [_as_coordinator()]},
}


def _twin() -> dict[str, Any]:
    return _payload()["sites"][1] | {"node_key": ALPHA.node_key}


def _as_coordinator() -> dict[str, Any]:
    return _payload()["sites"][1] | {"signing_key": KEY.public_key}


@pytest.mark.parametrize("what", SIGNED_BUT_WRONG)
def test_a_signed_roster_that_contradicts_itself_is_refused(what: str) -> None:
    with pytest.raises(ProvisionError, match="Found 1 fault in the roster"):
        roster_from_bytes(_signed(SIGNED_BUT_WRONG[what]()), coordinator_key=KEY.public_key)


def test_a_roster_names_its_signer_as_coordinator() -> None:
    other = SigningKey.generate()
    payload = _payload() | {"coordinator_key": other.public_key}
    with pytest.raises(ProvisionError, match="names its signer"):
        roster_from_bytes(_signed(payload), coordinator_key=KEY.public_key)
    with pytest.raises(ValueError, match="expected the key that the roster names"):
        roster_to_bytes(roster_from_bytes(roster(), coordinator_key=KEY.public_key), other)


def test_a_signature_for_another_purpose_is_none() -> None:
    payload = _payload()
    signature = KEY.sign(payload, purpose=Purpose.SITE_KEYS)
    content = json.dumps({"roster": payload, "signature": signature}).encode()
    with pytest.raises(ProvisionError, match="found another signature"):
        roster_from_bytes(content, coordinator_key=KEY.public_key)


class Hospital:
    """A site folder with its own keys, in a consortium, and the folder that it was sent."""

    def __init__(self, folder: Path) -> None:
        self.site_dir, self.state_dir = folder / "alpha", folder / "state"
        self.site_dir.mkdir()
        (self.site_dir / "site.toml").write_text(
            '[site]\nname = "alpha"\ndataset_id = "d"\nstate_dir = "../state"\n'
            "[policy]\nallow_without_privacy = true\n",
            encoding="utf-8",
        )
        self.case = ConsortiumFolder(folder, "alpha", "beta")
        self.send_keys()
        made = self.case.provision()
        self.heard = made.roster.coordinator_fingerprint
        self.sent = self.case.out / "sites" / "alpha"

    def send_keys(self, **how: Any) -> None:
        public = make_site_keys(self.site_dir, now=NOW, **how).public_file.read_bytes()
        (self.case.folder / "alpha.toml").write_bytes(public)


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


def test_a_hospital_joins_by_the_fingerprint_that_it_heard(hospital: Hospital) -> None:
    heard = hospital.heard.upper().replace(" ", "-")
    assert coordinator_key_of(hospital.state_dir) is None
    joined = join_consortium(hospital.site_dir, hospital.sent, heard=heard)
    assert coordinator_key_of(hospital.state_dir) == joined.coordinator_key
    sent = (hospital.sent / "ca.pem").read_bytes()
    assert (hospital.state_dir / "ca.pem").read_bytes() == sent


@pytest.mark.threat("N-1")
@pytest.mark.parametrize("heard", [None, "", "ba78 16bf", fingerprint(b"another")])
def test_the_first_roster_is_refused_without_the_right_fingerprint(
    hospital: Hospital, heard: str | None
) -> None:
    with pytest.raises(ProvisionError, match="Expected the fingerprint"):
        join_consortium(hospital.site_dir, hospital.sent, heard=heard)
    assert not (hospital.state_dir / "roster.json").exists()


def test_later_rosters_need_no_phone_call(hospital: Hospital) -> None:
    join_consortium(hospital.site_dir, hospital.sent, heard=hospital.heard)
    hospital.case.remove("beta")
    hospital.case.provision()
    assert join_consortium(hospital.site_dir, hospital.sent).serial == 2
    with pytest.raises(ProvisionError, match="found one that differs"):
        join_consortium(hospital.site_dir, hospital.sent, heard=fingerprint(b"another"))


def test_the_folder_of_another_coordinator_is_refused_later(
    hospital: Hospital, tmp_path: Path
) -> None:
    join_consortium(hospital.site_dir, hospital.sent, heard=hospital.heard)
    forged = provision(hospital.case.file, tmp_path / "forged", now=NOW)
    folder = forged.out / "sites" / "alpha"
    with pytest.raises(ProvisionError, match="found another signature"):
        join_consortium(hospital.site_dir, folder)
    with pytest.raises(ProvisionError, match="found one that differs"):
        join_consortium(hospital.site_dir, folder, heard=forged.roster.coordinator_fingerprint)


@pytest.mark.parametrize("content", ["another authority", "words"])
def test_a_certificate_that_the_roster_does_not_vouch_for_is_refused(
    hospital: Hospital, tmp_path: Path, content: str
) -> None:
    other = provision(hospital.case.file, tmp_path / "other", now=NOW)
    pem = b"words" if content == "words" else (other.out / "ca.pem").read_bytes()
    (hospital.sent / "ca.pem").write_bytes(pem)
    with pytest.raises(ProvisionError, match="certificate that the roster vouches for"):
        join_consortium(hospital.site_dir, hospital.sent, heard=hospital.heard)
    assert coordinator_key_of(hospital.state_dir) is None


def test_a_roster_with_other_keys_for_this_hospital_is_refused(hospital: Hospital) -> None:
    make_site_keys(hospital.site_dir, now=NOW, rotate=True)
    with pytest.raises(ProvisionError, match="this hospital's own keys in roster 1"):
        join_consortium(hospital.site_dir, hospital.sent, heard=hospital.heard)
    hospital.send_keys()
    hospital.case.provision(replace=["alpha"])
    assert join_consortium(hospital.site_dir, hospital.sent, heard=hospital.heard).serial == 2


def test_a_folder_that_is_not_there_says_so(hospital: Hospital, tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match=r"Expected a readable file at .*roster.json"):
        join_consortium(hospital.site_dir, tmp_path / "no", heard=hospital.heard)


def test_the_folder_that_is_sent_does_not_print_the_coordinators_fingerprint(
    hospital: Hospital,
) -> None:
    # Whoever can change the folder can change its text: the fingerprint comes by phone.
    text = (hospital.sent / "README.txt").read_text(encoding="utf-8")
    assert hospital.heard not in text
    own = make_site_keys(hospital.site_dir, now=NOW).keys
    assert all(print_ in text for print_ in own.fingerprints.values())


def test_the_command_tells_the_roster_and_the_server(
    hospital: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    site_join(hospital.site_dir, hospital.sent, fingerprint=hospital.heard)
    out = capsys.readouterr().out
    assert "roster 1 of north accepted, 2 sites" in out
    assert "server localhost:9443" in out
