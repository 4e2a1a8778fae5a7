"""Signatures: one form of bytes, one purpose each, a key file that nobody else can read."""

import hashlib
import math
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from common.errors import MessageError, SiteConfigError
from common.receipts import Receipt
from common.signing import (
    Purpose,
    SigningKey,
    canonical_bytes,
    countersign,
    digest_of,
    is_countersigned,
    sign_head,
    verify,
)

HEAD = Purpose.LEDGER_HEAD
scalars = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
payloads = st.dictionaries(
    st.text(),
    st.recursive(
        scalars.filter(lambda v: not (isinstance(v, float) and math.isinf(v))),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    ),
)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def receipt_of(key: SigningKey, seq: int = 3, digest: str = "ab" * 32) -> Receipt:
    return Receipt(
        seq=seq, digest=digest, key=key.public_key, signature=sign_head(seq, digest, key)
    )


@given(payloads)
def test_what_a_key_signs_its_public_key_verifies(payload: dict[str, Any]) -> None:
    key = SigningKey.generate()
    signature = key.sign(payload, purpose=HEAD)
    assert verify(key.public_key, payload, signature, purpose=HEAD)
    assert not verify(SigningKey.generate().public_key, payload, signature, purpose=HEAD)
    changed = payload | {"one key more": 1}
    assert not verify(key.public_key, changed, signature, purpose=HEAD)


def test_keys_and_signatures_are_those_of_the_standard() -> None:
    # The private key of RFC 8032, section 7.1, test 1, and its public key as stated there.
    private = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    own = Ed25519PrivateKey.from_private_bytes(private)
    key = SigningKey(own)
    assert key.public_key == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    expected = own.sign(b'wardround/ledger-head\n{"digest":"ab","seq":1}').hex()
    assert key.sign({"seq": 1, "digest": "ab"}, purpose=HEAD) == expected


@pytest.mark.threat("C-3")
@pytest.mark.parametrize("other", [p for p in Purpose if p is not HEAD])
def test_a_signature_for_one_purpose_is_none_for_another(other: Purpose) -> None:
    key = SigningKey.generate()
    signature = key.sign({"seq": 1}, purpose=HEAD)
    assert not verify(key.public_key, {"seq": 1}, signature, purpose=other)
    assert digest_of({"seq": 1}, purpose=HEAD) != digest_of({"seq": 1}, purpose=other)
    assert key.secret(HEAD) != key.secret(other)


def test_a_digest_is_sha_256_of_the_canonical_bytes() -> None:
    bytes_of = canonical_bytes({"seq": 1}, purpose=HEAD)
    assert digest_of({"seq": 1}, purpose=HEAD) == hashlib.sha256(bytes_of).hexdigest()


@given(payloads)
def test_a_signature_does_not_depend_on_the_order_of_keys_in_the_payload(
    payload: dict[str, Any],
) -> None:
    turned = dict(reversed(payload.items()))
    assert canonical_bytes(payload, purpose=HEAD) == canonical_bytes(turned, purpose=HEAD)


@given(payloads, payloads)
def test_different_payloads_have_different_bytes(one: dict[str, Any], two: dict[str, Any]) -> None:
    is_same = repr(_sorted(one)) == repr(_sorted(two))
    assert is_same == (canonical_bytes(one, purpose=HEAD) == canonical_bytes(two, purpose=HEAD))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "payload",
    [
        {"x": math.nan},
        {"x": [math.inf]},
        {1: "a number as a key"},
        {"x": {None: 1}},
        {"x": [{True: 1}]},
        {"x": b"bytes"},
        {"x": {1, 2}},
    ],
)
def test_what_has_no_one_form_in_json_is_not_signed(payload: dict[Any, Any]) -> None:
    key = SigningKey.generate()
    with pytest.raises(ValueError, match=r"expected|JSON"):
        key.sign(payload, purpose=HEAD)
    assert not verify(key.public_key, payload, "00" * 64, purpose=HEAD)


def test_a_payload_that_is_too_deep_is_not_signed() -> None:
    payload: dict[str, Any] = {}
    for _ in range(100_000):
        payload = {"x": payload}
    assert not verify(SigningKey.generate().public_key, payload, "00" * 64, purpose=HEAD)


@pytest.mark.parametrize("change", ["upper", "short", "long", "space", "word", "flip", "empty"])
def test_a_signature_in_any_other_form_is_none(change: str) -> None:
    key = SigningKey.generate()
    good = key.sign({"a": 1}, purpose=HEAD)
    bad = {
        "upper": "A" + good[1:].upper(),
        "short": good[:-2],
        "long": good + "00",
        "space": good[:2] + " " + good[3:],
        "word": "signature",
        "flip": good[:-1] + ("0" if good[-1] != "0" else "1"),
        "empty": "",
    }[change]
    assert not verify(key.public_key, {"a": 1}, bad, purpose=HEAD)
    assert not verify(key.public_key.upper() + "g", {"a": 1}, good, purpose=HEAD)


def test_a_key_file_is_loaded_as_the_key_that_was_created(tmp_path: Path) -> None:
    path = tmp_path / "state" / "keys" / "site.pem"
    created = SigningKey.create(path)
    assert SigningKey.load(path).public_key == created.public_key
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert SigningKey.load(path).secret(HEAD) == created.secret(HEAD)


