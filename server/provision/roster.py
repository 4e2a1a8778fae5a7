"""Who is new, gone or changed between two rosters: a pure function, and the serial that follows."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from common.errors import ProvisionError
from common.roster import Roster, issued_now
from common.site_keys import SiteKeys


@dataclass(frozen=True, kw_only=True)
class Changes:
    """The names of sites that a new roster adds, removes, or gives other keys.

    The SuperLink must forget the node keys of those removed and replaced.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()


def changes_between(
    previous: Roster | None, members: tuple[SiteKeys, ...], *, replace: Collection[str]
) -> Changes:
    """What `members` changes in the roster.

    Guarantees:
        - A known site keeps its keys, unless `replace` names it.

    Raises:
        ProvisionError: a known site has other keys and is not in `replace`, or `replace` names a
            site that the roster or the consortium does not have.
    """
    known = {} if previous is None else {site.name: site for site in previous.sites}
    now = {site.name: site for site in members}
    for name in sorted(set(replace)):
        if name not in known or name not in now:
            raise ProvisionError(
                f"Expected --replace with a site that takes part already, found '{name}'. Check "
                f"its spelling: {', '.join(sorted(known.keys() & now.keys())) or 'there is none'}."
            )
    changed = [name for name in sorted(known.keys() & now.keys()) if known[name] != now[name]]
    unasked = [name for name in changed if name not in replace]
    if unasked:
        raise ProvisionError(_unasked(known[unasked[0]], now[unasked[0]]))
    return Changes(
        added=tuple(sorted(now.keys() - known.keys())),
        removed=tuple(sorted(known.keys() - now.keys())),
        replaced=tuple(changed),
    )


def next_roster(
    previous: Roster | None,
    *,
    consortium: str,
    coordinator_key: str,
    authority_sha256: str,
    addresses: tuple[str, ...],
    members: tuple[SiteKeys, ...],
    now: datetime,
) -> Roster:
    """The roster of these members.

    Guarantees:
        - It is `previous` itself where nothing changes, and else has the next serial.
    """
    roster = Roster(
        consortium=consortium,
        serial=1 if previous is None else previous.serial + 1,
        issued_at=issued_now(now),
        coordinator_key=coordinator_key,
        authority_sha256=authority_sha256,
        addresses=addresses,
        sites=members,
    )
    return previous if previous is not None and previous.says_the_same(roster) else roster


def _unasked(known: SiteKeys, sent: SiteKeys) -> str:
    differ = [
        f"{key.replace('_', ' ')} {known.fingerprints[key]} → {sent.fingerprints[key]}"
        for key in known.fingerprints
        if known.fingerprints[key] != sent.fingerprints[key]
    ]
    return (
        f"Expected the known keys of '{known.name}', found others: {'; '.join(differ)}. Phone the "
        "hospital, at a number that you have from elsewhere. If it made new keys: --replace "
        f"{known.name}."
    )
