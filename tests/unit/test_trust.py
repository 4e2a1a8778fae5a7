"""Who may ask a hospital: its coordinator alone, for it alone, once. Every answer is signed."""

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client import trust
from client.config import load_site_config
from client.site import Site
from client.trust import Joined, Taken
from common.envelope import is_reply_signed, sign_task
from common.errors import ProvisionError, Refusal, RefusalCode, SiteConfigError
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


def code_of(taken: Taken, nonce: str, run_id: str = "run") -> RefusalCode | None:
    try:
        taken.take(run_id, nonce)
    except Refusal as refusal:
        return refusal.refusal_code
    return None


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


# What was taken.


@pytest.fixture
def taken(tmp_path: Path) -> Taken:
    return Taken(tmp_path / "state" / "tasks", most=5)


def file_of(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tasks" / "run.nonces"


def test_the_newest_nonce_is_taken_again_and_no_older_one(taken: Taken, tmp_path: Path) -> None:
    told = [code_of(taken, nonce) for nonce in ("a", "a", "b", "b", "a", "b", "c", "b")]
    replayed = RefusalCode.TASK_REPLAYED
    assert told == [None, None, None, None, replayed, None, None, replayed]
    assert file_of(tmp_path).read_bytes() == b"a\nb\nc\n"


@pytest.mark.threat("S1-5", "N-1")
def test_the_newest_nonce_comes_again_within_a_day_and_not_later(tmp_path: Path) -> None:
    day_s = 24 * 3600
    taken_at = [0.0, day_s - 60, day_s + 60]
    told = []
    for age_s in taken_at:
        folder = tmp_path / "state" / "tasks"
        told.append(code_of(Taken(folder, most=5, clock=lambda age=age_s: time.time() + age), "a"))
    assert told == [None, None, RefusalCode.TASK_REPLAYED]
    assert code_of(Taken(folder, most=5), "b") is None  # a new one is welcome at any time


def test_runs_do_not_know_of_one_another(taken: Taken) -> None:
    assert [code_of(taken, n, run) for n, run in (("a", "r"), ("b", "r"), ("a", "s"))] == [None] * 3


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_torn_line_was_never_taken_and_harms_no_other(
    taken: Taken, tmp_path: Path, cut: int
) -> None:
    for nonce in ("aaa", "bbb"):
        taken.take("run", nonce)
    path = file_of(tmp_path)
    os.truncate(path, path.stat().st_size - cut)
    assert code_of(taken, "aaa") is None  # it is the newest again
    assert code_of(taken, "bbb") is None
    assert path.read_bytes() == b"aaa\nbbb\n"
    assert code_of(taken, "aaa") is RefusalCode.TASK_REPLAYED


def test_a_file_of_a_torn_line_alone_is_as_good_as_none(taken: Taken, tmp_path: Path) -> None:
    taken.take("run", "aaa")
    file_of(tmp_path).write_bytes(b"a")
    assert code_of(taken, "bbb") is None
    assert file_of(tmp_path).read_bytes() == b"bbb\n"


@pytest.mark.threat("S1-5", "N-3")
def test_a_run_cannot_fill_the_disk(taken: Taken, tmp_path: Path) -> None:
    told = [code_of(taken, f"n{i}") for i in range(8)]
    assert told == [None] * 5 + [RefusalCode.ROUND_LIMIT] * 3
    assert code_of(taken, "n4") is None
    assert len(file_of(tmp_path).read_bytes().splitlines()) == 5


def test_a_site_takes_enough_tasks_for_its_last_round(new_site) -> None:
    folder = new_site(policy={"max_rounds": 3})
    join(folder)
    site = Joined.of(load_site_config(folder))
    for i in range(16):
        site.check(signed(_bare(nonce=f"n{i}")))
    with pytest.raises(Refusal) as refusal:
        site.check(signed(_bare(nonce="more")))
    assert refusal.value.refusal_code is RefusalCode.ROUND_LIMIT


@pytest.mark.threat("S1-4")
@pytest.mark.parametrize("word", ["", "../run", "a/b", "a" * 65, "a\n", "a\nb", "ä", ".", "\x00"])
@pytest.mark.parametrize("field", ["run_id", "nonce"])
def test_a_run_or_a_nonce_that_is_no_word_names_no_file(
    new_site, field: str, word: str, tmp_path: Path
) -> None:
    folder = new_site()
    join(folder)
    site = Joined.of(load_site_config(folder))
    with pytest.raises(Refusal) as refusal:
        site.check(signed(_bare(**{field: word})))
    assert refusal.value.refusal_code is RefusalCode.MESSAGE_MALFORMED
    assert not (load_site_config(folder).state_dir / "tasks").exists()


def test_what_was_taken_can_be_read_by_its_owner_alone(taken: Taken, tmp_path: Path) -> None:
    taken.take("run", "a")
    file = file_of(tmp_path)
    assert [path.stat().st_mode & 0o777 for path in (file, file.parent)] == [0o600, 0o700]


def test_a_folder_that_was_not_on_the_disk_is_waited_for_when_the_task_comes_again(
    taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who took it was killed in between: a power cut after the answer would lose the file."""
    synced: list[Path] = []

    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trust, "sync_folder", killed)
    with pytest.raises(KeyboardInterrupt):
        taken.take("run", "a")
    monkeypatch.setattr(trust, "sync_folder", synced.append)
    taken.take("run", "a")
    assert [folder.name for folder in synced] == ["tasks", "state"]


def test_nothing_is_taken_before_the_disk_has_it(
    taken: Taken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []

    def fsync(descriptor: int) -> None:
        synced.append(file_of(tmp_path).read_bytes())

    monkeypatch.setattr(trust.os, "fsync", fsync)
    taken.take("run", "a")
    taken.take("run", "b")
    taken.take("run", "b")  # whoever wrote it may have died before the disk had it
    assert [content for content in synced if content] == [b"a\n"] * 3 + [b"a\nb\n"] * 4


def _bare(**fields: Any) -> Task:
    honest = {"run_id": "run", "round": 0, "nonce": "n", "study_hash": "0" * 64, "code": "c"}
    return Task(kind=TaskKind.ENROL, **(honest | fields))
