"""Pretrained weights at work: windows of tokens to embeddings, without gradients or network.

The library that builds the architecture could download weights, and run code that comes with them.
It is told to do neither, and what it opens was checked before: `client.sources.pretrained_folder`.

Letters of shapes: B patients, W windows of a patient, T tokens, E width of an embedding.
"""

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from client.device import device_of
from client.sources.pretrained_folder import FolderError
from client.sources.pretrained_tokens import INSTALL
from common.models.layers import masked_mean
from common.pretrained import Pretrained

# A long text must not fill the memory.
_WINDOWS_AT_ONCE = 16
# Of the head that some checkpoints lack, which is not used.
_UNUSED = ("pooler.",)
_FAULTS = (
    *(OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError),
    *(SafetensorError, pickle.UnpicklingError),
)


def embed_windows(
    windows_B: Sequence[Sequence[NDArray[np.int64]]],
    folder: Path,
    pretrained: Pretrained,
    *,
    device: str,
) -> NDArray[np.float32]:
    """The embedding of each patient, shape (B, E): the mean of the windows', weighted by tokens.

    Guarantees:
        - A row depends on the patient's own windows alone, bit for bit.
        - Torch's random state is left as it was.

    Args:
        device: as in `site.toml`.

    Raises:
        FolderError: the weights cannot be loaded, are incomplete, are of another width, or cannot
            read windows of this length; the memory does not suffice; or the library is not
            installed.
        SiteConfigError: this machine has no such GPU.
    """
    place = device_of(device)
    model = _loaded(folder)
    try:
        embedding_BE = _embedded(model.to(place), windows_B, pretrained, place)
    except (RuntimeError, MemoryError) as fault:
        expected = f"a device that embeds windows of {pretrained.window_tokens} tokens"
        action = "Free its memory, or name another (device in site.toml)."
        raise FolderError(expected, type(fault).__name__, action) from None
    if not embedding_BE.isfinite().all():
        action = "The weights are damaged; copy them again."
        raise FolderError("finite embeddings", "NaN or infinity", action)
    return embedding_BE.numpy()


def _embedded(
    model: Any,
    windows_B: Sequence[Sequence[NDArray[np.int64]]],
    pretrained: Pretrained,
    device: torch.device,
) -> Tensor:
    """The embedding of each patient, shape (B, E), on the CPU."""
    with torch.inference_mode():
        _check(model, pretrained, device)
        _check_codes(model, windows_B)
        rows = [_embedding(model, windows, pretrained, device) for windows in windows_B]
        return torch.stack(rows).cpu() if rows else torch.zeros((0, pretrained.width))


def _loaded(folder: Path) -> Any:
    """The frozen architecture with the folder's weights, on the CPU."""
    # Read by the libraries when they are imported.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        from transformers import AutoModel
        from transformers.utils import logging
    except ImportError:
        found = "one that is not installed"
        raise FolderError("the libraries of pretrained weights", found, INSTALL) from None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    action = "Take weights of an architecture that this version of transformers knows."
    try:
        with torch.random.fork_rng(devices=[]):
            model, told = AutoModel.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except _FAULTS as fault:
        # By its name alone: the text may quote the file.
        found = type(fault).__name__
        raise FolderError("weights that transformers can load", found, action) from None
    missing = [name for name in told["missing_keys"] if not name.startswith(_UNUSED)]
    if missing or told["mismatched_keys"]:
        found = f"{len(missing)} missing, {len(told['mismatched_keys'])} of another shape"
        raise FolderError("all weights that the configuration asks for", found, action)
    return model.eval().requires_grad_(requires_grad=False)


def _check(model: Any, pretrained: Pretrained, device: torch.device) -> None:
    """Nothing, if the weights read the longest window and give embeddings of the width."""
    size = pretrained.window_tokens
    codes_1T = torch.zeros((1, size), dtype=torch.long, device=device)
    try:
        found_1TE = _states(model, codes_1T, torch.ones_like(codes_1T))
    except (IndexError, RuntimeError, ValueError, TypeError) as fault:
        expected = f"weights that read {size} tokens at once"
        action = "The study is wrong (pretrained.window_tokens); tell the coordinator."
        raise FolderError(expected, type(fault).__name__, action) from None
    if found_1TE.shape != (1, size, pretrained.width):
        expected, found = f"embeddings of width {pretrained.width}", str(found_1TE.shape[-1])
        action = "The study is wrong (pretrained.width); tell the coordinator."
        raise FolderError(expected, found, action)


def _check_codes(model: Any, windows_B: Sequence[Sequence[NDArray[np.int64]]]) -> None:
    """Nothing, if the weights know every token."""
    largest = max((int(w.max()) for windows in windows_B for w in windows), default=0)
    num_known = model.get_input_embeddings().num_embeddings
    if largest >= num_known:
        expected, found = f"tokens of the weights, 0 to {num_known - 1}", str(largest)
        raise FolderError(expected, found, "Tokenizer and weights are of different models.")


def _states(model: Any, codes_WT: Tensor, real_WT: Tensor) -> Tensor:
    states_WTE: Tensor = model(input_ids=codes_WT, attention_mask=real_WT).last_hidden_state
    return states_WTE


def _embedding(
    model: Any, windows: Sequence[NDArray[np.int64]], pretrained: Pretrained, device: torch.device
) -> Tensor:
    """The embedding of one patient, shape (E,).

    Windows of other patients never share a batch with these: sums of other sizes round otherwise.
    """
    length_W = torch.tensor([len(window) for window in windows], device=device)
    parts = []
    for first in range(0, len(windows), _WINDOWS_AT_ONCE):
        some = [torch.from_numpy(window) for window in windows[first : first + _WINDOWS_AT_ONCE]]
        codes_WT = torch.nn.utils.rnn.pad_sequence(some, batch_first=True).to(device)
        steps_T = torch.arange(codes_WT.shape[1], device=device)
        real_WT = steps_T < length_W[first : first + _WINDOWS_AT_ONCE].unsqueeze(1)
        states_WTE = _states(model, codes_WT, real_WT.long())
        is_mean = pretrained.pooling == "mean"
        parts.append(masked_mean(states_WTE, real_WT) if is_mean else states_WTE[:, 0])
    weight_W = length_W.to(parts[0].dtype) / length_W.sum()
    return weight_W @ torch.cat(parts)
