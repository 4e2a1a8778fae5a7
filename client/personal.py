"""What a site keeps for itself: blocks of the model that stay at home, and a model of its own.

Kept in `state_dir/personal`, by run and round, so that a site that is asked for a round again (a
resumed run) starts from the same values. Nothing of it is ever sent.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save
from torch import nn

from client.training import Patients, Pull, train
from common.files import write_atomically
from common.models.patient_model import PatientModel
from common.seeds import seed_of
from common.study import Study

Named = Mapping[str, NDArray[np.float32]]

_LOCAL, _OWN = "local.", "own."
# A server may ask again for the round of either of its two checkpoints (`server.checkpoint`), after
# the site has saved what follows the later one.
_KEPT = 3


def personal_folder(state_dir: Path, run_id: str) -> Path:
    """Where a site keeps what is personal in one run."""
    return state_dir / "personal" / run_id


class PersonalStore:
    """The personal parameters of a site in one run, before each round.

    Guarantees:
        - What was saved for a round is what is loaded for it, whatever was saved for later ones.
        - A round for which nothing was saved, because the site was absent before it, starts from
          the last values before.
        - The latest `_KEPT` values are kept, and no others.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, round_number: int, named: Named) -> None:
        """Keeps the values that round `round_number` starts from."""
        data = save({name: np.ascontiguousarray(value) for name, value in named.items()})
        write_atomically(self._path(round_number), data, durable=False)
        for path, _ in self._saved()[:-_KEPT]:
            path.unlink()

    def load(self, round_number: int) -> dict[str, NDArray[np.float32]]:
        """The values that round `round_number` starts from; empty if there are none so far."""
        known = [(number, path) for path, number in self._saved() if number <= round_number]
        return dict(load(max(known)[1].read_bytes())) if known else {}

    def _path(self, round_number: int) -> Path:
        return self._folder / f"round-{round_number:06d}.safetensors"

    def _saved(self) -> list[tuple[Path, int]]:
        paths = sorted(self._folder.glob("round-*.safetensors"))
        return [(path, int(path.stem.removeprefix("round-"))) for path in paths]


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

    def _seed(self, round_number: int) -> int:
        return seed_of(self._study.training.seed, self._site, round_number, "personal")


def named_parameters_of(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    """A copy of all parameters that are trained, local ones included."""
    return _named(model, "")


def load_personal(model: PatientModel, store: PersonalStore, round_number: int) -> bool:
    """Puts local blocks and the site's own model, where there is one, into `model`.

    Returns:
        whether anything of the site's own was there.
    """
    named = store.load(round_number)
    _put(model, named, _LOCAL)
    _put(model, named, _OWN)
    return bool(named)


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
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = named.get(prefix + name)
            if value is not None:
                parameter.copy_(torch.from_numpy(np.array(value)))
