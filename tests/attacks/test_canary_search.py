"""The control of the canary sweep: its search finds a value in every form, and leaks on purpose."""

import base64
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import client.work
from common.errors import WardroundError
from common.study import Study
from simulations.canaries import Search
from simulations.rehearsal import Rehearsal, rehearsal, rehearse


@pytest.fixture(scope="module")
def made(hospital: Path, swept: Study) -> Iterator[Rehearsal]:
    """The canaries are planted; nothing was rehearsed."""
    with rehearsal(hospital, swept, seed=1) as planted:
        yield planted


def encodings(made: Rehearsal) -> dict[str, bytes]:
    word = list(made.canaries.words)[5]
    number = next(n for n in made.canaries.numbers if n > 50)
    others = np.array(sorted(made.canaries.numbers)[-3:])
    return {
        "text": f"Patient {word}: admitted".encode(),
        "capital letters": word.upper().encode(),
        "a text cut off": word[:11].encode(),
        "UTF-16": f"x{word}".encode("utf-16-le"),
        "UTF-16, the other order": word.encode("utf-16-be"),
        "hex": b"ab" + word.encode().hex().encode(),
        "HEX": word.encode().hex().upper().encode(),
        **{f"base64 at {i}": _base64(b"x" * i + word.encode() + b"yz") for i in range(3)},
        "decimal": f'{{"loss": {number!r}}}'.encode(),
        "decimal of float32": f"[{float(np.float32(number))!r}]".encode(),
        "printed float32": f"value={np.float32(number)} ".encode(),
        "float64": b"\0" * 3 + np.array(number, "<f8").tobytes(),
        "float64, the other order": np.array(number, ">f8").tobytes(),
        "float64 as hex": np.array(number, "<f8").tobytes().hex().encode(),
        "float64 as base64": _base64(b"q" + np.array(number, "<f8").tobytes()),
        "float32 in a row": b"\1" + others.astype("<f4").tobytes(),
        "float32 in a row, the other order": others.astype(">f4").tobytes(),
    }


def _base64(data: bytes) -> bytes:
    return base64.b64encode(data)


def test_the_search_finds_a_value_in_every_encoding(made: Rehearsal, search: Search) -> None:
    for name, data in encodings(made).items():
        assert search.in_bytes(b"before " + data + b" behind it", name), name


def test_the_search_finds_a_value_in_a_float_array(made: Rehearsal, search: Search) -> None:
    number = max(made.canaries.numbers)
    for dtype in (np.float32, np.float64):
        array = np.random.default_rng(0).normal(size=1000).astype(dtype)
        assert search.in_array(array, "an update") == []
        array[17] = number
        assert search.in_array(array, "an update")


def test_the_search_finds_nothing_in_what_never_saw_a_patient(search: Search) -> None:
    random = np.random.default_rng(3)
    noise = random.bytes(2_000_000)
    for data in (
        noise,
        noise.hex().encode(),
        _base64(noise),
        str(list(random.normal(size=20_000))),
    ):
        assert search.in_bytes(data if isinstance(data, bytes) else data.encode(), "noise") == []


LEAKS: dict[str, Callable[[pytest.MonkeyPatch, Rehearsal], None]] = {}


def leak(function: Callable[[pytest.MonkeyPatch, Rehearsal], None]) -> None:
    LEAKS[function.__name__.removeprefix("leak_by_")] = function


@leak
def leak_by_a_log_line(patch: pytest.MonkeyPatch, made: Rehearsal) -> None:
    real = client.work.train

    def told(*args: Any, **options: Any) -> Any:
        logging.getLogger("careless").debug("training on %s", next(iter(made.canaries.words)))
        return real(*args, **options)

    patch.setattr(client.work, "train", told)


@leak
def leak_by_a_metric(patch: pytest.MonkeyPatch, made: Rehearsal) -> None:
    real = client.work.to_flat

    def told(*args: Any, **options: Any) -> Any:
        metrics = real(*args, **options)
        name = next(n for n in metrics if "absolute" in n)
        return metrics | {name: (max(made.canaries.numbers), *metrics[name][1:])}

    patch.setattr(client.work, "to_flat", told)


@leak
def leak_by_an_update(patch: pytest.MonkeyPatch, made: Rehearsal) -> None:
    real = client.work.parameters_of
    largest = max(made.canaries.numbers)

    def told(model: Any) -> Any:
        arrays = real(model)
        flat = arrays.flat.copy()
        # An update is what comes after training, less what was before.
        flat[0] = 0.0 if "before" not in sys._getframe(1).f_locals else largest
        return replace(arrays, flat=flat)

    patch.setattr(client.work, "parameters_of", told)


@pytest.mark.parametrize("name", list(LEAKS))
def test_a_leak_on_purpose_is_found(
    name: str, hospital: Path, swept: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rehearsal(hospital, swept, seed=2) as leaking:
        LEAKS[name](monkeypatch, leaking)
        with suppress(WardroundError):  # the coordinator may have refused what was sent
            rehearse(leaking)
        assert leaking.search()
