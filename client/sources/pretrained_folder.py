"""The folder of pretrained weights at a hospital: whether it is the study's, and safe to load.

What stands in such a folder was written by strangers. Read are weights as safetensors, a tokenizer
and a configuration as JSON: neither holds code. A folder with anything that could (pickled weights,
Python files, a configuration that names classes of its own) is refused before a library sees it;
so is one with a file that names others to be read in its stead, which the digest would not cover.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from client.findings import Finding, error
from common.pretrained import Pretrained

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
_WEIGHTS = ".safetensors"
# Names the files that hold the parts of weights.
_INDEX = ".index.json"
# Names weights, those of its base among them, in a folder or a place of its own.
_ADAPTER = "adapter_config.json"
# Keys of a configuration that name code, or files to be read instead of those of the folder.
_ELSEWHERE = ("auto_map", "configuration_files", "transformers_weights")
# Those that a library may open; the digest covers them. Texts beside them change nothing.
_READ = (".json", _WEIGHTS)
_HARMLESS = (".txt", ".md", "")
# What the configurations of different architectures call the width of an embedding.
_WIDTHS = ("hidden_size", "d_model", "dim", "n_embd")
_BLOCK = 1 << 20


class FolderError(Exception):
    """A folder that is not to be loaded: what was expected of it, and what was found."""

    def __init__(self, expected: str, found: str, action: str) -> None:
        super().__init__(f"expected {expected}, found {found}")
        self.expected, self.found, self.action = expected, found, action


def folder_findings(folder: Path | None, granularity: str, pretrained: Pretrained) -> list[Finding]:
    """An error where the folder is not there, not safe, or not the one that the study means."""
    where = f"site.toml, data.pretrained.{granularity}"
    if folder is None:
        expected, found = "the folder of the pretrained weights that the study names", "none"
        action = "Ask the coordinator where they come from, and name their folder there."
        return [error(where, expected, found, action)]
    try:
        digest, width = read_folder(folder)
    except FolderError as fault:
        return [error(where, fault.expected, fault.found, fault.action)]
    if digest != pretrained.digest:
        found = f"those with {digest[:12]}…"
        action = "These are other weights; ask the coordinator for those of the study."
        return [error(where, f"weights with digest {pretrained.digest[:12]}…", found, action)]
    if width not in (None, pretrained.width):
        action = "The study is wrong; tell the coordinator."
        return [error(where, f"embeddings of width {pretrained.width}", str(width), action)]
    return []


def read_folder(folder: Path) -> tuple[str, int | None]:
    """The digest of the folder's files, and the width of an embedding where its config tells it.

    Guarantees:
        - Any change of a file that may be read (JSON, safetensors), of its name, or of which there
          are changes the digest; nothing else does, the folder's place included.
        - A folder with a file of any other kind is refused.
        - So is one whose files name weights or configurations that the digest does not cover.

    Raises:
        FolderError: it is not there, lacks a file, or is not safe to load.
    """
    files = _files(folder)
    _check_own(files)
    config = _config(folder / CONFIG)
    widths = [config[key] for key in _WIDTHS if isinstance(config.get(key), int)]
    return _digest(files), widths[0] if widths else None


def _files(folder: Path) -> list[Path]:
    """The files that may be read, by name; those of subfolders never are."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as fault:
        raise FolderError(
            "a readable folder of weights", type(fault).__name__, "Check the path, and its rights."
        ) from None
    shown = [path for path in files if not path.name.startswith(".")]
    unsafe = [path for path in shown if path.suffix.lower() not in (*_READ, *_HARMLESS)]
    if unsafe:
        kinds = ", ".join(sorted({path.suffix.lower() for path in unsafe}))
        raise FolderError(
            "nothing but safetensors, JSON and text",
            f"{len(unsafe)} other files ({kinds})",
            "Remove them: such files may hold code.",
        )
    read = [path for path in shown if path.suffix.lower() in _READ]
    names = {path.name for path in read}
    missing = [name for name in (CONFIG, TOKENIZER) if name not in names]
    missing += [] if any(path.suffix.lower() == _WEIGHTS for path in read) else [f"*{_WEIGHTS}"]
    if missing:
        expected = f"{CONFIG}, {TOKENIZER} and *{_WEIGHTS}"
        raise FolderError(expected, f"no {', no '.join(missing)}", "Copy the whole folder.")
    return read


def _check_own(files: list[Path]) -> None:
    """Nothing, if no index or adapter among the files leads out of them."""
    expected = "weights of this folder alone"
    # As the library tells them, which unpickles weights with any other ending.
    own = {path.name for path in files if path.suffix == _WEIGHTS}
    for path in files:
        name = path.name.lower()
        if name == _ADAPTER:
            action = "Take weights with which the adapter was merged."
            raise FolderError(expected, "an adapter to others", action)
        if name.endswith(_INDEX) and not _named(path) <= own:
            # Its pickled weights may have been removed, as they must.
            action = "Copy the whole folder; remove an index of other files than safetensors."
            raise FolderError(expected, f"others named by {path.name}", action)


def _named(index: Path) -> set[Any]:
    """What an index names as the files of its weights."""
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as fault:
        found = type(fault).__name__
        raise FolderError("an index of weights", found, "Copy the folder again.") from None


def _config(path: Path) -> dict[str, Any]:
    """The configuration of the architecture."""
    action = "Take weights of an architecture that the library transformers knows."
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as fault:
        raise FolderError(f"JSON in {CONFIG}", type(fault).__name__, action) from None
    if not isinstance(config, dict):
        raise FolderError(f"a table in {CONFIG}", type(config).__name__, action)
    elsewhere = [key for key in _ELSEWHERE if key in config]
    if elsewhere:
        expected = "a configuration without code or files of its own"
        raise FolderError(expected, f"{', '.join(elsewhere)} in {CONFIG}", action)
    if config.get("is_encoder_decoder"):
        raise FolderError("an encoder", "an encoder with a decoder", action)
    return config


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        name = path.name.encode("utf-8", "surrogateescape")
        digest.update(len(name).to_bytes(8, "big") + name)
        content = hashlib.sha256()
        try:
            for block in _blocks(path):
                content.update(block)
        except OSError as fault:
            raise FolderError(
                f"a readable {path.name}", type(fault).__name__, "Check its rights."
            ) from None
        digest.update(content.digest())
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block
