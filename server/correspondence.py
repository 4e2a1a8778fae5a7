"""With whom the coordinator corresponds: who is behind a node, and whose signature a reply bears.

Flower knows nodes; hospitals are known by the roster. What comes back is believed only if the
site that was asked has signed it. A simulation has no roster, and signs nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from common.envelope import is_reply_signed, sign_task
from common.messages import Reply, Task
from common.roster import Roster
from common.signing import SigningKey


class Correspondence(Protocol):
    """Who may be asked, and whose answers count."""

    @property
    def key(self) -> SigningKey | None:
        """The coordinator's key; None where nothing is signed."""

    @property
    def asks_strangers(self) -> bool:
        """Whether a node of which no site is known is asked who it is."""

    def site_of(self, node_id: int) -> str | None:
        """The name of the site behind a node; None if none is known."""

    def signing_key_of(self, site: str) -> str | None:
        """The public key that a site's replies and receipts must bear; None if none is known."""

    def sign(self, task: Task) -> Task:
        """The task as it is sent."""

    def is_from(self, reply: Reply, site: str | None) -> bool:
        """Whether `reply` comes from `site`; None stands for whoever answers."""


@dataclass(frozen=True, kw_only=True)
class Unsigned:
    """A simulation: whoever is on the grid is asked and believed, and nothing is signed."""

    key: None = None
    asks_strangers: bool = True

    def site_of(self, node_id: int) -> str | None:
        """None: a node says its name when it enrols."""
        return None

    def signing_key_of(self, site: str) -> str | None:
        """None."""
        return None

    def sign(self, task: Task) -> Task:
        """The task as it is."""
        return task

    def is_from(self, reply: Reply, site: str | None) -> bool:
        """Always: within one machine, the grid says who answers."""
        return True


@dataclass(frozen=True, kw_only=True)
class Signed:
    """The coordinator of a consortium.

    Guarantees:
        - A node behind which the roster has no site is unknown, and is never asked.
        - A reply is from a site only if the roster's key of that site has signed it.

    Args:
        key: the coordinator's, which the hospitals know by the roster.
        roster: who takes part, with their keys.
        sites_by_node: the roster's sites by the id of their node, as the SuperLink has them now;
            asked for each task, so it must be cheap.

    Raises:
        ValueError: `key` is not the coordinator's of this roster.
    """

    key: SigningKey
    roster: Roster
    sites_by_node: Callable[[], Mapping[int, str]]

    def __post_init__(self) -> None:
        if self.key.public_key != self.roster.coordinator_key:
            raise ValueError("expected the key that the roster names as the coordinator's")

    @property
    def asks_strangers(self) -> bool:
        """Never: an unknown node could only answer what cannot be believed."""
        return False

    def site_of(self, node_id: int) -> str | None:
        """The roster's site behind a node; None for a node of nobody in it."""
        name = self.sites_by_node().get(node_id)
        return None if name is None or self.signing_key_of(name) is None else name

    def signing_key_of(self, site: str) -> str | None:
        """The roster's signing key of a site; None for one that is not in it."""
        return next((s.signing_key for s in self.roster.sites if s.name == site), None)

    def sign(self, task: Task) -> Task:
        """The task, signed by the coordinator."""
        return sign_task(task, self.key)

    def is_from(self, reply: Reply, site: str | None) -> bool:
        """Whether `reply` names `site`, and is signed by the roster's key of it."""
        if site is None or reply.site != site:
            return False
        key = self.signing_key_of(site)
        return key is not None and is_reply_signed(reply, key)
