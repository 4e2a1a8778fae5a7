"""Registers the roster's nodes with a SuperLink, in a process of its own that ends with that.

    python -P -m server.superlink.register DIR

It speaks Flower, which `server.superlink.keep` must not load.
"""

import sys
from pathlib import Path

from common.errors import WardroundError
from server.superlink.control import control_of
from server.superlink.folder import Coordinator


def main() -> None:
    """Registers the roster of the coordinator's folder in the command line."""
    try:
        coordinator = Coordinator.open(Path(sys.argv[1]))
        with control_of(coordinator.address, ca=coordinator.ca) as control:
            control.register(coordinator.roster())
    except WardroundError as fault:
        sys.stderr.write(f"{fault}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
