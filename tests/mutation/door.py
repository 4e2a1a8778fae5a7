"""The modules of the door, the policy, the books and the signatures, and the tests of each.

`python -m tests.mutation.door` prints them as options of pytest-cov: `make coverage-door` is
`pytest -n 0 $(python -m tests.mutation.door)`.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNIT_TESTS = ROOT / "tests" / "unit"


def _unit(*patterns: str) -> tuple[str, ...]:
    """The unit tests of some names, in which a * stands for anything."""
    found = [sorted(UNIT_TESTS.glob(f"test_{pattern}.py")) for pattern in patterns]
    return tuple(f"tests/unit/{path.name}" for paths in found for path in paths)


_SITE = _unit("site", "site_books", "site_edges", "site_faults", "site_refusals", "private_site*")
_HOSTILE = ("tests/attacks/test_hostile_coordinator.py",)
_CHAINS = _unit("audit", "audit_view", "chained_*", "acceptance")
_LEDGER = _unit("ledger*", "fingerprint", "site_books", "unprotected_runs")
_INBOX = _unit("inbox*", "*_at_the_door")

# By the path of a module, or of a folder of modules.
DOOR: Mapping[str, tuple[str, ...]] = {
    "client/acceptance.py": _unit("acceptance", "study_commands"),
    "client/admission.py": (*_SITE, *_HOSTILE),
    "client/agreement.py": _unit("acceptance", "study_commands", "*_at_the_door"),
    "client/audit.py": (*_CHAINS, *_unit("dossier")),
    "client/chained_file.py": _CHAINS,
    "client/chained_lines.py": _CHAINS,
    "client/charging.py": (
        *_SITE,
        *_unit("charging_*", "private_attacks", "disk", "unprotected_runs"),
    ),
    "client/egress.py": _unit("egress*", "*_at_the_door", "site_faults"),
    "client/withholding.py": _unit("egress*", "*_at_the_door"),
    "client/ledger": _LEDGER,
    "client/policy.py": _unit("policy", "private_site*", "egress*"),
    "client/site.py": (*_SITE, *_unit("private_attacks", "trust*")),
    "client/trust.py": _unit("trust*"),
    "common/envelope.py": _unit("envelope", "correspondence"),
    "common/messages.py": _unit("wire", "parcels"),
    "common/signing.py": _unit("signing", "receipts", "server_receipts"),
    "common/wire.py": _unit("wire", "parcels"),
    "common/wire_limits.py": _unit("wire"),
    "server/correspondence.py": _unit("correspondence"),
    "server/inbox.py": _INBOX,
    "server/plausible_moments.py": _INBOX,
    "server/plausible_statistics.py": _INBOX,
    "server/receipts.py": _unit("server_receipts"),
}


def modules() -> dict[str, tuple[str, ...]]:
    """Every module of the door by its path, and the files of its tests."""
    found: dict[str, tuple[str, ...]] = {}
    for place, tests in DOOR.items():
        path = ROOT / place
        files = sorted(path.glob("[!_]*.py")) if path.is_dir() else [path]
        found |= {file.relative_to(ROOT).as_posix(): tests for file in files}
    return found


def test_files(paths: Iterable[str]) -> list[str]:
    """The test files of some modules, each once, in order."""
    all_modules = modules()
    return sorted({test for path in paths for test in all_modules[path]})


def name_of(path: str) -> str:
    """The name under which a module is imported.

    >>> name_of("client/ledger/view.py")
    'client.ledger.view'
    """
    return path.removesuffix(".py").replace("/", ".")


if __name__ == "__main__":
    paths = modules()
    words = (
        "--cov-branch --cov-report=term-missing:skip-covered",
        *(f"--cov={name_of(path)}" for path in paths),
        *test_files(paths),
    )
    sys.stdout.write(" ".join(words) + "\n")
