"""Who may ask a hospital: its coordinator alone, for it alone, once. Every answer is signed."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from client import trust
from client.config import load_site_config
from client.site import Site
from client.trust import Joined
from common.envelope import is_reply_signed, sign_task
from common.errors import ProvisionError, RefusalCode, SiteConfigError
from common.messages import Task, TaskKind
from common.roster import roster_to_bytes
from common.signing import SigningKey
from common.study import Study
from common.study_file import override
from tests.unit.builders import task_of
from tests.unit.consortium import COORDINATOR, join, roster_of, signed
from tests.unit.private_site_cases import kinds, ledger_of

OTHER = SigningKey.generate()


def state_of(site: Site) -> Path:
    return load_site_config(site.folder).state_dir  # type: ignore[attr-defined]


def public_key_of(site: Site) -> str:
    return SigningKey.load(state_of(site) / "keys" / "site.pem").public_key


def statuses(site: Site, *tasks: Task) -> list[str]:
    return [site.answer(task).status for task in tasks]


# The door.


FORGED: dict[str, Callable[[Task], Task]] = {
    "no signature": lambda task: replace(task, signature=None),
    "nothing of a signature": lambda task: replace(task, signature="0" * 128),
    "another's signature": lambda task: sign_task(task, OTHER),
    "the signature of another round": lambda task: replace(task, round=1),
    "the signature of another study": lambda task: replace(task, study_hash="1" * 64),
    "the signature of other arrays": lambda task: replace(task, arrays=None),
    "the signature of another nonce": lambda task: replace(task, nonce="more"),
    "a task for another site, addressed anew": lambda task: replace(
        signed(task, "beta"), site="alpha"
    ),
}


@pytest.mark.threat("C-3", "S1-1")
@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_task_that_the_coordinator_has_not_signed_is_refused_before_any_work(
    open_real, private: Study, forge: Callable[[Task], Task]
) -> None:
    site = open_real(private)
    reply = site.answer(forge(signed(task_of(private))))
    assert reply.status == RefusalCode.TASK_NOT_SIGNED
    assert (reply.arrays, reply.counts, reply.metrics, reply.receipt) == (None, {}, {}, None)
    assert is_reply_signed(reply, public_key_of(site))
    assert kinds(site) == ["opened"]


@pytest.mark.threat("C-3")
@pytest.mark.parametrize("name", ["beta", "", "Alpha"])
def test_a_task_for_another_site_is_refused(open_real, private: Study, name: str) -> None:
    site = open_real(private)
    reply = site.answer(signed(task_of(private), name))
    assert reply.status == RefusalCode.TASK_FOR_ANOTHER_SITE
    assert is_reply_signed(reply, public_key_of(site))
    assert kinds(site) == ["opened"]


def test_the_signature_is_looked_at_before_study_policy_and_code(open_real, private: Study) -> None:
    site, other = open_real(private), override(private, training__rounds=9)
    for task in (task_of(other), task_of(private, round=10**6), task_of(private, code="old")):
        assert site.answer(task).status == RefusalCode.TASK_NOT_SIGNED
        assert site.answer(signed(task)).status != RefusalCode.TASK_NOT_SIGNED


def test_a_site_says_its_own_name_whatever_a_task_says(open_real, private: Study) -> None:
    assert open_real(private).answer(signed(task_of(private), "beta")).site == "alpha"


@pytest.mark.threat("N-1", "S1-5")
def test_a_task_from_before_the_newest_one_is_refused(open_real, tiny_study: Study) -> None:
    site = open_real(tiny_study, min_patients=20)
    first, second = (signed(task_of(tiny_study, round=r, nonce=f"n{r}")) for r in (0, 1))
    replayed = RefusalCode.TASK_REPLAYED
    assert statuses(site, first, second, first, second) == ["ok", "ok", replayed, "ok"]
    assert is_reply_signed(site.answer(first), public_key_of(site))


def test_the_newest_task_again_gets_the_same_answer(open_real, tiny_study: Study) -> None:
    site = open_real(tiny_study, min_patients=20)
    task = signed(task_of(tiny_study))
    first, again = site.answer(task), site.answer(task)
    assert (again.arrays, again.counts) == (first.arrays, first.counts)


@pytest.mark.threat("S1-5")
def test_a_private_task_again_gets_the_sealed_answer_and_costs_nothing(
    open_real, private: Study
) -> None:
    site = open_real(private)
    task = signed(task_of(private))
    first, again = site.answer(task), site.answer(task)
    assert again.arrays == first.arrays
    assert is_reply_signed(again, public_key_of(site))
    assert kinds(site).count("reserved") == 1


def test_what_was_taken_is_known_after_a_restart(open_real, private: Study) -> None:
    site = open_real(private)
    first, second = (signed(task_of(private, round=r, nonce=f"n{r}")) for r in (0, 1))
    assert statuses(site, first, second) == ["ok", "ok"]
    site.close()
    site = open_real(private, folder=site.folder)
    assert statuses(site, first, second) == [RefusalCode.TASK_REPLAYED, "ok"]


def test_a_task_whose_work_was_cut_off_is_answered_when_it_comes_again(
    open_real, private: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, task = open_real(private), signed(task_of(private))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(site, "_admit", killed)
        with pytest.raises(KeyboardInterrupt):
            site.answer(task)
    site.close()
    assert open_real(private, folder=site.folder).answer(task).status == "ok"


def test_a_task_is_not_worked_on_unless_it_can_be_written_down(
    open_real, private: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = open_real(private)

    def full(_: int) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(trust.os, "fsync", full)
        patched.setattr(site._charging, "refused", lambda *_: None)
        reply = site.answer(signed(task_of(private)))
    assert reply.status == RefusalCode.INTERNAL_ERROR
    assert is_reply_signed(reply, public_key_of(site))
    assert kinds(site) == ["opened"]


def test_what_nobody_has_asked_for_is_in_the_audit_log_and_not_in_the_ledger(
    open_real, private: Study
) -> None:
    site = open_real(private)
    for nonce in "abc":
        site.answer(task_of(private, nonce=nonce))
    lines = (state_of(site) / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == [RefusalCode.TASK_NOT_SIGNED] * 3
    assert len(ledger_of(site)) == 1


def test_every_answer_is_signed_refusals_too(open_real, private: Study) -> None:
    site = open_real(private)
    other = override(private, training__rounds=9)
    replies = [
        site.answer(signed(task_of(private, TaskKind.ENROL))),
        site.answer(signed(task_of(private))),
        site.answer(signed(task_of(private, TaskKind.EVALUATE, round=3))),
        site.answer(signed(task_of(other))),
        site.refuse_malformed(TaskKind.TRAIN),
    ]
    assert [r.status for r in replies[:3]] == ["ok"] * 3
    assert [r.status for r in replies[3:]] == ["study_not_accepted", "message_malformed"]
    assert all(is_reply_signed(reply, public_key_of(site)) for reply in replies)


def test_an_answer_that_could_not_be_logged_is_a_signed_refusal(
    open_real, private: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = open_real(private)

    def full(**_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(site._audit, "append", full)
    reply = site.answer(signed(task_of(private)))
    assert (reply.status, reply.arrays) == (RefusalCode.INTERNAL_ERROR, None)
    assert is_reply_signed(reply, public_key_of(site))


@pytest.mark.threat("I-1")
def test_a_refused_forgery_names_no_text_of_the_forger_in_the_log(
    open_real, private: Study, caplog: pytest.LogCaptureFixture
) -> None:
    site = open_real(private)
    with caplog.at_level(logging.INFO):
        site.answer(task_of(private, run_id="Mrs-Miller", nonce="born-1943"))
    assert "task_not_signed" in caplog.text
    assert "Miller" not in caplog.text
    assert "1943" not in caplog.text


def test_a_simulated_site_signs_nothing_and_does_not_take_what_is_for_a_hospital(
    new_site, tiny_study: Study, tmp_path: Path
) -> None:
    site = Site.simulated(new_site(), tiny_study, state_dir=tmp_path / "state")
    reply = site.answer(task_of(tiny_study))
    assert (reply.status, reply.signature) == ("ok", None)
    assert not (tmp_path / "state" / "tasks").exists()
    for task in (signed(task_of(tiny_study)), replace(task_of(tiny_study), site="alpha")):
        assert site.answer(task).status == RefusalCode.TASK_FOR_ANOTHER_SITE


# Opening.


def test_a_hospital_that_has_joined_no_consortium_does_not_start(new_site) -> None:
    folder = new_site()
    with pytest.raises(SiteConfigError, match="wardround site join") as fault:
        Site.open(folder)
    assert "wardround federation up" in str(fault.value)
    assert not load_site_config(folder).state_dir.exists()


@pytest.mark.threat("K-1")
def test_a_hospital_that_the_roster_knows_by_another_key_does_not_start(new_site) -> None:
    folder = new_site()
    join(folder)
    path = load_site_config(folder).state_dir / "keys" / "site.pem"
    path.unlink()
    with pytest.raises(SiteConfigError, match="restore it from a backup"):
        Site.open(folder)
    SigningKey.create(path)
    with pytest.raises(SiteConfigError, match="signing key by which roster 1 knows 'alpha'"):
        Site.open(folder)


def test_a_hospital_that_is_not_in_its_roster_does_not_start(new_site) -> None:
    folder = new_site()
    keys = join(folder)
    others = roster_of(keys.model_copy(update={"name": "beta"}), serial=2)
    content = roster_to_bytes(others, COORDINATOR)
    (load_site_config(folder).state_dir / "roster.json").write_bytes(content)
    with pytest.raises(ProvisionError, match="site 'alpha' in roster 2"):
        Site.open(folder)


def test_a_damaged_roster_is_not_trusted(new_site) -> None:
    folder = new_site()
    join(folder)
    path = load_site_config(folder).state_dir / "roster.json"
    path.write_bytes(path.read_bytes().replace(b'"serial": 1', b'"serial": 2'))
    with pytest.raises(ProvisionError, match="Restore it from a backup"):
        Joined.of(load_site_config(folder))
