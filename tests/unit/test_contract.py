"""Reading TOML against a schema: one error, of the right class, with every fault and its key."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from common.contract import Section, read_toml, validate
from common.errors import SiteConfigError, StudyError, WardroundError


class Inner(Section):
    depth_m: int


class Schema(Section):
    name: str
    inner: Inner


def _write(folder: Path, content: bytes) -> Path:
    path = folder / "some.toml"
    path.write_bytes(content)
    return path


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = _write(tmp_path, 'name = "Zürich"\n[inner]\ndepth_m = 3\n'.encode())
    assert read_toml(path, Schema, StudyError) == Schema(name="Zürich", inner=Inner(depth_m=3))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    with pytest.raises(StudyError, match=f"Expected a file at {path}, found none"):
        read_toml(path, Schema, StudyError)


def test_a_folder_instead_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"readable UTF-8 file at .*, found IsADirectoryError"):
        read_toml(tmp_path, Schema, StudyError)


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, 'name = "Zürich"'.encode("latin-1"))
    with pytest.raises(StudyError, match="found UnicodeDecodeError"):
        read_toml(path, Schema, StudyError)


def test_what_is_not_toml_is_told_with_its_line(tmp_path: Path) -> None:
    path = _write(tmp_path, b'name = "a"\nname = "b"\n')
    with pytest.raises(StudyError, match=r"Expected TOML in .*some.toml, found: .*line 2"):
        read_toml(path, Schema, StudyError)


def test_all_faults_of_a_file_are_in_one_error_with_their_keys(tmp_path: Path) -> None:
    path = _write(tmp_path, b"colour = 1\n[inner]\ndepth_m = 'x'\n")
    with pytest.raises(StudyError) as caught:
        read_toml(path, Schema, StudyError)
    assert str(caught.value) == (
        f"Found 3 faults in {path}:\n"
        "  name: required and missing. Add it.\n"
        "  inner.depth_m: expected a valid integer, found 'x'.\n"
        "  colour: unknown key. Remove it, or check its spelling."
    )


@pytest.mark.parametrize("error", [StudyError, SiteConfigError])
def test_the_error_is_of_the_class_that_the_caller_names(error: type[WardroundError]) -> None:
    with pytest.raises(error, match="Found 1 fault in here"):
        validate({"name": "a"}, Schema, error, where="here")


class Plain(Section):
    kind: Literal["plain"]


class Fancy(Section):
    kind: Literal["fancy"]


class Values(Section):
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    colour: Literal["red", "blue"] = "red"
    name: Annotated[str, Field(pattern="^[a-z]+$")] = "a"
    part: Annotated[Plain | Fancy, Field(discriminator="kind")] = Plain(kind="plain")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"share": 0}, "share: expected greater than 0, found 0."),
        ({"share": float("nan")}, "share: expected less than or equal to 1, found nan."),
        ({"share": "much"}, "share: expected a valid number, found 'much'."),
        ({"colour": "green"}, "colour: expected 'red' or 'blue', found 'green'."),
        ({"name": "A"}, "name: expected a text that should match pattern '^[a-z]+$', found 'A'."),
        ({"name": "A" * 99}, "match pattern '^[a-z]+$', found something longer."),
        ({"part": {"kind": "dull"}}, "expected 'kind' to be one of 'plain', 'fancy', found 'dull'"),
        ({"part": {}}, "expected the key 'kind'"),
        ({"part": 3}, "found 1 fault"),
    ],
)
def test_a_fault_says_what_was_expected_and_what_was_found(
    table: dict[str, object], sentence: str
) -> None:
    with pytest.raises(StudyError) as caught:
        validate(table, Values, StudyError, where="here")
    assert sentence.lower() in str(caught.value).lower()
