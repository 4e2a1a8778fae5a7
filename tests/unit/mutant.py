"""What a broken variant is."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.unit.private_probes import Probe

Patch = pytest.MonkeyPatch


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One way to be wrong.

    Attributes:
        put_in: replaces what the mutant is wrong about, until the patch is undone.
        noticed_by: the probe that must fail.
    """

    name: str
    put_in: Callable[[Patch], None]
    noticed_by: Probe
