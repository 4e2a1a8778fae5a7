"""Who may ask this hospital, and in whose name it answers.

A hospital does what its consortium's coordinator has signed for it, once, and signs what it says.
Flower's server, its operators and the other hospitals can write neither. Must not import torch.
"""

import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Self

from client.config import SiteConfig
from client.roster import accepted_roster, coordinator_key_of
from common.envelope import is_task_signed, sign_reply
from common.errors import Refusal, RefusalCode, SiteConfigError
from common.files import sync_folder
from common.messages import Reply, Task
from common.signing import SigningKey

# What nobody of the consortium has asked for.
NOT_ASKED = frozenset(
    {
        RefusalCode.TASK_NOT_SIGNED,
        RefusalCode.TASK_FOR_ANOTHER_SITE,
        RefusalCode.TASK_REPLAYED,
    }
)

_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")
# An enrolment or an attempt at a round that failed is asked anew under a nonce of its own.
_TASKS_PER_ROUND = 4
# How long after it was taken a task may come again: an outage of the hospital's connector.
_REPEATED_S = 24 * 3600.0


class Trust(ABC):
    """What stands between a message and the task in it, and between a reply and the wire."""

    @abstractmethod
    def check(self, task: Task) -> None:
        """Nothing, if this task may be worked on. Raises `Refusal` otherwise."""

    @abstractmethod
    def sign(self, reply: Reply) -> Reply:
        """The reply as it may leave."""


class Simulated(Trust):
    """A simulation: nobody signs, and nobody is addressed."""

    def check(self, task: Task) -> None:
        """Nothing. Raises `Refusal` for a task that a coordinator has signed for a hospital."""
        if task.site or task.signature is not None:
            raise Refusal(
                RefusalCode.TASK_FOR_ANOTHER_SITE,
                "Expected a task that is addressed to nobody, as in a simulation, found one for a "
                "hospital. Ask the hospital's own site process.",
            )

    def sign(self, reply: Reply) -> Reply:
        """The reply as it is."""
        return reply


class Joined(Trust):
    """A hospital that has joined a consortium.

    Guarantees:
        - A task is worked on only if the coordinator whose key a person has compared on the phone
          has signed it, for this site.
        - A task may come again only until the next one of its run has come.
        - Every reply is signed by this site's key.

    Args:
        key: this site's own, as the roster has it.
        coordinator_key: 64 hex digits.
    """

    def __init__(self, *, name: str, key: SigningKey, coordinator_key: str, taken: "Taken") -> None:
        self._name = name
        self._key = key
        self._coordinator_key = coordinator_key
        self._taken = taken

    @classmethod
    def of(cls, config: SiteConfig) -> Self:
        """The trust that follows from what is in the state folder of a site.

        Raises:
            SiteConfigError: the hospital has joined no consortium, or its key is not there or not
                the one by which the consortium knows it.
            ProvisionError: the accepted roster is damaged, or does not have this site.
        """
        coordinator_key = coordinator_key_of(config.state_dir)
        roster = coordinator_key and accepted_roster(config.state_dir, coordinator_key)
        if not coordinator_key or not roster:
            raise SiteConfigError(
                f"Expected a hospital that has joined a consortium, found no roster in "
                f"{config.state_dir}. Say `wardround site join`; for a trial on one machine, "
                "`wardround federation up`."
            )
        path = config.state_dir / "keys" / "site.pem"
        key = SigningKey.load(path)
        if roster.site(config.name).signing_key != key.public_key:
            raise SiteConfigError(
                f"Expected the signing key by which roster {roster.serial} knows "
                f"'{config.name}', found another ({path}). Restore it from a backup, or send the "
                "coordinator your new public file and join again."
            )
        most = _TASKS_PER_ROUND * (config.policy.max_rounds + 1)
        taken = Taken(config.state_dir / "tasks", most=most)
        return cls(name=config.name, key=key, coordinator_key=coordinator_key, taken=taken)

    @property
    def key(self) -> SigningKey:
        """This site's signing key."""
        return self._key

    def check(self, task: Task) -> None:
        """Nothing, if the coordinator asks for this, of this site, now.

        Raises:
            Refusal: TASK_NOT_SIGNED, TASK_FOR_ANOTHER_SITE, TASK_REPLAYED, MESSAGE_MALFORMED or
                ROUND_LIMIT, before anything else is believed of the task.
            OSError: it cannot be written down that the task was taken.
        """
        self._check_signature(task)
        self._check_addressee(task)
        self._taken.take(task.run_id, task.nonce)

    def sign(self, reply: Reply) -> Reply:
        """Every reply leaves signed by this hospital's key, refusals too.

        Threat: C-3, N-1.
        """
        return sign_reply(reply, self._key)

    def _check_signature(self, task: Task) -> None:
        """The coordinator whose key was compared on the phone has signed all that a task says.

        Threat: C-3, N-1, S1-1. Refuses: TASK_NOT_SIGNED.
        """
        if not is_task_signed(task, self._coordinator_key):
            raise Refusal(
                RefusalCode.TASK_NOT_SIGNED,
                "Expected a task signed by the coordinator of this site's roster, found one that "
                "is not. If this goes on, phone the coordinator: somebody may be in between.",
            )

    def _check_addressee(self, task: Task) -> None:
        """A task names this hospital: what was signed for another is not worked on here.

        Threat: C-3. Refuses: TASK_FOR_ANOTHER_SITE.
        """
        if task.site != self._name:
            raise Refusal(
                RefusalCode.TASK_FOR_ANOTHER_SITE,
                "Expected a task for this site, found one for another. If this goes on, phone the "
                "coordinator: somebody may be in between.",
            )


