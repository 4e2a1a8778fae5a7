"""The folder of pretrained weights: its digest, and what is refused. No library loads any of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from client.cli_pretrained import mount
from client.sources.embedding_store import embeddings_of
from client.sources.pretrained_folder import FolderError, folder_findings, read_folder
from client.sources.pretrained_tokens import Frame, windows_of
from common.errors import StudyError
from common.pretrained import Pretrained

CONFIG = {"model_type": "bert", "hidden_size": 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "weights"
    found.mkdir()
    (found / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (found / "tokenizer.json").write_text("{}", encoding="utf-8")
    save_file({"a": np.zeros(2, dtype=np.float32)}, found / "model.safetensors")
    return found


def _faults(folder: Path) -> FolderError:
    with pytest.raises(FolderError) as caught:
        read_folder(folder)
    return caught.value


def test_any_change_of_a_file_that_may_be_read_changes_the_digest(folder: Path) -> None:
    digests = [read_folder(folder)[0]]
    (folder / "tokenizer.json").write_text("{ }", encoding="utf-8")
    digests.append(read_folder(folder)[0])
    (folder / "special_tokens_map.json").write_text("{}", encoding="utf-8")
    digests.append(read_folder(folder)[0])
    (folder / "special_tokens_map.json").rename(folder / "other.json")
    digests.append(read_folder(folder)[0])
    save_file({"a": np.ones(2, dtype=np.float32)}, folder / "model.safetensors")
    digests.append(read_folder(folder)[0])
    assert len(set(digests)) == 5


def test_nothing_else_changes_the_digest(folder: Path) -> None:
    before = read_folder(folder)
    assert before[1] == 3
    (folder / "README.md").write_text("about", encoding="utf-8")
    (folder / "LICENSE").write_text("free", encoding="utf-8")
    (folder / ".gitattributes").write_text("lfs", encoding="utf-8")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_text("", encoding="utf-8")
    assert read_folder(folder.rename(folder.with_name("elsewhere"))) == before


@pytest.mark.parametrize("name", ["pytorch_model.bin", "code.py", "tf_model.h5", "m.PKL", "m.pt"])
def test_a_file_of_any_other_kind_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    fault = _faults(folder)
    assert fault.found == f"1 other files ({Path(name).suffix.lower()})"
    assert "may hold code" in fault.action


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (CONFIG | {"auto_map": {"AutoModel": "code.Model"}}, "auto_map in config.json"),
        (
            CONFIG | {"transformers_weights": "sub/a.safetensors"},
            "transformers_weights in config.json",
        ),
        (
            CONFIG | {"configuration_files": ["../config.4.json"]},
            "configuration_files in config.json",
        ),
        (CONFIG | {"is_encoder_decoder": True}, "an encoder with a decoder"),
        ([], "list"),
    ],
)
def test_a_configuration_that_asks_for_more_is_refused(
    folder: Path, config: Any, found: str
) -> None:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert _faults(folder).found == found


def _write_index(folder: Path, *names: Any) -> None:
    weight_map = {f"layer.{place}": name for place, name in enumerate(names)}
    index = {"metadata": {"total_size": 8}, "weight_map": weight_map}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index), encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "sub/x.safetensors", "../x.bin", ".x.safetensors", "config.json", 7],
)
def test_an_index_of_files_that_the_digest_does_not_cover_is_refused(
    folder: Path, name: str | int
) -> None:
    (folder / "sub").mkdir()
    for place in (folder / "sub", folder.parent):
        save_file({"a": np.zeros(2, dtype=np.float32)}, place / "x.safetensors")
    (folder / ".x.safetensors").write_bytes(b"")
    _write_index(folder, "model.safetensors", name)
    fault = _faults(folder)
    assert fault.expected == "weights of this folder alone"
    assert fault.found == "others named by model.safetensors.index.json"


def test_an_index_of_the_folders_own_weights_is_read(folder: Path) -> None:
    whole = read_folder(folder)[0]
    names = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    (folder / "model.safetensors").rename(folder / names[0])
    save_file({"b": np.zeros(2, dtype=np.float32)}, folder / names[1])
    _write_index(folder, *names)
    assert read_folder(folder)[0] != whole


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b"[" * 100_000, b"[]", b"{}", b'{"weight_map": [[]]}']
)
def test_a_damaged_index_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors.index.json").write_bytes(content)
    assert _faults(folder).expected == "an index of weights"


def test_an_adapter_to_other_weights_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert _faults(folder).found == "an adapter to others"


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_configuration_is_refused(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    assert _faults(folder).expected == "JSON in config.json"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert name.removeprefix("model") in _faults(folder).found


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert _faults(tmp_path / "none").found == "FileNotFoundError"


def test_a_hospital_is_told_in_one_sentence_what_is_wrong(folder: Path) -> None:
    right = Pretrained(digest=read_folder(folder)[0], width=3)
    assert folder_findings(folder, "notes", right) == []
    wrong = [
        folder_findings(None, "notes", right),
        folder_findings(folder, "notes", Pretrained(digest="0" * 64, width=3)),
        folder_findings(folder, "notes", Pretrained(digest=right.digest, width=4)),
        folder_findings(folder / "none", "notes", right),
    ]
    assert [[f.severity for f in found] for found in wrong] == [["error"]] * 4
    assert {found[0].where for found in wrong} == {"site.toml, data.pretrained.notes"}
    assert "digest 000000000000…" in wrong[1][0].sentence()


def test_the_command_prints_the_lines_of_a_study(folder: Path) -> None:
    import tomllib

    import typer

    app = typer.Typer()
    mount(app)
    result = CliRunner().invoke(app, [str(folder)])
    table = tomllib.loads(result.output)
    assert table["encoder"] == "pretrained"
    assert Pretrained(**table["pretrained"]).digest == read_folder(folder)[0]
    (folder / "config.json").unlink()
    failed = CliRunner().invoke(app, [str(folder)])
    assert isinstance(failed.exception, StudyError)


def test_windows_hold_notes_in_order_and_cut_only_those_that_are_longer() -> None:
    frame = Frame(before=np.array([90]), behind=np.array([91]))
    notes = [np.array([1, 2, 3]), np.array([4, 5]), np.array([6]), np.arange(10, 19)]
    windows = [w.tolist() for w in windows_of(notes, size=7, frame=frame)]
    # 1 2 3 and 4 5 need 6 places of 5 with the token between them; 4 5 and 6 need 4.
    assert windows == [
        [90, 1, 2, 3, 91],
        [90, 4, 5, 91, 6, 91],
        [90, 10, 11, 12, 13, 14, 91],
        [90, 15, 16, 17, 18, 91],
    ]


def _store(path: Path, texts: list[list[int]], calls: list[int]) -> Any:
    def embed(some: Any) -> Any:
        calls.append(len(some))
        return np.array([[len(w), w[0].sum()] for w in some], dtype=np.float32)

    windows = [[np.array(text)] for text in texts]
    return embeddings_of(windows, path, width=2, embed=embed).tolist()


def test_each_text_is_embedded_once(tmp_path: Path) -> None:
    path, calls = tmp_path / "books" / "embeddings" / "notes.safetensors", []
    path.parent.parent.mkdir()
    first = _store(path, [[1, 2], [3], [1, 2]], calls)
    assert first == [[1, 3], [1, 3], [1, 3]]
    assert _store(path, [[3], [1, 2]], calls) == [[1, 3], [1, 3]]
    assert _store(path, [[3], [4]], calls) == [[1, 3], [1, 4]]
    assert calls == [2, 1]


def test_the_file_is_for_its_owner_and_forgets_who_is_gone(tmp_path: Path) -> None:
    path, calls = tmp_path / "embeddings" / "notes.safetensors", []
    _store(path, [[1], [2]], calls)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    _store(path, [[1]], calls)
    _store(path, [[1], [2]], calls)
    assert calls == [2, 1]


def test_where_no_patient_has_a_text_left_the_file_is_gone(tmp_path: Path) -> None:
    path, calls = tmp_path / "embeddings" / "notes.safetensors", []
    _store(path, [[1], [2]], calls)
    windows: list[Any] = []
    found = embeddings_of(windows, path, width=2, embed=lambda _: pytest.fail("nothing to embed"))
    assert found.shape == (0, 2)
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 64, (1, 3), (), (0, 16)])
def test_a_file_that_is_damaged_counts_as_none(
    tmp_path: Path, content: bytes | tuple[int, ...]
) -> None:
    path, calls = tmp_path / "embeddings" / "notes.safetensors", []
    _store(path, [[1]], calls)
    if isinstance(content, tuple):
        keys, embeddings = np.zeros(content, np.uint8), np.zeros((1, 2), np.float32)
        save_file({"keys": keys, "embeddings": embeddings}, path)
    else:
        path.write_bytes(content)
    assert _store(path, [[1]], calls) == [[1, 1]]
    assert calls == [1, 1]


def test_a_folder_that_cannot_be_written_costs_time_alone(tmp_path: Path) -> None:
    (tmp_path / "embeddings").write_text("a file where the folder would be", encoding="utf-8")
    assert _store(tmp_path / "embeddings" / "notes.safetensors", [[2]], []) == [[1, 2]]
