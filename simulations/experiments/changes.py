"""A study with values changed at any place, named as people name them: `training.learning_rate`."""

from collections.abc import Mapping

from common.contract import validate
from common.errors import StudyError
from common.study import Study

# Of which a study gives exactly one.
_EITHER = (
    ("training.local_steps", "training.local_epochs"),
    ("privacy.epsilon", "privacy.noise_multiplier"),
)


def changed(study: Study, changes: Mapping[str, object]) -> Study:
    """Another study: `study` with these values, by dotted key.

    Where a study gives exactly one of two keys, the one that is changed replaces the other.

    >>> from common.study_file import load_study
    >>> changed(load_study("demo"), {"training.local_steps": 3}).training.local_steps
    3

    Raises:
        StudyError: there is no such table, or a value is not allowed there.
    """
    table = study.model_dump(mode="json", exclude_none=True)
    for key, value in changes.items():
        *path, field = key.split(".")
        _table_at(table, path, key)[field] = value
        for one, other in (*_EITHER, *(pair[::-1] for pair in _EITHER)):
            if key == one:
                _table_at(table, path, key).pop(other.split(".")[-1], None)
    return validate(table, Study, StudyError, where=f"study '{study.name}' with changes")


def value_at(study: Study, key: str) -> object:
    """The value at a dotted key; None where the study has none.

    Raises:
        StudyError: there is no such table.
    """
    table = study.model_dump(mode="json", exclude_none=True)
    *path, field = key.split(".")
    return _table_at(table, path, key).get(field)


def _table_at(table: dict[str, object], path: list[str], key: str) -> dict[str, object]:
    for part in path:
        inner = table.get(part)
        if not isinstance(inner, dict):
            raise StudyError(
                f"Expected a key of the study, such as 'training.learning_rate', found '{key}'. "
                "Check its spelling."
            )
        table = inner
    return table
