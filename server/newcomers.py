"""Newcomers: nodes that were never asked are asked to enrol, and those that accept take part."""

from collections.abc import Iterable

from flwr.serverapp import Grid

from common.messages import TaskKind
from common.normalisation import moments_manifest
from common.study import Study
from server.enrolment import Roster
from server.grid import exchange
from server.journal import Journal
from server.post import Post


class Newcomers:
    """Asks nodes to enrol, and holds the roster of those that have.

    Guarantees:
        - A node that declines, fails or is late once is not asked again in this run: waiting for
          it in every round would make all others wait.
        - One that was silent is asked again once it is back: that does not take longer than
          finding out that it is gone.
        - Of two nodes with one name the first keeps it.
    """

    def __init__(self, *, study: Study, post: Post, journal: Journal) -> None:
        self._study = study
        self._post = post
        self._journal = journal
        self._roster = Roster()
        self._declined: set[int] = set()

    @property
    def roster(self) -> Roster:
        """The sites that have enrolled so far."""
        return self._roster

    def enrol(self, grid: Grid, nodes: Iterable[int], timeout_s: float) -> None:
        """Asks those of the nodes that were never asked, and adds who accepts to the roster.

        Silent nodes are not waited for once `strategy.min_sites` are in the roster.
        """
        newcomers = sorted(set(nodes) - set(self._roster.by_node()) - self._declined)
        if not newcomers:
            return
        is_federated = self._study.normalisation.method == "federated"
        messages = self._post.tasks(
            TaskKind.ENROL,
            round_number=0,
            arrays=None,
            to=dict.fromkeys(newcomers),
            returns=moments_manifest(self._study) if is_federated else None,
        )
        # Not those who were not asked: the SuperLink may learn later whose node it is.
        self._declined |= {message.metadata.dst_node_id for message in messages}
        replies = exchange(
            grid,
            messages,
            timeout_s=timeout_s,
            is_enough=lambda: len(self._roster) >= self._study.strategy.min_sites,
        )
        for node_id, reply in self._post.open(replies):
            try:
                self._roster = self._roster.with_site(node_id, reply)
            except ValueError as taken:
                self._journal.write("absent", round=0, site=reply.site, reason=str(taken))
                continue
            self._declined.remove(node_id)
            self._journal.write("enrolled", site=reply.site, counts=dict(reply.counts))
        self._declined -= self._post.silent
