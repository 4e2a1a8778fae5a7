"""TOML files with a schema: read once, validate once, and name every fault in one error."""

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import WardroundError

# Names of sites stand in file names, reports and logs of both sides.
SITE_NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"


# Of a value that an error quotes.
_MOST_LETTERS = 60


class Section(BaseModel):
    """A table of a TOML file: frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=Section)


def read_toml(path: Path, schema: type[S], error: type[WardroundError]) -> S:
    """The validated content of the TOML file at `path`.

    Raises:
        WardroundError: of the class `error`; the file cannot be read, is not TOML, or does not fit
            `schema`. All faults are in the one text, each with its key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error(f"Expected a file at {path}, found none. Check the path.") from None
    except (OSError, UnicodeDecodeError) as fault:
        raise error(
            f"Expected a readable UTF-8 file at {path}, found {type(fault).__name__}. "
            "Check its permissions and encoding."
        ) from fault
    try:
        table = toml_table(text)
    except tomllib.TOMLDecodeError as fault:
        raise error(f"Expected TOML in {path}, found: {fault}. Fix that line.") from fault
    return validate(table, schema, error, where=str(path))


def toml_table(text: str) -> dict[str, object]:
    """The content of a TOML text.

    Raises:
        tomllib.TOMLDecodeError: it is none. That alone: `tomllib` itself also lets through what
            Python says of a number of 5,000 digits, or of brackets in brackets.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:
        raise tomllib.TOMLDecodeError("a number of too many digits") from None
    except RecursionError:
        raise tomllib.TOMLDecodeError("values nested too deeply") from None


def validate(
    table: dict[str, object], schema: type[S], error: type[WardroundError], *, where: str
) -> S:
    """The `table` as an instance of `schema`, or one error that names all its faults."""
    try:
        return schema.model_validate(table)
    except ValidationError as fault:
        lines = [
            f"  {_key(e['loc'], table, names_key=e['type'] == 'missing')}: "
            f"{_sentence(e['type'], e['msg'], e['input'])}"
            for e in fault.errors()
        ]
        noun = "fault" if len(lines) == 1 else "faults"
        raise error(f"Found {len(lines)} {noun} in {where}:\n" + "\n".join(lines)) from None


def _key(location: tuple[int | str, ...], table: object, *, names_key: bool) -> str:
    """The key as it stands in the file: pydantic also names the kind that it chose for a table.

    Args:
        names_key: whether the last part is a key although the file does not have it.
    """
    parts: list[str] = []
    for i, part in enumerate(location):
        is_last = i == len(location) - 1
        if isinstance(table, dict) and part not in table and not (is_last and names_key):
            continue
        parts.append(str(part))
        table = table.get(part) if isinstance(table, dict) else None
    return ".".join(parts) or "(whole file)"


def _sentence(kind: str, message: str, found: object) -> str:
    """What pydantic says of a fault, in this project's words, with what was found."""
    if kind == "extra_forbidden":
        return "unknown key. Remove it, or check its spelling."
    if kind == "missing":
        return "required and missing. Add it."
    if kind == "union_tag_not_found":
        key = message.removeprefix("Unable to extract tag using discriminator ")
        return f"expected the key {key}, which says of what kind it is. Add it."
    if kind == "union_tag_invalid" and isinstance(found, dict):
        tag, expected = message.removeprefix("Input tag ").split(" found using ")
        key, known = expected.split(" does not match any of the expected tags: ")
        return f"expected {key} to be one of {known}, found {tag}."
    if kind == "value_error" or not isinstance(found, bool | int | float | str):
        return message.removeprefix("Value error, ") + "."
    for its, ours in (("Input should be ", ""), ("String should ", "a text that should ")):
        if message.startswith(its):
            expected = message.removeprefix(its).split(", unable to parse")[0]
            told = repr(found) if len(repr(found)) <= _MOST_LETTERS else "something longer"
            return f"expected {ours}{expected}, found {told}."
    return f"{message}."
