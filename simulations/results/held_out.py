"""Held-out patients with what each arm predicts for them: what all numbers of a page are made of.

Simulation only: real sites never send predictions. Kept as .npz without pickles, so that an
interrupted command goes on where it stopped.

Letters of shapes: B patients, P predicted numbers of a patient (by kind of outcome).
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.files import write_atomically
from common.metrics.statistics import Floats

_SEPARATOR = "/"


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out patients in the order of their ids.

    Attributes:
        outcomes: by outcome, then by array name, as in `client.data.Cohort`.
        present: by granularity, whether the patient has it.
        predictions: by arm, then by outcome, (B, P); NaN for a patient whom the arm does not score.
        num_train: the training patients of each site.
    """

    id_B: NDArray[np.str_]
    site_B: NDArray[np.str_]
    outcomes: Mapping[str, Mapping[str, NDArray[Any]]]
    present: Mapping[str, NDArray[np.bool_]]
    predictions: Mapping[str, Mapping[str, Floats]]
    num_train: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.id_B)

    def take(self, index: NDArray[Any]) -> "HeldOut":
        """The patients at these places, or for whom a flag is true."""
        return replace(
            self,
            id_B=self.id_B[index],
            site_B=self.site_B[index],
            outcomes=_each(self.outcomes, index),
            present={name: flag_B[index] for name, flag_B in self.present.items()},
            predictions=_each(self.predictions, index),
        )

    def sites(self) -> list[str]:
        """The names of the sites, those without a held-out patient included."""
        return sorted(self.num_train)

    def scores_all(self, arm: str, outcome: str) -> bool:
        """Whether the arm predicts this outcome for every one of the patients."""
        predicted = self.predictions.get(arm, {})
        return outcome in predicted and not np.isnan(predicted[outcome]).any()


def _each(named: Mapping[str, Mapping[str, Any]], index: NDArray[Any]) -> dict[str, dict[str, Any]]:
    return {k: {key: value[index] for key, value in a.items()} for k, a in named.items()}


def with_all_arms(parts: Sequence[HeldOut]) -> HeldOut:
    """The same patients with the arms of all parts.

    Raises:
        ValueError: the parts are not of the same patients.
    """
    first = parts[0]
    if not all(np.array_equal(part.id_B, first.id_B) for part in parts):
        raise ValueError("expected all arms to predict for the same held-out patients")
    predictions = {arm: by for part in parts for arm, by in part.predictions.items()}
    return replace(first, predictions=predictions)


def one_after_the_other(parts: Sequence[HeldOut]) -> HeldOut:
    """The patients of several folds as one, with the arms that all folds have.

    The training patients of a site are the mean over the folds, rounded.
    """
    arms = [a for a in parts[0].predictions if all(a in part.predictions for part in parts)]
    sites = parts[0].sites()
    whole = HeldOut(
        id_B=np.concatenate([p.id_B for p in parts]),
        site_B=np.concatenate([p.site_B for p in parts]),
        outcomes=_joined([p.outcomes for p in parts]),
        present={n: np.concatenate([p.present[n] for p in parts]) for n in parts[0].present},
        predictions=_joined([{arm: p.predictions[arm] for arm in arms} for p in parts]),
        num_train={s: round(float(np.mean([p.num_train[s] for p in parts]))) for s in sites},
    )
    return whole.take(np.argsort(whole.id_B, kind="stable"))


def _joined(parts: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            key: np.concatenate([part[name][key] for part in parts])
            for key in arrays
            if all(key in part[name] for part in parts)
        }
        for name, arrays in parts[0].items()
    }


def save(held: HeldOut, path: Path) -> None:
    """Writes the patients and predictions to a file, which appears whole or not at all."""
    arrays: dict[str, NDArray[Any]] = {"id_B": held.id_B, "site_B": held.site_B}
    for kind in ("outcomes", "predictions"):
        for name, by in getattr(held, kind).items():
            arrays |= {_SEPARATOR.join((kind, name, key)): value for key, value in by.items()}
    arrays |= {_SEPARATOR.join(("present", n)): flag_B for n, flag_B in held.present.items()}
    arrays |= {_SEPARATOR.join(("num_train", s)): np.asarray(n) for s, n in held.num_train.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue(), durable=False)


def load(path: Path) -> HeldOut:
    """What `save` wrote."""
    nested: dict[str, dict[str, dict[str, Any]]] = {"outcomes": {}, "predictions": {}}
    flat: dict[str, dict[str, Any]] = {"present": {}, "num_train": {}}
    with np.load(path, allow_pickle=False) as arrays:
        for full_name in arrays.files:
            kind, *names = full_name.split(_SEPARATOR)
            if kind in nested:
                nested[kind].setdefault(names[0], {})[names[1]] = arrays[full_name]
            elif kind in flat:
                flat[kind][names[0]] = arrays[full_name]
        return HeldOut(
            id_B=arrays["id_B"],
            site_B=arrays["site_B"],
            outcomes=nested["outcomes"],
            present=flat["present"],
            predictions=nested["predictions"],
            num_train={site: int(number) for site, number in flat["num_train"].items()},
        )
