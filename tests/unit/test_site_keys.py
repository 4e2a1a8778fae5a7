"""A hospital's own keys: never written over, never sent, and such as Flower reads."""

import os
import shutil
import stat
import subprocess
import sys
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

import client.site_keys as module
from client.cli_keys import site_keys
from client.site_keys import load_node_key, make_site_keys, node_key_path
from common.errors import SiteConfigError
from common.signing import SigningKey
from common.site_keys import node_key_line, read_public_key_file

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def site_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "alpha"
    folder.mkdir()
    (folder / "site.toml").write_text(
        '[site]\nname = "alpha"\ndataset_id = "d"\nstate_dir = "../state"\n'
        "[policy]\nallow_without_privacy = true\n",
        encoding="utf-8",
    )
    return folder


def _private(site_dir: Path) -> dict[str, bytes]:
    folder = site_dir.parent / "state" / "keys"
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_keys_are_made_where_there_are_none(site_dir: Path) -> None:
    made = make_site_keys(site_dir, now=NOW)
    assert made.is_new
    assert set(_private(site_dir)) == {"site.pem", "node.key"}
    state = site_dir.parent / "state"
    assert made.keys.signing_key == SigningKey.load(state / "keys" / "site.pem").public_key
    assert made.keys.node_key == node_key_line(load_node_key(state).public_key())


def test_keys_that_are_there_stay_as_they_are(site_dir: Path) -> None:
    first = make_site_keys(site_dir, now=NOW)
    before, text = _private(site_dir), first.public_file.read_bytes()
    first.public_file.unlink()
    again = make_site_keys(site_dir, now=NOW)
    assert not again.is_new
    assert _private(site_dir) == before
    assert again.public_file.read_bytes() == text


def test_a_signing_key_from_before_is_used(site_dir: Path) -> None:
    key = SigningKey.create(site_dir.parent / "state" / "keys" / "site.pem")
    assert make_site_keys(site_dir, now=NOW).keys.signing_key == key.public_key


def test_private_keys_are_for_their_owner_alone_whatever_the_umask(site_dir: Path) -> None:
    mask = os.umask(0)
    try:
        made = make_site_keys(site_dir, now=NOW)
        make_site_keys(site_dir, now=NOW, rotate=True)
    finally:
        os.umask(mask)
    files = [path for path in made.private_folder.iterdir() if path.name != ".lock"]
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE(made.private_folder.stat().st_mode) == 0o700


def test_the_public_file_holds_nothing_private_and_lies_outside_of_the_private_folder(
    site_dir: Path,
) -> None:
    made = make_site_keys(site_dir, now=NOW)
    assert made.private_folder not in made.public_file.parents
    text = made.public_file.read_text(encoding="utf-8")
    assert "PRIVATE" not in text
    for content in _private(site_dir).values():
        lines = content.decode().splitlines()[1:-1]
        assert not any(line in text for line in lines)
    # OpenSSH's private form starts with the public key, so whole lines are not enough.
    secret = load_node_key(site_dir.parent / "state").private_numbers().private_value
    assert f"{secret:x}" not in text


def test_the_public_file_is_what_the_coordinator_reads(site_dir: Path) -> None:
    made = make_site_keys(site_dir, now=NOW)
    assert read_public_key_file(made.public_file) == made.keys
    text = made.public_file.read_text(encoding="utf-8")
    assert all(print_ in text for print_ in made.keys.fingerprints.values())


def test_rotate_makes_a_new_node_key_and_keeps_the_old_one_with_its_date(site_dir: Path) -> None:
    first = make_site_keys(site_dir, now=NOW)
    before = _private(site_dir)
    again = make_site_keys(site_dir, now=NOW, rotate=True)
    after = _private(site_dir)
    assert after["node.until-2026-11-21T120000Z.key"] == before["node.key"] != after["node.key"]
    assert set(after) == {"site.pem", "node.key", "node.until-2026-11-21T120000Z.key"}
    assert after["site.pem"] == before["site.pem"]
    assert again.keys.signing_key == first.keys.signing_key
    assert again.keys.node_key != first.keys.node_key
    assert read_public_key_file(again.public_file) == again.keys


def test_rotating_twice_within_a_second_writes_over_nothing(site_dir: Path) -> None:
    make_site_keys(site_dir, now=NOW)
    make_site_keys(site_dir, now=NOW, rotate=True)
    before = _private(site_dir)
    with pytest.raises(SiteConfigError, match="within this second"):
        make_site_keys(site_dir, now=NOW, rotate=True)
    assert _private(site_dir) == before


def test_rotating_where_there_is_no_node_key_is_refused(site_dir: Path) -> None:
    with pytest.raises(SiteConfigError, match="Expected a node key to rotate"):
        make_site_keys(site_dir, now=NOW, rotate=True)
    assert _private(site_dir) == {}


