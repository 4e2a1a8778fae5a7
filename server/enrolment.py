"""Enrolment: which sites take part, with how many patients, and their moments for normalisation."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from common.arrays import Arrays
from common.messages import Reply


@dataclass(frozen=True, kw_only=True)
class Enrolled:
    """One site as it enrolled."""

    site: str
    node_id: int
    counts: Mapping[str, int]
    moments: Arrays | None


@dataclass(frozen=True, kw_only=True)
class Roster:
    """The sites of a run, by name. Frozen: who enrols later makes another roster."""

    sites: Mapping[str, Enrolled] = field(default_factory=dict)

    def with_site(self, node_id: int, reply: Reply) -> "Roster":
        """The roster with one more site.

        Raises:
            ValueError: the name is taken; the first node that enrolled under it keeps it.
        """
        if reply.site in self.sites:
            raise ValueError("another node has enrolled under this name")
        new = Enrolled(
            site=reply.site, node_id=node_id, counts=dict(reply.counts), moments=reply.arrays
        )
        return Roster(sites={**self.sites, reply.site: new})

    def by_node(self) -> dict[int, Enrolled]:
        """The sites by node id, in the order of their names."""
        return {site.node_id: site for _, site in sorted(self.sites.items())}

    def moments(self) -> list[Arrays]:
        """The moments of all sites that sent some, in the order of their names."""
        ordered: Iterable[Enrolled] = (site for _, site in sorted(self.sites.items()))
        return [site.moments for site in ordered if site.moments is not None]

    def __len__(self) -> int:
        return len(self.sites)
