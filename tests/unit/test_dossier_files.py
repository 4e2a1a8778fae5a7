"""A dossier as files: signed, found out when changed, and a page that is safe to open.

200 random edits; 2,000 under `WARDROUND_HYPOTHESIS=full`.
"""

import json
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from client.audit import audit_path
from client.cli_dossier import mount
from client.dossier.page import page_of
from client.dossier.signed import JSON_NAME, PAGE_NAME, read_dossier, verdict_on, write_dossier
from common.errors import SiteConfigError, WardroundError
from common.signing import Purpose, SigningKey
from common.site_keys import PublicKeyFile, fingerprint
from tests.unit.consortium import join
from tests.unit.dossier_cases import Hospital

NUM_EDITS = 2000 if os.environ.get("WARDROUND_HYPOTHESIS") == "full" else 200
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "\x1b[2J<script>alert(1)</script>\n\u202e[green]"

app = typer.Typer()
mount(app)


@app.callback()
def commands() -> None:
    """So that the command has its name, as in `wardround`."""


def wardround(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["dossier", *map(str, arguments)])
    if isinstance(result.exception, WardroundError):
        result.exit_code = 1
    elif not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    lived = Hospital(tmp_path / "hospital")
    lived.live()
    return lived


@pytest.fixture
def written(hospital: Hospital, tmp_path: Path) -> Path:
    path, _ = write_dossier(hospital.signed(), tmp_path / "out")
    return path


# Signed.


def test_a_dossier_is_signed_by_the_hospital_and_its_page_is_of_it(
    hospital: Hospital, written: Path
) -> None:
    verdict = verdict_on(written, hospital.key.public_key)
    assert verdict.is_good
    assert (verdict.site, verdict.page, verdict.faults) == ("alpha", "same", ())
    assert verdict.made_at == "2026-04-01T12:30:00+00:00"
    assert written.stat().st_mode & 0o077 == 0
    assert (written.parent / PAGE_NAME).stat().st_mode & 0o077 == 0


@pytest.mark.threat("I-2")
def test_one_changed_byte_is_found(hospital: Hospital, written: Path) -> None:
    content, source = written.read_bytes(), random.Random(7)
    for _ in range(NUM_EDITS):
        place = source.randrange(len(content))
        other = content[place] ^ (1 << source.randrange(8))
        written.write_bytes(content[:place] + bytes([other]) + content[place + 1 :])
        try:
            verdict = verdict_on(written, hospital.key.public_key)
        except SiteConfigError:
            continue
        assert not verdict.is_good, place
    # The same values in another form are another file.
    written.write_text(json.dumps(json.loads(content), indent=1))
    with pytest.raises(SiteConfigError, match="other content"):
        verdict_on(written, hospital.key.public_key)


def test_a_dossier_that_another_key_signed_is_found(hospital: Hospital, written: Path) -> None:
    other = SigningKey.generate()
    assert not verdict_on(written, other.public_key).is_signed
    forged = read_dossier(written)
    dossier = {**forged.dossier, "public_key": hospital.key.public_key}
    signature = other.sign(dossier, purpose=Purpose.DOSSIER)
    write_dossier(type(forged)(dossier=dossier, signature=signature), written.parent)
    assert not verdict_on(written, hospital.key.public_key).is_signed


def test_a_signature_of_something_else_is_none_for_a_dossier(
    hospital: Hospital, written: Path
) -> None:
    made = read_dossier(written)
    signature = hospital.key.sign(made.dossier, purpose=Purpose.AUDIT_LINE)
    write_dossier(type(made)(dossier=made.dossier, signature=signature), written.parent)
    assert not verdict_on(written, hospital.key.public_key).is_signed


def test_a_page_that_tells_something_else_is_found(hospital: Hospital, written: Path) -> None:
    page = written.parent / PAGE_NAME
    page.write_text(page.read_text().replace("Nothing was refused", "x").replace("refused 1", "0"))
    verdict = verdict_on(written, hospital.key.public_key)
    assert (verdict.is_signed, verdict.page, verdict.is_good) == (True, "other", False)
    page.unlink()
    assert verdict_on(written, hospital.key.public_key).page == "none"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"dossier":[],"signature":""}',
        b'{"dossier": {"format": 1, "public_key": 3}, "signature": null}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_what_is_no_dossier_is_told_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(SiteConfigError, match="Expected the JSON file of a dossier"):
        read_dossier(path)
    with pytest.raises(SiteConfigError, match="FileNotFoundError"):
        read_dossier(tmp_path / "none.json")


# The command.


