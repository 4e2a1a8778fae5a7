"""How a command goes on as a small program: what it loaded to read its settings is gone.

For whatever lives as long as a service does: it holds as little as it can. The settings are handed
over in plain words, as the one argument of a module that loads little.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from common.errors import WardroundError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")


def become(module: str, settings: "DataclassInstance") -> NoReturn:
    """Goes on as `module`, in this process.

    Args:
        settings: of texts, numbers and tuples of them.
    """
    os.execv(sys.executable, program_of(module, to_json(settings)))  # noqa: S606  # no shell is what is meant


def program_of(module: str, argument: str) -> list[str]:
    """The command line of a small program."""
    # -P: no module is looked for in the working folder.
    return [sys.executable, "-P", "-m", module, argument]


def run(work: Callable[[str], int]) -> NoReturn:
    """Ends this process with the exit code of `work`, which is given the argument.

    An error that a user can act on is one sentence and exit code 1, as of every command.
    """
    try:
        code = work(sys.argv[1])
    except WardroundError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        code = 1
    sys.exit(code)


def to_json(settings: "DataclassInstance") -> str:
    """As one line, for `from_json`."""
    return json.dumps(asdict(settings))


def from_json(kind: type[Settings], text: str) -> Settings:
    """What `to_json` was made of."""
    held = json.loads(text).items()
    fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in held}
    return kind(**fields)
