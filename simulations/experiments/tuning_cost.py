"""What choosing settings on the same patients costs, beside the run that is shown.

Every private training of inner validation looked at training patients. Either their number is
stated, and the reported epsilon is that of a run whose settings fell from the sky; or their events
are composed with the run's, which is what releasing the chosen model really costs. Source of the
cheaper way that is not taken here, a random number of trials of which the best one is released:
Papernot and Steinke 2022, arXiv:2110.03620, theorem 2.
"""

from collections.abc import Mapping, Sequence

from common.privacy.accounting import epsilon_of
from common.privacy.events import Charge

# The charges of one run, by hospital.
Charges = Mapping[str, Sequence[Charge]]


def epsilon_with_trials(run: Charges, trials: Sequence[Charges], *, delta: float) -> float | None:
    """The epsilon of a run and of all trials before it, of the hospital whose patients paid most.

    Guarantees:
        - It is what the accountant says of all their events as one history, and so never below the
          run's own epsilon; a trial in which a hospital took no part costs it nothing.

    Returns:
        None where nothing was charged: a run without privacy.
    """
    return max(
        (
            epsilon_of([*charges, *(c for trial in trials for c in trial.get(site, ()))], delta)
            for site, charges in run.items()
        ),
        default=None,
    )
