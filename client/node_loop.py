"""The connector's loop: join, pull, ask the site, push, and from the start when a line is lost.

It must never raise for what the other side does or does not do, and never touch what a message says
beyond its type and its ids.
"""

import gc
import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from client.agent_client import MAX_MESSAGE_BYTES, SiteConnection
from client.node_content import for_coordinator, for_site
from client.node_faults import NotRecognised, Rejected, Unreachable
from client.node_fleet import Fleet
from client.node_heartbeat import Beating
from client.node_objects import Outgoing, Pulled
from client.node_question import answer_of
from client.node_session import Session
from common.errors import MessageError, SiteProcessError
from common.messages import TaskKind

logger = logging.getLogger(__name__)

# What the heartbeat's file holds while this node is on the SuperLink's list, else why it is not.
CONNECTED = "connected"

_KINDS = frozenset(kind.value for kind in TaskKind)
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_LOOK_EVERY_S = 0.5
_FIRST_DELAY_S = 0.25
_LONGEST_DELAY_S = 10.0
_SITE_PATIENCE_S = 60.0
# Longer than a coordinator waits between two looks for replies.
_AWAY_S = 3.0
_MAX_LIVES = 3


def pause_s(idle_s: float, last_gap_s: float) -> float:
    """How long a node waits before it asks for a message again.

    Every question costs the SuperLink as much as a message, and rounds are alike: three quarters
    of the last gap are waited for at once, then a tenth of it at a time. So waiting adds about a
    tenth to a round, and to one that is much shorter at most three quarters of the last gap.

    Args:
        idle_s: since the last message was answered.
        last_gap_s: between the answer before that and the message after it.
    """
    wait_s = max(0.75 * last_gap_s - idle_s, last_gap_s / 10, idle_s / 10, _FIRST_PAUSE_S)
    return min(wait_s, _LONGEST_PAUSE_S)


class SiteGone(Exception):  # noqa: N818
    """The site process has not answered for longer than anybody should wait."""


