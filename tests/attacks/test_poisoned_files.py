"""Files that run code when they are read: none is, whatever it is called."""

import ast
import pickle
from pathlib import Path

import pytest
import torch

from common.errors import CheckpointError, RunError
from common.model_file import MODEL_FILE, read_model
from server.checkpoint import CheckpointFolder
from tests.unit.builders import HASH

ROOT = Path(__file__).parents[2]


class Payload:
    """What runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self._mark,)  # type: ignore[return-value]


@pytest.mark.threat("I-3")
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_poisoned_model_is_refused_and_runs_nothing(tmp_path: Path, form: str) -> None:
    mark = tmp_path / "it-ran"
    path = tmp_path / MODEL_FILE
    if form == "pickle":
        path.write_bytes(pickle.dumps(Payload(mark)))
    else:
        torch.save({"weight": Payload(mark)}, path)
    with pytest.raises(RunError, match="readable safetensors"):
        read_model(tmp_path)
    assert not mark.exists()


@pytest.mark.threat("I-3")
def test_a_poisoned_checkpoint_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for suffix in ("json", "safetensors"):
        (folder / f"round-000001.{suffix}").write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(CheckpointError):
        CheckpointFolder(folder, durable=False).load(HASH)
    assert not mark.exists()


@pytest.mark.threat("I-3")
def test_no_code_of_ours_reads_pickles() -> None:
    readers = {"torch.load", "pickle.load", "pickle.loads", "joblib.load", "pd.read_pickle"}
    for package in ("client", "common", "server"):
        for path in (ROOT / package).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(call, ast.Call) and ast.unparse(call.func) in readers:
                    said = {k.arg: ast.unparse(k.value) for k in call.keywords}
                    assert said.get("weights_only") == "True", path
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "np.load":
                    said = {k.arg: ast.unparse(k.value) for k in call.keywords}
                    assert said.get("allow_pickle", "False") == "False", path