def test_the_command_writes_both_files_and_verifies_them(
    hospital: Hospital, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    told = wardround(hospital.folder, "--out", out).output
    assert "readable by you alone; not sent" in told
    good = wardround(hospital.folder, "--verify", out / JSON_NAME).output
    assert "signed by hospital alpha" in good
    assert "the page beside it is the one of this dossier" in good


def test_whoever_has_the_public_file_or_heard_the_fingerprint_can_verify(
    hospital: Hospital, written: Path, tmp_path: Path
) -> None:
    path = tmp_path / "alpha-public-keys.toml"
    keys = join(hospital.folder)
    path.write_text(PublicKeyFile.of(keys, hospital.key).text())
    wardround("--verify", written, "--key", path)
    heard = fingerprint(bytes.fromhex(hospital.key.public_key))
    wardround("--verify", written, "--fingerprint", heard)
    other = fingerprint(bytes.fromhex(SigningKey.generate().public_key))
    told = wardround("--verify", written, "--fingerprint", other, code=1).output
    assert "NOT signed by the key of this fingerprint" in told
    # A fingerprint counts beside a file as well: whoever sent the dossier may have sent the file.
    wardround("--verify", written, "--key", path, "--fingerprint", heard)
    for trusted in (("--key", path), (hospital.folder,)):
        told = wardround("--verify", written, *trusted, "--fingerprint", other, code=1).output
        assert "NOT the one of this fingerprint" in told


def test_a_key_that_the_dossier_itself_names_is_not_believed(written: Path) -> None:
    assert "Expected whose key to trust" in wardround("--verify", written, code=1).output


def test_a_broken_chain_is_written_told_and_exits_with_1(
    hospital: Hospital, tmp_path: Path
) -> None:
    path = audit_path(hospital.state)
    path.write_bytes(path.read_bytes().replace(b'"round":1', b'"round":7'))
    told = wardround(hospital.folder, "--out", tmp_path / "out", code=1).output
    assert "fault: audit log: line " in told
    told = wardround(hospital.folder, "--verify", tmp_path / "out" / JSON_NAME, code=1).output
    assert "its books were not whole" in told


def test_json_is_the_file_itself(hospital: Hospital) -> None:
    result = wardround(hospital.folder, "--json")
    assert set(json.loads(result.stdout)) == {"dossier", "signature"}
    assert "expected SITE_DIR with --out" in wardround(hospital.folder, code=2).output


def test_a_simulated_hospital_has_its_dossier_by_the_runs_folder(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, simulated=True)
    hospital.live()
    out = tmp_path / "out"
    wardround(hospital.folder, "--run", hospital.run, "--out", out)
    assert json.loads((out / JSON_NAME).read_bytes())["dossier"]["is_simulation"] is True
    told = wardround(hospital.folder, "--run", hospital.run, "--verify", out / JSON_NAME).output
    assert "signed by simulated hospital alpha" in told


def test_an_unsigned_dossier_is_never_verified(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, simulated=True, has_key=False)
    hospital.update(0, None)
    out = tmp_path / "out"
    wardround(hospital.folder, "--run", hospital.run, "--out", out)
    for words in ((), (hospital.folder, "--run", hospital.run)):
        assert "NOT signed" in wardround(*words, "--verify", out / JSON_NAME, code=1).output


# The page.


def test_a_page_asks_nothing_of_anybody_and_has_every_section(hospital: Hospital) -> None:
    page = hospital.signed().page()
    for title in ("In short", "left, and to whom", "cost in privacy", "refused, and why"):
        assert f"{title}</h2>" in page
    assert "What an attack on one patient reaches at most" in page
    assert "it would have cost more privacy" in page
    assert not re.search(r"<script|https?://|<img|src=|@import", page)
    assert page.count("<svg") == page.count("Numbers of this chart")


def test_what_a_coordinator_wrote_is_shown_as_text_alone(hospital: Hospital) -> None:
    hospital.log(run_id=HOSTILE, study_hash=HOSTILE, metrics={HOSTILE: (1.0,)}, withheld=[HOSTILE])
    page = hospital.signed().page()
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "alert(1)" in page


def test_of_many_messages_the_page_shows_both_ends_and_tells_where_all_are(
    hospital: Hospital,
) -> None:
    dossier = hospital.dossier()
    run = dossier["runs"][0]
    run["messages"] = [run["messages"][0] | {"round": number} for number in range(1100)]
    page = page_of(dossier, None)
    assert "Each message: 1,100" in page
    assert "dossier.json has all of them" in page
    shown = [f"<td>{n}</td><td>training</td>" in page for n in (0, 499, 500, 599, 600, 1099)]
    assert shown == [True, True, False, False, True, True]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_the_page_without_a_word_of_complaint(
    written: Path, tmp_path: Path
) -> None:
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    words += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
    done = subprocess.run(
        [
            str(CHROMIUM),
            *words,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=360,900",
            f"--screenshot={tmp_path / 'page.png'}",
            (written.parent / PAGE_NAME).as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    assert "CONSOLE" not in done.stderr
    assert (tmp_path / "page.png").stat().st_size > 10_000
