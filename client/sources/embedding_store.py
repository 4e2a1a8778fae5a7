"""Embeddings of patients' texts that were computed before: a file beside the hospital's own books.

They are patient data: the file is for its owner alone, lies outside of what is shared, and holds
the present patients alone. A file that cannot be read or written costs time and nothing else.

Letters of shapes: B patients, E width.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.files import write_atomically
from common.private_files import make_private_folder

Floats32 = NDArray[np.float32]
Windows = Sequence[NDArray[np.int64]]

_OWNER_ALONE = 0o600
_KEY_BYTES = 16


def embeddings_of(
    windows_B: Sequence[Windows],
    path: Path,
    *,
    width: int,
    embed: Callable[[Sequence[Windows]], Floats32],
) -> Floats32:
    """The embedding of each patient's windows, shape (B, E): from the file, or else computed.

    Guarantees:
        - Each text is embedded once: what the file knows is not computed again.
        - The file then holds those of these patients and of no others, and is gone where there are
          none; nobody but its owner may read it.
        - A file that is damaged counts as none.

    Args:
        path: a file for these weights and this way to read texts; no others share it.
        embed: computes some; it is not called where there is nothing to compute.
    """
    keys = [_key(windows) for windows in windows_B]
    if not keys:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return np.zeros((0, width), dtype=np.float32)
    known = _read(path, width)
    new = {key: place for place, key in enumerate(keys) if key not in known}
    if new:
        computed = embed([windows_B[place] for place in new.values()])
        known |= dict(zip(new, computed, strict=True))
    if new or len(known) != len(set(keys)):
        _write(path, {key: known[key] for key in dict.fromkeys(keys)})
    return np.stack([known[key] for key in keys])


def _key(windows: Windows) -> bytes:
    """A name for what was read of a patient."""
    digest = hashlib.blake2b(digest_size=_KEY_BYTES)
    for window in windows:
        digest.update(len(window).to_bytes(8, "big") + window.astype("<i8").tobytes())
    return digest.digest()


def _read(path: Path, width: int) -> dict[bytes, Floats32]:
    try:
        arrays = load(path.read_bytes())
        keys, embeddings = arrays["keys"], arrays["embeddings"]
    except (OSError, SafetensorError, KeyError):
        return {}
    if keys.ndim == 0:
        return {}
    shapes = (keys.shape, embeddings.shape)
    is_usable = shapes == ((len(keys), _KEY_BYTES), (len(keys), width))
    is_usable &= keys.dtype == np.uint8 and embeddings.dtype == np.float32
    if not is_usable or not np.isfinite(embeddings).all():
        return {}
    return {key.tobytes(): row for key, row in zip(keys, embeddings, strict=True)}


def _write(path: Path, known: dict[bytes, Floats32]) -> None:
    keys = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(-1, _KEY_BYTES)
    content = save({"keys": keys, "embeddings": np.stack(list(known.values()))})
    with suppress(OSError):
        make_private_folder(path.parent)
        write_atomically(path, content, durable=False, mode=_OWNER_ALONE)
