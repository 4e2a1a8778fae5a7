"""Client certificates: over each hospital's own node key, until it takes part no more."""

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import ProvisionError
from common.site_keys import node_key_line
from server.provision.authority import is_issued_by
from tests.unit.provision_cases import NOW, ConsortiumFolder


@pytest.fixture
def made(tmp_path: Path) -> ConsortiumFolder:
    case = ConsortiumFolder(tmp_path, "alpha", "beta")
    case.provision()
    return case


def _client(case: ConsortiumFolder, name: str) -> x509.Certificate:
    content = (case.out / "sites" / name / "client.pem").read_bytes()
    return x509.load_pem_x509_certificate(content)


def _list(case: ConsortiumFolder) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl((case.out / "crl.pem").read_bytes())


def _revoked(case: ConsortiumFolder) -> set[int]:
    return {entry.serial_number for entry in _list(case)}


def test_each_site_has_a_certificate_over_its_own_node_key_and_name(
    made: ConsortiumFolder,
) -> None:
    ca = x509.load_pem_x509_certificate((made.out / "ca.pem").read_bytes())
    for name, keys in made.keys.items():
        client = _client(made, name)
        key = client.public_key()
        assert isinstance(key, EllipticCurvePublicKey)
        assert node_key_line(key) == keys.node_key
        assert [n.value for n in client.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == [
            name
        ]
        assert is_issued_by(client, ca)
        assert client.not_valid_after_utc == NOW + timedelta(days=365)


def test_a_client_certificate_is_for_clients_alone_and_signs_no_other(
    made: ConsortiumFolder,
) -> None:
    extensions = _client(made, "alpha").extensions
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_nobody_is_revoked_at_first_and_the_list_is_the_authoritys(made: ConsortiumFolder) -> None:
    ca = x509.load_pem_x509_certificate((made.out / "ca.pem").read_bytes())
    assert _revoked(made) == set()
    assert _list(made).is_signature_valid(ca.public_key())  # type: ignore[arg-type]
    # A proxy refuses everybody by a list that has ended.
    assert _list(made).next_update_utc == ca.not_valid_after_utc


def test_a_removed_sites_certificates_are_revoked_and_nobody_elses(made: ConsortiumFolder) -> None:
    gone = _client(made, "alpha")
    made.remove("alpha")
    made.provision()
    assert _revoked(made) == {gone.serial_number}
    assert made.provision().written == ()


def test_a_certificate_from_before_a_renewal_is_revoked_with_its_site(
    made: ConsortiumFolder,
) -> None:
    former, later = _client(made, "alpha"), NOW + timedelta(days=340)
    again = made.provision(now=later, renew=True)
    assert "Client certificates of alpha, beta made again: send" in " ".join(again.notices)
    assert _revoked(made) == set()  # hospitals go on with the former until the folder arrives
    renewed = _client(made, "alpha")
    assert renewed.serial_number != former.serial_number
    made.remove("alpha")
    made.provision(now=later)
    assert _revoked(made) == {former.serial_number, renewed.serial_number}


def test_new_keys_of_a_site_revoke_the_certificate_over_the_old_one(
    made: ConsortiumFolder,
) -> None:
    former = _client(made, "alpha")
    made.send_keys("alpha")
    made.provision(replace=["alpha"])
    assert _revoked(made) == {former.serial_number}
    assert _client(made, "alpha").public_key() != former.public_key()


def test_a_site_that_comes_back_with_its_key_has_another_certificate(
    made: ConsortiumFolder,
) -> None:
    former, text = _client(made, "alpha"), (made.folder / "alpha.toml").read_text(encoding="utf-8")
    made.remove("alpha")
    made.provision()
    made.add("alpha")
    (made.folder / "alpha.toml").write_text(text, encoding="utf-8")
    made.provision()
    assert _client(made, "alpha").serial_number not in _revoked(made) == {former.serial_number}


def test_the_lists_number_grows_and_dates_of_revocation_stay(made: ConsortiumFolder) -> None:
    for day, name in enumerate(["alpha", "beta"], start=1):
        made.add(f"site{day}")
        made.remove(name)
        made.provision(now=NOW + timedelta(days=day))
    number = _list(made).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    days = sorted((entry.revocation_date_utc - NOW).days for entry in _list(made))
    assert (number, days) == (3, [1, 2])


@pytest.mark.parametrize(("days", "word"), [(336, "end soon"), (366, "have ended")])
def test_certificates_that_end_are_told_of_in_one_sentence(
    made: ConsortiumFolder, days: int, word: str
) -> None:
    before = made.files()
    told = [n for n in made.provision(now=NOW + timedelta(days=days)).notices if "Client" in n]
    assert len(told) == 1
    assert word in told[0]
    assert "alpha, beta" in told[0]
    assert "--renew" in told[0]
    assert made.files() == before


def test_days_are_as_the_consortium_says_and_at_most_the_authoritys(tmp_path: Path) -> None:
    case = ConsortiumFolder(tmp_path, "alpha")
    case.content["validity"] = {"site_days": 30}
    case.save()
    case.provision()
    assert _client(case, "alpha").not_valid_after_utc == NOW + timedelta(days=30)
    case.add("beta")
    case.provision(now=NOW + timedelta(days=3640))
    ca = x509.load_pem_x509_certificate((case.out / "ca.pem").read_bytes())
    assert _client(case, "beta").not_valid_after_utc == ca.not_valid_after_utc


def test_a_folder_from_before_client_certificates_gets_them(made: ConsortiumFolder) -> None:
    for path in [*made.out.rglob("client.pem"), made.out / "issued.pem", made.out / "crl.pem"]:
        path.unlink()
    again = made.provision()
    assert again.roster.serial == 1
    assert _client(made, "beta").public_key() != _client(made, "alpha").public_key()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("issued.pem", None),
        ("issued.pem", b"-----BEGIN CERTIFICATE-----\n"),
        ("crl.pem", b"words"),
        ("crl.pem", "another authority's"),
    ],
)
def test_a_lost_or_damaged_record_of_what_was_issued_is_not_begun_anew(
    made: ConsortiumFolder, tmp_path: Path, name: str, content: bytes | str | None
) -> None:
    path = made.out / name
    if content is None:
        path.unlink()
    elif isinstance(content, str):
        (tmp_path / "other").mkdir()
        other = ConsortiumFolder(tmp_path / "other", "alpha")
        other.provision()
        path.write_bytes((other.out / name).read_bytes())
    else:
        path.write_bytes(content)
    before = made.files()
    with pytest.raises(ProvisionError, match=r"Restore it from a backup"):
        made.provision()
    assert made.files() == before


@pytest.mark.parametrize("change", ["add", "remove"])
def test_certificates_and_revocations_need_the_authoritys_key(
    made: ConsortiumFolder, change: str
) -> None:
    (made.out / "private" / "ca.key").rename(made.folder / "ca.key")
    made.add("gamma") if change == "add" else made.remove("alpha")
    before = made.files()
    with pytest.raises(ProvisionError, match=r"Bring private/ca.key back"):
        made.provision()
    assert made.files() == before


def test_an_authority_that_has_ended_issues_and_revokes_nothing(made: ConsortiumFolder) -> None:
    made.remove("alpha")
    with pytest.raises(ProvisionError, match=r"ended on 2036-11-18.*--renew"):
        made.provision(now=NOW + timedelta(days=3660))