@pytest.mark.parametrize("step", ["hardlink_to", "replace"])
def test_a_rotation_that_is_cut_off_leaves_the_old_key_in_use(
    site_dir: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    make_site_keys(site_dir, now=NOW)
    before = _private(site_dir)["node.key"]
    real = getattr(Path, step)

    def cut_off(self: Path, other: Path) -> object:
        # hardlink_to is of the kept name; the same for the new key's file goes through.
        if "until" in self.name or (step == "replace" and self.name == ".node.key.coming"):
            raise OSError("cut off")
        return real(self, other)

    with monkeypatch.context() as patched:
        patched.setattr(Path, step, cut_off)
        with pytest.raises(OSError, match="cut off"):
            make_site_keys(site_dir, now=NOW, rotate=True)
    assert _private(site_dir)["node.key"] == before
    later = datetime(2026, 11, 22, tzinfo=UTC)
    make_site_keys(site_dir, now=later, rotate=True)
    assert _private(site_dir)["node.until-2026-11-22T000000Z.key"] == before
    assert ".node.key.coming" not in _private(site_dir)


def test_a_node_key_that_others_can_read_is_not_used(site_dir: Path) -> None:
    make_site_keys(site_dir, now=NOW)
    node_key_path(site_dir.parent / "state").chmod(0o640)
    with pytest.raises(SiteConfigError, match=r"found mode 0640.*chmod 600"):
        make_site_keys(site_dir, now=NOW)


@pytest.mark.parametrize("content", ["words", "another curve", "another form", "torn"])
def test_a_file_that_holds_no_node_key_is_refused_and_never_quoted(
    site_dir: Path, content: str
) -> None:
    state = site_dir.parent / "state"
    make_site_keys(site_dir, now=NOW)
    path = node_key_path(state)
    good, ssh, own = path.read_bytes(), PrivateFormat.OpenSSH, load_node_key(state)
    other = generate_private_key(SECP256R1())
    files = {
        "words": b"CANARY",
        "another curve": other.private_bytes(Encoding.PEM, ssh, NoEncryption()),
        "another form": own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "torn": good[:120],
    }
    path.write_bytes(files[content])
    with pytest.raises(SiteConfigError, match="Expected an ECDSA P-384 key") as caught:
        make_site_keys(site_dir, now=NOW)
    assert not any(line in str(caught.value) for line in files[content].decode().splitlines())
    assert path.read_bytes() == files[content]


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
@pytest.mark.parametrize("password", ["", "secret"])
def test_a_key_of_openssh_is_read_unless_it_has_a_password(tmp_path: Path, password: str) -> None:
    path = node_key_path(tmp_path)
    path.parent.mkdir()
    command = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", password, "-f", str(path)]
    subprocess.run(command, check=True)
    if not password:
        line = node_key_line(load_node_key(tmp_path).public_key())
        assert path.with_suffix(".key.pub").read_text(encoding="utf-8").startswith(line)
        return
    with pytest.raises(SiteConfigError, match="without a password"):
        load_node_key(tmp_path)


def test_a_node_key_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SiteConfigError, match="Expected a readable key"):
        load_node_key(tmp_path)


def test_flowers_supernode_reads_the_node_key(site_dir: Path) -> None:
    from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
    from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication

    made = make_site_keys(site_dir, now=NOW)
    path = str(node_key_path(site_dir.parent / "state"))
    read = _try_setup_client_authentication(
        Namespace(auth_supernode_private_key=path, auth_supernode_public_key=None)
    )
    assert read is not None
    # What the node sends, and what the SuperLink looks it up by.
    assert public_key_to_bytes(read[1]) == made.keys.node_key_pem()
    assert read[0].curve.name == generate_key_pairs()[0].curve.name


def test_flowers_registration_reads_the_public_node_key(site_dir: Path, tmp_path: Path) -> None:
    from flwr.cli.supernode.register import try_load_public_key

    made = make_site_keys(site_dir, now=NOW)
    path = tmp_path / "alpha.pub"
    path.write_text(made.keys.node_key, encoding="ascii")
    assert try_load_public_key(path) == made.keys.node_key_pem()


def test_the_command_shows_what_to_read_aloud_and_no_private_key(
    site_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site_keys(site_dir)
    out = capsys.readouterr().out
    keys = make_site_keys(site_dir, now=NOW).keys
    assert all(print_ in out for print_ in keys.fingerprints.values())
    assert "PRIVATE" not in out
    site_keys(site_dir)
    assert "nothing was changed" in capsys.readouterr().out
    site_keys(site_dir, rotate=True)
    assert "do not start it again before" in capsys.readouterr().out


def test_making_keys_loads_neither_torch_nor_flwr() -> None:
    code = f"import {module.__name__}, sys; print({{'torch', 'flwr'}} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    root = Path(module.__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "set()"