class Node:
    """One connector's life: join, pull, ask the site, push; from the start when a line is lost.

    Guarantees:
        - A message is answered once; one that was in hand when the connector died is answered by
          the next.
        - Only queries, training and evaluation reach the site, and nothing over the limit.
        - A site that is down makes this node leave, so that nobody waits for it, and join again
          when it is back.
        - A lost connection, a restarted SuperLink or one that has forgotten this node are joined
          again, for as long as it takes.
        - Nothing but ids is logged of any message.
    """

    def __init__(
        self,
        *,
        site: SiteConnection,
        new_fleet: Callable[[Callable[[], None]], Fleet],
        session: Session,
        heartbeat_file: Path,
        stop: threading.Event,
        is_ephemeral: bool = False,
        site_patience_s: float = _SITE_PATIENCE_S,
    ) -> None:
        self._site = site
        self._new_fleet = new_fleet
        self._session = session
        self._heartbeat_file = heartbeat_file
        self._stop = stop
        self._is_ephemeral = is_ephemeral
        self._site_patience_s = site_patience_s
        remembered = session.load()
        self._node_id = remembered.node_id
        self._may_go_on = remembered.is_of_here
        self._in_hand = remembered.in_hand
        self._lives = 1 if self._in_hand is None else remembered.lives + 1
        self._outgoing: Outgoing | None = None
        self._is_site_gone = False
        # One who was killed may have been told of a message, and not got to write it down.
        was_killed = self._node_id is not None and not remembered.has_left
        self._may_have_lost_one = was_killed and self._in_hand is None
        self._delay_s = _FIRST_DELAY_S

    def run(self) -> None:
        """Lives until `stop` is set."""
        while not self._stop.is_set():
            if not self._is_site_ready():
                reason = "the site process does not answer yet"
                self._back_off(reason, is_over=self._is_site_ready)
                continue
            fleet = self._new_fleet(self._alive)
            try:
                self._connected(fleet)
            except (Unreachable, NotRecognised, Rejected) as fault:
                self._back_off(str(fault))
            except SiteGone:
                self._leave(fleet, for_good=False)
                self._back_off("the site process is down; this node has left until it is back")
            else:
                if self._in_hand is None:
                    self._leave(fleet, for_good=self._is_ephemeral)
                else:  # it stays: the next connector has the message answered
                    self._lives -= 1
                    self._remember()
            finally:
                fleet.close()

    def _connected(self, fleet: Fleet) -> None:
        """Joins and serves until `stop` is set."""
        # A copy of this hospital's state must not go on as the one that runs.
        fleet.join(self._node_id if self._may_go_on else None)
        self._may_go_on = True
        if fleet.node_id != self._node_id:
            # A SuperLink that gives another number has forgotten the messages of the old one, too.
            self._forget()
            self._may_have_lost_one = False
            self._node_id = fleet.node_id
        self._remember()
        if self._may_have_lost_one:
            self._give_up_what_was_lost(fleet)
        self._delay_s = _FIRST_DELAY_S
        self._say(CONNECTED)
        logger.info("node %d is connected", fleet.node_id)
        beating = Beating(fleet)
        beating.start()
        try:
            self._serve(fleet, beating)
        finally:
            beating.end()

    def _serve(self, fleet: Fleet, beating: Beating) -> None:
        idle_since, last_gap_s = time.monotonic(), 0.0
        while not self._stop.is_set():
            self._alive()
            beating.check()
            if self._in_hand is None:
                self._pull(fleet)
            if self._in_hand is None:
                self._stop.wait(pause_s(time.monotonic() - idle_since, last_gap_s))
                continue
            last_gap_s = time.monotonic() - idle_since
            self._finish(fleet, self._in_hand)
            idle_since = time.monotonic()

    def _pull(self, fleet: Fleet) -> None:
        try:
            self._in_hand = fleet.pull()
        except MessageError as fault:
            logger.warning("node %d drops a message: %s", fleet.node_id, fault)
        except Unreachable as fault:
            self._may_have_lost_one |= fault.may_have_arrived
            raise
        self._may_have_lost_one = False
        if self._in_hand is not None:
            self._remember()

    def _give_up_what_was_lost(self, fleet: Fleet) -> None:
        """Ends the wait for a message that the SuperLink handed out over a line that broke.

        It hands out each message once, so nobody would ever answer this one. While a node is away,
        a coordinator who asks for its reply gets an error. One message at a time is sent to a node:
        if there is another, none was lost.
        """
        self._pull(fleet)
        if self._in_hand is None:
            self._may_have_lost_one = True  # until it is done
            fleet.leave(for_good=False)
            self._stop.wait(_AWAY_S)
            fleet.join(None)
            self._may_have_lost_one = False

    def _finish(self, fleet: Fleet, pulled: Pulled) -> None:
        """Answers the message in hand, and lets go of it; or stops with it in hand."""
        message_id = pulled.message.metadata.message_id
        try:
            if self._outgoing is None:
                self._outgoing = self._reply_to(fleet, pulled)
            if self._outgoing is None:
                return
            fleet.push(self._outgoing)
            fleet.confirm(pulled)
        except Rejected as fault:
            logger.warning("message %s is no longer wanted: %s", message_id, fault)
        else:
            answer = "an error" if self._outgoing.reply.has_error() else "a reply"
            logger.info("message %s has got %s", message_id, answer)
        self._forget()
        self._remember()
        if not pulled.is_whole:
            gc.collect()  # models are held in cycles of objects, up to three of them
        if self._is_site_gone:
            self._is_site_gone = False
            raise SiteGone

    def _reply_to(self, fleet: Fleet, pulled: Pulled) -> Outgoing | None:
        """The reply to the message in hand; None where `stop` comes first."""
        metadata = pulled.message.metadata
        started = time.monotonic()
        try:
            if self._lives > _MAX_LIVES:
                raise MessageError(f"Expected to live through a message, died {_MAX_LIVES} times.")
            # Before any other answer: one that comes before all of a message has reached the
            # SuperLink makes the coordinator's push fail.
            asked, is_parcel = for_site(fleet.fetch(pulled, stop=self._stop))
            if metadata.message_type not in _KINDS:
                raise MessageError("Expected a query, training or evaluation, found another type.")
            if len(asked) > MAX_MESSAGE_BYTES:
                raise MessageError(f"Expected at most {MAX_MESSAGE_BYTES} bytes, found more.")
            started = time.monotonic()
            answer = answer_of(
                self._site,
                asked,
                metadata.message_type,
                patience_s=self._site_patience_s,
                stop=self._stop,
                on_turn=self._alive,
            )
            if answer is None:
                return None
            del asked
            records = for_coordinator(answer, as_parcel=is_parcel)
            reply = Message(records, reply_to=pulled.message)
        except (MessageError, SiteProcessError) as fault:
            if self._stop.is_set():
                return None
            logger.warning("message %s cannot be answered: %s", metadata.message_id, fault)
            self._is_site_gone = isinstance(fault, SiteProcessError) and fault.may_retry
            crashed, unusable = ErrorCode.CLIENT_APP_CRASHED, ErrorCode.MESSAGE_UNAVAILABLE
            code = crashed if self._is_site_gone else unusable
            reply = Message(Error(code=code, reason=""), reply_to=pulled.message)
        return Outgoing(reply=reply, seconds=time.monotonic() - started)

    def _is_site_ready(self) -> bool:
        self._alive()
        return self._site.is_serving(timeout_s=2.0)

    def _leave(self, fleet: Fleet, *, for_good: bool) -> None:
        with suppress(Unreachable, NotRecognised, Rejected):
            fleet.leave(for_good=for_good)
            self._session.save(node_id=fleet.node_id, has_left=True)
            logger.info("node %d has left", fleet.node_id)

    def _forget(self) -> None:
        self._in_hand, self._outgoing, self._lives = None, None, 1

    def _remember(self) -> None:
        if self._node_id is not None:
            self._session.save(node_id=self._node_id, in_hand=self._in_hand, lives=self._lives)

    def _alive(self) -> None:
        """Tells a supervisor that this loop turns."""
        self._heartbeat_file.touch()

    def _say(self, state: str) -> None:
        """Tells `wardround site status` how this node stands; a full disk is no reason to stop."""
        with suppress(OSError):
            self._heartbeat_file.write_text(state, encoding="utf-8")

    def _back_off(self, reason: str, *, is_over: Callable[[], bool] = lambda: False) -> None:
        """Waits before the next attempt: longer every time, and not at the same time as others.

        Args:
            is_over: asked twice a second, whether there is nothing to wait for any more.
        """
        delay_s = self._delay_s * random.uniform(0.5, 1.0)
        self._delay_s = min(2 * self._delay_s, _LONGEST_DELAY_S)
        logger.warning("not connected: %s; again in %.1f s", reason, delay_s)
        self._say(reason)
        end = time.monotonic() + delay_s
        while (left_s := end - time.monotonic()) > 0:
            if self._stop.wait(min(left_s, _LOOK_EVERY_S)) or is_over():
                return