def test_a_key_is_created_where_there_is_none_and_loaded_where_there_is_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "keys" / "site.pem"
    created = SigningKey.load_or_create(path)
    assert SigningKey.load_or_create(path).public_key == created.public_key
    path.chmod(0o644)
    with pytest.raises(SiteConfigError, match="found mode 0644"):
        SigningKey.load_or_create(path)


def test_a_key_file_is_whole_or_absent_and_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "site.pem"
    SigningKey.create(path)
    before = path.read_bytes()
    with pytest.raises(SiteConfigError, match="Expected no key"):
        SigningKey.create(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_that_the_disk_did_not_take_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        SigningKey.create(tmp_path / "site.pem")
    assert list(tmp_path.iterdir()) == []


def test_nobody_else_can_read_a_key_file(tmp_path: Path) -> None:
    with umask(0):
        SigningKey.create(tmp_path / "site.pem")
    assert stat.S_IMODE((tmp_path / "site.pem").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o601, 0o644, 0o666])
def test_a_key_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "site.pem"
    SigningKey.create(path)
    path.chmod(mode)
    with pytest.raises(SiteConfigError, match=f"found mode {mode:04o}.*chmod 600"):
        SigningKey.load(path)


@pytest.mark.parametrize("content", ["empty", "words", "another kind", "password", "torn"])
def test_a_file_that_holds_no_key_says_so(tmp_path: Path, content: str) -> None:
    pem, pkcs8 = Encoding.PEM, PrivateFormat.PKCS8
    own = Ed25519PrivateKey.generate()
    files = {
        "empty": b"",
        "words": b"-----BEGIN PRIVATE KEY-----\nwords\n-----END PRIVATE KEY-----\n",
        "another kind": generate_private_key(SECP256R1()).private_bytes(pem, pkcs8, NoEncryption()),
        "password": own.private_bytes(pem, pkcs8, BestAvailableEncryption(b"secret")),
        "torn": own.private_bytes(pem, pkcs8, NoEncryption())[:60],
    }
    path = tmp_path / "site.pem"
    path.write_bytes(files[content])
    path.chmod(0o600)
    with pytest.raises(SiteConfigError, match="Expected an Ed25519 key"):
        SigningKey.load(path)


def test_a_key_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SiteConfigError, match="Expected a readable key"):
        SigningKey.load(tmp_path / "site.pem")


def test_the_private_key_is_in_no_text() -> None:
    key = SigningKey.generate()
    secret = key._private.private_bytes_raw().hex()
    assert key.public_key in repr(key)
    assert secret not in f"{key!r} {key!s} {vars(key)}"


def test_a_receipt_is_countersigned_by_both_sides() -> None:
    site, coordinator = SigningKey.generate(), SigningKey.generate()
    both = countersign(receipt_of(site), coordinator, site_key=site.public_key)
    assert (both.seq, both.digest, both.key) == (3, "ab" * 32, coordinator.public_key)
    assert is_countersigned(both, site_key=site.public_key)
    assert not is_countersigned(both, site_key=coordinator.public_key)


@pytest.mark.parametrize("field", ["seq", "digest", "site_signature", "key", "signature"])
def test_a_countersigned_head_with_one_changed_field_is_none(field: str) -> None:
    site, coordinator = SigningKey.generate(), SigningKey.generate()
    both = countersign(receipt_of(site), coordinator, site_key=site.public_key)
    other = countersign(
        receipt_of(site, 4, "cd" * 32), SigningKey.generate(), site_key=site.public_key
    )
    changed = replace(both, **{field: getattr(other, field)})
    assert not is_countersigned(changed, site_key=site.public_key)


def test_a_receipt_of_someone_else_is_not_countersigned() -> None:
    site, other = SigningKey.generate(), SigningKey.generate()
    forged = Receipt(
        seq=3, digest="ab" * 32, key=site.public_key, signature=sign_head(3, "ab" * 32, other)
    )
    for receipt in (forged, receipt_of(other)):
        with pytest.raises(MessageError, match="the site has signed"):
            countersign(receipt, other, site_key=site.public_key)


@pytest.mark.threat("I-2")
@pytest.mark.parametrize(("seq", "digest"), [(2, "ab" * 32), (3, "cd" * 32)])
def test_a_receipt_behind_the_last_countersigned_one_is_not_countersigned(
    seq: int, digest: str
) -> None:
    site, coordinator = SigningKey.generate(), SigningKey.generate()
    last = countersign(receipt_of(site), coordinator, site_key=site.public_key)
    with pytest.raises(MessageError, match="Expected a ledger of at least 4 entries"):
        countersign(receipt_of(site, seq, digest), coordinator, site_key=site.public_key, last=last)
    again = countersign(receipt_of(site), coordinator, site_key=site.public_key, last=last)
    assert again == last


def test_signing_and_the_ledger_import_neither_torch_nor_flower() -> None:
    program = (
        "import sys, client.ledger.ledger, client.ledger.view, client.ledger_view\n"
        "print([m for m in ('torch', 'flwr', 'opacus', 'pandas') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
