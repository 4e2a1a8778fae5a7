"""Whether a history stays within a budget, asked in every round without paying an accountant."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from common.privacy.events import Charge, Gaussian

# What a history of charges costs at a delta.
Accountant = Callable[[Sequence[Charge], float], float]
Groups = Counter[Charge]


class Approvals:
    """Remembers which histories an accountant has found within a budget.

    Epsilon never falls when events are added, so whatever is contained in an approved history is
    within the same budget. A site asks for a whole run first; its rounds then need no accountant.

    Guarantees:
        - A history is within the budget exactly if the accountant says so of it.
        - An epsilon that is not a number is not within any budget.
        - A history that is contained in an approved one needs no accountant.
    """

    def __init__(self, accountant: Accountant) -> None:
        self._accountant = accountant
        self._approved: dict[tuple[float, float], list[Groups]] = {}

    def is_within(self, charges: Sequence[Charge], *, epsilon: float, delta: float) -> bool:
        """Whether `charges`, all together, cost at most epsilon at delta."""
        groups = groups_of(charges)
        approved = self._approved.setdefault((epsilon, delta), [])
        if any(groups <= larger for larger in approved):
            return True
        if not self._accountant(charges, delta) <= epsilon:
            return False
        approved[:] = [smaller for smaller in approved if not smaller <= groups] + [groups]
        return True


def groups_of(charges: Iterable[Charge]) -> Groups:
    """How often each event of count 1 happened to each part."""
    groups: Groups = Counter()
    for charge in charges:
        if isinstance(charge.event, Gaussian):
            one = replace(charge, event=replace(charge.event, count=1))
            groups[one] += charge.event.count
        else:
            groups[charge] += 1
    return groups
