"""What a site keeps for itself: blocks that stay at home, a model of its own, its intercepts.

Kept in `state_dir/personal`, by run and round, so that a site that is asked for a round again (a
resumed run) starts from the same values. Nothing of it is ever sent.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import nn

from client.evaluation import Intercepts
from client.training import Patients, Pull, train
from common.files import write_atomically
from common.models.patient_model import PatientModel
from common.seeds import seed_of
from common.study import Study

logger = logging.getLogger(__name__)

Named = Mapping[str, NDArray[np.float32]]

_LOCAL, _OWN = "local.", "own."
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# A server may ask again for the round of either of its two checkpoints (`server.checkpoint`), after
# the site has saved what follows the later one.
_KEPT = 3


def personal_folder(state_dir: Path, run_id: str) -> Path:
    """Where a site keeps what is personal in one run.

    Raises:
        ValueError: the id, which comes from elsewhere, is no plain word; it would name a path.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise ValueError("expected a run id of letters, digits, - and _")
    return state_dir / "personal" / run_id


class PersonalStore:
    """The personal parameters of a site in one run, before each round.

    Guarantees:
        - What was saved for a round is what is loaded for it, whatever was saved for later ones.
        - A round for which nothing was saved, because the site was absent before it, starts from
          the last values before.
        - Of the values up to the round that was saved last, the latest `_KEPT` are kept; those of
          later rounds stay, and what was just saved is never removed.
        - A file that cannot be read counts as one that was never saved.
        - The files can be read by their owner alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, round_number: int, named: Named) -> None:
        """Keeps the values that round `round_number` starts from."""
        _write(self._path(round_number), named)
        earlier = [path for path, number in self._saved() if number <= round_number]
        for path in earlier[:-_KEPT]:
            path.unlink()

    def load(self, round_number: int) -> dict[str, NDArray[np.float32]]:
        """The values that round `round_number` starts from; empty if there are none so far."""
        for path, number in reversed(self._saved()):
            named = _read(path) if number <= round_number else None
            if named is not None:
                return named
        return {}

    def save_intercepts(self, round_number: int, intercepts: Intercepts, *, model: str) -> None:
        """Keeps the site's intercepts for the model of a round.

        Args:
            model: "" for the shared one, `PERSONAL` for the site's own.
        """
        path = self._intercepts_path(round_number)
        named = {f"{model}.{name}": value for name, value in intercepts.items()}
        _write(path, {**(_read(path) or {}), **named})

    def load_intercepts(self, round_number: int, *, model: str) -> Intercepts:
        """What was kept of the model of this very round, by outcome; empty if there is nothing."""
        path = self._intercepts_path(round_number)
        named = (_read(path) or {}) if path.is_file() else {}
        of_model = {k: v for k, v in named.items() if k.rpartition(".")[0] == model}
        return {k.rpartition(".")[2]: v.astype(np.float64) for k, v in of_model.items()}

    def _path(self, round_number: int) -> Path:
        return self._folder / f"round-{round_number:06d}.safetensors"

    def _intercepts_path(self, round_number: int) -> Path:
        return self._folder / f"intercepts-{round_number:06d}.safetensors"

    def _saved(self) -> list[tuple[Path, int]]:
        """The files and their rounds, in the order of rounds."""
        paths = self._folder.glob("round-*.safetensors")
        numbered = [(path, path.stem.removeprefix("round-")) for path in paths]
        known = [(path, int(number)) for path, number in numbered if number.isdecimal()]
        return sorted(known, key=lambda pair: pair[1])


def _write(path: Path, named: Mapping[str, NDArray[Any]]) -> None:
    data = save({name: np.ascontiguousarray(value) for name, value in named.items()})
    write_atomically(path, data, durable=False, mode=0o600)


def _read(path: Path) -> dict[str, NDArray[Any]] | None:
    """The arrays of a file; None, and logged, where it cannot be read."""
    try:
        return dict(load(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError, KeyError) as fault:
        logger.warning(
            "%s cannot be read (%s): what was kept before is used", path, type(fault).__name__
        )
        return None


class Personal:
    """The personal part of one study at one site.

    Args:
        site: its name, which seeds its own training.
    """

    def __init__(self, study: Study, store: PersonalStore, *, site: str) -> None:
        self._study = study
        self._plan = study.personal
        self._store = store
        self._site = site

    def put_local(self, model: PatientModel, round_number: int) -> None:
        """Puts the blocks that stay at home into the shared model, as this round starts."""
        _put(model, self._store.load(round_number), _LOCAL)

    def after_training(
        self, model: PatientModel, start: Named, patients: Patients, round_number: int
    ) -> None:
        """Keeps the local blocks that were trained, and trains the site's own model for a round.

        Args:
            model: as the shared training has left it; its parameters may be changed.
            start: the parameters of the shared model, before the training of this round.
        """
        kept: dict[str, NDArray[np.float32]] = {}
        if model.local_blocks:
            kept |= _named(model, _LOCAL, only=model.local_blocks)
        if self._plan.ditto_lambda > 0:
            _put(model, start, "")
            origin = [p.detach().clone() for p in model.parameters() if p.requires_grad]
            _put(model, self._store.load(round_number), _OWN)
            pull = Pull(origin=origin, strength=self._plan.ditto_lambda)
            train(model, patients, self._study, seed=self._seed(round_number), pull=pull)
            kept |= _named(model, _OWN)
        if kept:
            self._store.save(round_number + 1, kept)

    def make_own(self, model: PatientModel, patients: Patients, round_number: int) -> None:
        """Turns the shared model of the last round into the site's own, which is kept."""
        if self._plan.fine_tune_steps > 0:
            num_steps = self._plan.fine_tune_steps
            seed = self._seed(round_number)
            train(model, patients, self._study, seed=seed, num_steps=num_steps)
            kept = self._store.load(round_number) | _named(model, _OWN)
            self._store.save(round_number, kept)
        else:
            _put(model, self._store.load(round_number), _OWN)

    def keep_intercepts(self, round_number: int, intercepts: Intercepts, *, model: str) -> None:
        """Keeps the intercepts that the model of this round was evaluated with, if it has any."""
        if intercepts:
            self._store.save_intercepts(round_number, intercepts, model=model)

    def _seed(self, round_number: int) -> int:
        return seed_of(self._study.training.seed, self._site, round_number, "personal")


def named_parameters_of(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    """A copy of all parameters that are trained, local ones included."""
    return _named(model, "")


def load_personal(
    model: PatientModel, store: PersonalStore, round_number: int
) -> frozenset[Literal["local", "own"]]:
    """Puts local blocks and the site's own model, where there is one, into `model`.

    Returns:
        which of the two was there.
    """
    named = store.load(round_number)
    _put(model, named, _LOCAL)
    _put(model, named, _OWN)
    kinds: tuple[Literal["local", "own"], ...] = ("local", "own")
    return frozenset(k for k in kinds if any(name.startswith(f"{k}.") for name in named))


def _named(
    model: nn.Module, prefix: str, *, only: frozenset[str] | None = None
) -> dict[str, NDArray[np.float32]]:
    return {
        prefix + name: parameter.detach().cpu().numpy().copy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (only is None or name in only)
    }


def _put(model: nn.Module, named: Named, prefix: str) -> None:
    """Copies the values whose names begin with `prefix` into the parameters of those names."""
    if not named:
        return
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = named.get(prefix + name)
            if value is not None:
                parameter.copy_(torch.from_numpy(np.array(value)))
