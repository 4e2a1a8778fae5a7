"""Mutants of `CONSORTIUM.toml` and of what hospitals send: each is told in a clear sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from common.errors import ProvisionError
from common.signing import SigningKey
from common.site_keys import PublicKeyFile, SiteKeys, read_public_key_file
from tests.unit.provision_cases import ConsortiumFolder, new_keys

Content = dict[str, Any]


def _set(section: str, key: str, value: object) -> Callable[[Content], None]:
    return lambda content: content.setdefault(section, {}).update({key: value})


def _hosts(*hosts: object) -> Callable[[Content], None]:
    return _set("coordinator", "hosts", list(hosts))


def _site(**keys: object) -> Callable[[Content], None]:
    return lambda content: content["sites"][0].update(keys)


MUTANTS: dict[str, tuple[Callable[[Content], None], str]] = {
    "no consortium": (lambda c: c.pop("consortium"), r"consortium: required and missing"),
    "no coordinator": (lambda c: c.pop("coordinator"), r"coordinator: required and missing"),
    "no sites": (lambda c: c.pop("sites"), r"sites: required and missing"),
    "empty sites": (lambda c: c.update(sites=[]), r"sites: .*at least 1"),
    "name with spaces": (_set("consortium", "name", "North Sea"), r"consortium\.name: expected"),
    "unknown section": (lambda c: c.update(certs={}), r"certs: unknown key"),
    "unknown key": (_set("coordinator", "host", "a"), r"coordinator\.host: unknown key"),
    "no hosts": (_hosts(), r"coordinator: expected the name or address"),
    "scheme": (_hosts("https://a.org"), r"without scheme, port or wildcard, found 'https://a.org'"),
    "port": (_hosts("a.org:443"), r"without scheme, port or wildcard, found 'a.org:443'"),
    "wildcard": (_hosts("*.a.org"), r"without scheme, port or wildcard"),
    "capitals": (_hosts("A.org"), r"small letters"),
    "underscore": (_hosts("a_b.org"), r"expected a host name"),
    "umlaut": (_hosts("münchen.de"), r"expected a host name"),
    "empty host": (_hosts(""), r"expected a host name"),
    "dot at the end": (_hosts("a.org."), r"expected a host name"),
    "newline": (_hosts("a.org\n"), r"expected a host name"),
    "hyphen first": (_hosts("-a.org"), r"expected a host name"),
    "long label": (_hosts("a" * 64 + ".org"), r"expected a host name"),
    "long name": (_hosts(".".join(["a" * 60] * 5)), r"expected a host name"),
    "mistyped address": (_hosts("192.0.2.777"), r"expected a host name"),
    "listens on": (_hosts("0.0.0.0"), r"that hospitals can reach"),  # noqa: S104
    "listens on six": (_hosts("::"), r"that hospitals can reach"),
    "multicast": (_hosts("224.0.0.1"), r"that hospitals can reach"),
    "zone": (_hosts("fe80::1%eth0"), r"that hospitals can reach"),
    "long six": (_hosts("2001:DB8:0::1"), r"expected the usual form '2001:db8::1'"),
    "host twice": (_hosts("a.org", "a.org"), r"expected each host once, found 'a.org' twice"),
    "host number": (_hosts(7), r"coordinator\.hosts\.0"),
    "port 0": (_set("coordinator", "fleet_port", 0), r"fleet_port: expected.*found 0"),
    "port 65536": (_set("coordinator", "superlink_port", 65536), r"superlink_port: expected"),
    "port as text": (_set("coordinator", "fleet_port", "443"), r"fleet_port: expected"),
    "port true": (_set("coordinator", "fleet_port", True), r"fleet_port: expected"),
    "ca too short": (_set("validity", "ca_days", 29), r"validity\.ca_days: expected"),
    "ca too long": (_set("validity", "ca_days", 7301), r"validity\.ca_days: expected"),
    "server too short": (_set("validity", "server_days", 6), r"validity\.server_days: expected"),
    "server too long": (_set("validity", "server_days", 826), r"validity\.server_days: expected"),
    "server outlives": (_set("validity", "ca_days", 100), r"at most ca_days, found 365 and 100"),
    "site name": (_site(name="../alpha"), r"sites\.0\.name: expected"),
    "no file named": (lambda c: c["sites"][0].pop("public_keys"), r"public_keys: required"),
    "site twice": (lambda c: c["sites"].append(c["sites"][0]), r"found 'alpha' twice"),
    "file absent": (_site(public_keys="no.toml"), r"Expected a file at .*no.toml, found none"),
    "file a folder": (_site(public_keys="."), r"IsADirectoryError"),
    "file of another": (_site(public_keys="beta.toml"), r"of 'alpha', found those of 'beta'"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_of_the_file_is_told_in_a_clear_sentence(tmp_path: Path, mutant: str) -> None:
    case = ConsortiumFolder(tmp_path, "alpha", "beta")
    change, sentence = MUTANTS[mutant]
    change(case.content)
    case.save()
    with pytest.raises(ProvisionError, match=sentence) as caught:
        case.provision()
    text = str(caught.value)
    assert text.endswith(".")
    assert "pydantic" not in text
    assert not case.out.exists()


def test_every_fault_of_the_file_is_in_one_error(tmp_path: Path) -> None:
    case = ConsortiumFolder(tmp_path, "alpha")
    case.content["coordinator"].update(hosts=["*"], fleet_port=0)
    case.content["validity"] = {"ca_days": 1}
    case.save()
    with pytest.raises(ProvisionError, match="Found 3 faults"):
        case.provision()


@pytest.mark.parametrize("shared", ["signing_key", "node_key"])
def test_two_hospitals_with_one_key_are_refused(tmp_path: Path, shared: str) -> None:

    case = ConsortiumFolder(tmp_path, "alpha", "beta")
    one, one_signs = new_keys("alpha")
    two, two_signs = new_keys("beta")
    signs = one_signs if shared == "signing_key" else two_signs
    two = two.model_copy(update={shared: getattr(one, shared)})
    pairs: list[tuple[Any, SigningKey]] = [(one, one_signs), (two, signs)]
    for keys, signing in pairs:
        text = PublicKeyFile.of(keys, signing).text()
        (tmp_path / f"{keys.name}.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ProvisionError, match="one key at 'alpha' and 'beta'"):
        case.provision()


@pytest.mark.parametrize("field", ["name", "signing_key", "node_key", "signature"])
def test_a_sent_file_with_one_changed_field_is_refused(tmp_path: Path, field: str) -> None:
    ConsortiumFolder(tmp_path, "alpha", "beta")
    values: dict[str, dict[str, str]] = {}
    for name in ("alpha", "beta"):
        text = (tmp_path / f"{name}.toml").read_text(encoding="utf-8")
        values[name] = dict(line.split(" = ") for line in text.splitlines() if " = " in line)
    path = tmp_path / "alpha.toml"
    text = path.read_text(encoding="utf-8")
    text = text.replace(values["alpha"][field], values["beta"][field])
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ProvisionError, match="signed by the hospital's own signing key"):
        read_public_key_file(path)


@pytest.mark.parametrize(
    "node_key",
    [
        "",
        "ecdsa-sha2-nistp384 AAAA",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGm5OPzl1sZrYgpZXw4JDzfJrWRDrmSGJtpZXTZ7Bq3k",
        "{key} alpha@hospital",
        " {key}",
        "{key}\n{key}",
    ],
    ids=["empty", "torn", "another kind", "comment", "space", "two"],
)
def test_a_node_key_has_one_form(node_key: str) -> None:

    keys, _ = new_keys("alpha")
    line = node_key.replace("{key}", keys.node_key)
    with pytest.raises(ValidationError, match=r"expected|at most 400"):
        SiteKeys(name="alpha", signing_key=keys.signing_key, node_key=line)


def test_a_private_key_that_was_sent_is_named_as_such_and_never_quoted(tmp_path: Path) -> None:

    case = ConsortiumFolder(tmp_path, "alpha")
    SigningKey.create(tmp_path / "keys" / "site.pem")
    body = (tmp_path / "keys" / "site.pem").read_text(encoding="utf-8")
    (tmp_path / "alpha.toml").write_text(body, encoding="utf-8")
    with pytest.raises(ProvisionError, match=r"PRIVATE key.*make new keys") as caught:
        case.provision()
    assert body.splitlines()[1] not in str(caught.value)


def test_a_file_that_is_far_too_long_is_not_read(tmp_path: Path) -> None:
    case = ConsortiumFolder(tmp_path, "alpha")
    (tmp_path / "alpha.toml").write_text("#" * 20_000, encoding="utf-8")
    with pytest.raises(ProvisionError, match="at most 16384 bytes"):
        case.provision()
