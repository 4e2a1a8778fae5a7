"""A journal that is read while it is written."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.watch.tail import Tail


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def add(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_a_line_is_given_once_and_only_when_all_of_it_is_there(path: Path) -> None:
    tail = Tail(path=path)
    add(path, "one\ntw")
    assert tail.read().lines == [b"one"]
    assert tail.read().lines == []
    add(path, "o\n")
    assert tail.read().lines == [b"two"]


def test_a_torn_line_that_a_resumed_run_removes_is_never_given(path: Path) -> None:
    tail = Tail(path=path)
    add(path, "one\ntorn")
    tail.read()
    path.write_text("one\n")
    add(path, "two\n")
    news = tail.read()
    assert (news.starts_over, news.lines) == (False, [b"two"])


def test_a_file_that_is_not_there_has_no_lines_and_one_that_comes_is_read(path: Path) -> None:
    tail = Tail(path=path)
    assert tail.read().lines == []
    add(path, "one\n")
    news = tail.read()
    assert (news.starts_over, news.lines) == (False, [b"one"])
    path.unlink()
    assert tail.read().starts_over
    assert not tail.read().starts_over
    add(path, "new\n")
    assert tail.read().lines == [b"new"]


@pytest.mark.parametrize("text", ["new\n", "other\nand longer than before\n", ""])
def test_a_file_put_in_the_place_of_another_is_read_from_its_start(path: Path, text: str) -> None:
    tail = Tail(path=path)
    add(path, "one\ntwo\n")
    tail.read()
    other = path.with_name("other")
    other.write_text(text)
    other.replace(path)
    news = tail.read()
    assert news.starts_over
    assert news.lines == text.encode().split(b"\n")[:-1]


@pytest.mark.parametrize("text", ["one\n", "uno\ndos\n", "uno\ndos\ntres\n"])
def test_a_file_cut_short_or_written_anew_in_place_is_read_from_its_start(
    path: Path, text: str
) -> None:
    tail = Tail(path=path)
    add(path, "one\ntwo\n")
    tail.read()
    path.write_text(text)
    news = tail.read()
    assert news.starts_over
    assert news.lines == text.encode().split(b"\n")[:-1]


@given(pieces=st.lists(st.binary(max_size=400)))
def test_pieces_of_any_size_give_the_lines_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    tail, given_lines = Tail(path=path), []
    for piece in pieces:
        with path.open("ab") as file:
            file.write(piece)
        news = tail.read()
        assert not news.starts_over
        given_lines += news.lines
    assert given_lines == b"".join(pieces).split(b"\n")[:-1]