class Taken:
    """The nonces of the tasks that a site has taken up: a file for each run, added to at its end.

    Written before a task is worked on, so that a task is known however its work ends.

    Guarantees:
        - A nonce that was taken is refused from the moment that another one of its run was taken,
          also by the next process.
        - The newest one may be taken again within a day: whoever asked may not have got the answer.
        - A file holds `most` nonces at most.

    Edge cases:
        | what happened | then |
        |---|---|
        | killed before the line was whole | the task was not begun: it is taken as a new one |
        | killed after it, before the answer | it is the newest one, and is taken again |
        | the disk is full | the error is raised, and nothing is worked on |

    Args:
        folder: within the site's state folder.
        most: nonces in one run.
        clock: seconds since 1970.
    """

    def __init__(self, folder: Path, *, most: int, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._most = most
        self._clock = clock

    def take(self, run_id: str, nonce: str) -> None:
        """Writes the nonce down, and waits for the disk.

        Raises:
            Refusal: TASK_REPLAYED; ROUND_LIMIT where the run has had too many tasks;
                MESSAGE_MALFORMED where run or nonce is no plain word (it would name a path).
            OSError: it could not be written.
        """
        _check_words(run_id, nonce)
        path = self._folder / f"{run_id}.nonces"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            content = file.read()
            *known, torn = content.split(b"\n")
            if nonce.encode() in known[-1:]:
                # The file is as old as its last line.
                _check_recent(self._clock() - os.fstat(descriptor).st_mtime)
            else:
                _check_new(nonce.encode(), known)
                _check_number(known, self._most)
                file.truncate(len(content) - len(torn))
                file.seek(0, os.SEEK_END)
                line = nonce.encode() + b"\n"
                if file.write(line) != len(line):
                    raise OSError("the disk took a part of a line")
            # Of a repeated one as well: the process that wrote it may have died before this.
            os.fsync(descriptor)
        # Not only of a new file: who made it may have died before its folder was on the disk.
        if len(known) < 2:
            sync_folder(self._folder)
            sync_folder(self._folder.parent)


def _check_words(run_id: str, nonce: str) -> None:
    """The ids of a task are plain words: they name a file of this hospital's.

    Threat: S1-4. Refuses: MESSAGE_MALFORMED.
    """
    if not (_WORD.fullmatch(run_id) and _WORD.fullmatch(nonce)):
        raise Refusal(
            RefusalCode.MESSAGE_MALFORMED,
            "Expected run id and nonce as words of letters, digits, - and _, found others.",
        )


def _check_new(nonce: bytes, known: list[bytes]) -> None:
    """A task is new, or is the newest one of its run again: an older one that returns is a replay.

    Threat: S1-5, N-1. Refuses: TASK_REPLAYED.
    """
    if nonce in known:
        raise Refusal(
            RefusalCode.TASK_REPLAYED,
            "Expected a new task or the newest one again, found one from before it. If this "
            "goes on, phone the coordinator: somebody may be in between.",
        )


def _check_recent(age_s: float) -> None:
    """The newest task of a run comes again within a day: later, whoever kept it replays it.

    Without privacy it would be worked on once more, on the patients of that day.

    Threat: S1-5, N-1. Refuses: TASK_REPLAYED.
    """
    if age_s > _REPEATED_S:
        raise Refusal(
            RefusalCode.TASK_REPLAYED,
            "Expected a task again within a day, found one that was taken before that. If this "
            "goes on, phone the coordinator: somebody may be in between.",
        )


def _check_number(known: list[bytes], most: int) -> None:
    """A run has a limited number of tasks: four for each round that the policy allows.

    Threat: S1-5. Refuses: ROUND_LIMIT.
    """
    if len(known) >= most:
        raise Refusal(
            RefusalCode.ROUND_LIMIT,
            f"Expected at most {most} tasks in a run ({_TASKS_PER_ROUND} for each round of "
            "policy.max_rounds), found more. Start another run.",
        )
