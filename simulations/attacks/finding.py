"""What one attack reached: a value that tables, pages, journals and gates are made from.

A finding holds figures about an attack, never a patient, and no text that a record could get into.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one attack reached against one target.

    Attributes:
        attack: its name, such as "LiRA" or "Gaussian canary audit".
        target: what was attacked, such as "one hospital's private training, epsilon 8".
        measures: figures by name, in the order in which they are to be shown.
        epsilon_lower_bound: what the attack proves that epsilon is at least, at the confidence
            among the measures; None: the attack proves none.
        epsilon_claimed: what the plan says that epsilon is at most; infinite without privacy; None
            where the attack is about no claim.
        succeeded: whether the attack did what it is for. For an audit: whether it broke the claim,
            or found that no bound can be given because noise is not what it should be.
        limits: what the attack cannot show, in one or two plain sentences.
    """

    attack: str
    target: str
    measures: Mapping[str, float]
    epsilon_lower_bound: float | None = None
    epsilon_claimed: float | None = None
    succeeded: bool
    limits: str

    @property
    def breaks_claim(self) -> bool:
        """Whether the lower bound lies above the claim."""
        if self.epsilon_lower_bound is None or self.epsilon_claimed is None:
            return False
        return self.epsilon_lower_bound > self.epsilon_claimed


def finding_to_json(finding: Finding) -> dict[str, Any]:
    """The finding as JSON; an infinite number is the text "inf", one that is none is null."""
    table = asdict(finding)
    table["measures"] = {name: _number(value) for name, value in finding.measures.items()}
    for name in ("epsilon_lower_bound", "epsilon_claimed"):
        table[name] = _number(table[name])
    return table


def _number(value: float | None) -> float | str | None:
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")
