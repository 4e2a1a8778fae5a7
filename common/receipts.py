"""Receipts: the state of a hospital's ledger, as its replies tell it and tasks bring it back.

A site signs the head of its ledger with every private reply; the coordinator countersigns it and
sends it with the next task. A site whose ledger does not hold that head has lost entries: it was
set back to an older copy, and refuses.
"""

import re
from dataclasses import dataclass
from math import inf

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a private reply says of the ledger behind it, and of what the run has cost.

    Attributes:
        seq: the number of the ledger's last entry.
        digest: of that entry, and so of all before it; 64 hex digits.
        key: the site's public key (Ed25519), 64 hex digits.
        signature: by the site, over seq and digest; 128 hex digits.
        epsilon, delta: of this run at this site, with all that is reserved; told after the last
            round, and else None, as where no bound holds.
    """

    seq: int
    digest: str
    key: str
    signature: str
    epsilon: float | None = None
    delta: float | None = None

    def __post_init__(self) -> None:
        if type(self.seq) is not int or self.seq < 0:
            raise ValueError("expected a number of 0 or more as seq")
        if not (_DIGEST.fullmatch(self.digest) and _DIGEST.fullmatch(self.key)):
            raise ValueError("expected 64 hex digits as digest and key")
        if not _SIGNATURE.fullmatch(self.signature):
            raise ValueError("expected 128 hex digits as signature")
        if (self.epsilon is None) != (self.delta is None):
            raise ValueError("expected epsilon and delta together")
        if self.epsilon is not None and self.delta is not None:
            if type(self.epsilon) is not float or not 0 <= self.epsilon < inf:
                raise ValueError("expected a finite epsilon of 0 or more")
            if type(self.delta) is not float or not 0 < self.delta < 1:
                raise ValueError("expected a delta in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class Countersigned:
    """A receipt's head, signed by both sides.

    Attributes:
        key, signature: of the coordinator, over the head and the site's signature.
    """

    seq: int
    digest: str
    site_signature: str
    key: str
    signature: str

    def __post_init__(self) -> None:
        if type(self.seq) is not int or self.seq < 0:
            raise ValueError("expected a number of 0 or more as seq")
        if not (_DIGEST.fullmatch(self.digest) and _DIGEST.fullmatch(self.key)):
            raise ValueError("expected 64 hex digits as digest and key")
        if not (_SIGNATURE.fullmatch(self.site_signature) and _SIGNATURE.fullmatch(self.signature)):
            raise ValueError("expected 128 hex digits as signatures")
