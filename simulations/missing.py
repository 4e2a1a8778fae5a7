"""Missing granularities: what a model is worth when a patient has some of them and not the others.

For every non-empty subset of the study's granularities, held-out patients are predicted from that
subset alone, by four ways of training across the same hospitals: ours (masked fusion, averaging per
granularity), zero-filling (what is absent counts as present and zero, plain averaging), the
intersection (only the granularities that every hospital has), and each hospital alone.

Federated training is the plain loop, whose model equals the engine's bit for bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from client.config import load_site_config
from client.data import Cohort
from client.evaluation import predict
from client.training import to_device
from common.errors import StudyError
from common.metrics.evaluation import statistics_of
from common.metrics.statistics import Metrics
from common.models.contract import Batch
from common.models.patient_model import PatientModel, drop_granularities, load_state
from common.run_folder import site_folders
from common.study import Study
from common.study_file import override, without_granularity
from common.subsets import subsets_of
from simulations.arms import MEAN, POOLED
from simulations.bench.plain_loop import PlainSite, plain_loop, read_sites
from simulations.lacking import NOTHING, Lacking, as_if_lacking, check_lacking
from simulations.oracle import Evaluated, mean_of_sites, pooled
from simulations.over_seeds import over_seeds
from simulations.training_at_one_place import refuse_frozen, train_centrally

OURS = "masked fusion, per-granularity averaging"
INTERSECTION = "intersection"
METHODS = (OURS, "zero-filling", INTERSECTION, "local only")
SCOPES = (POOLED, MEAN)
_MOST_GRANULARITIES = 8

Subset = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MissingResult:
    """Exact metrics of the first outcome, of one method, seed and subset of granularities.

    They are of the held-out patients of all sites who have the whole subset; of any more that they
    have, nothing is shown to the model.

    Attributes:
        scope: `POOLED`, or `MEAN`: the unweighted mean over hospitals. The models of hospitals
            that train alone have no common scale, on which their patients could be compared.
        shown: the part of the subset that the method's models take in.
    """

    method: str
    seed: int
    subset: Subset
    scope: str
    shown: Subset
    metrics: Metrics


def run_missing(
    study: Study,
    sites: Path,
    *,
    seeds: Sequence[int],
    jobs: int,
    lacking: Lacking = NOTHING,
    on_done: Callable[[str], None] = lambda _: None,
) -> list[MissingResult]:
    """The results of every method, seed and subset.

    Args:
        jobs: processes at once; results do not depend on it.
        lacking: granularities that hospitals are to train without, though they have them.
        on_done: told of each seed that is finished.

    Raises:
        StudyError: the study has one granularity, or too many to try all subsets; or frozen
            encoders; or privacy, which these ways of training do not give. Or `lacking` names
            what does not exist.
    """
    refuse_frozen(study)
    if study.privacy.mode != "none":
        raise StudyError(
            "Expected a study without privacy to compare ways of training, found privacy mode "
            f"'{study.privacy.mode}' in '{study.name}'. Take [privacy] out of it."
        )
    if not 2 <= len(study.granularities) <= _MOST_GRANULARITIES:
        raise StudyError(
            f"Expected 2 to {_MOST_GRANULARITIES} granularities to try all subsets of, found "
            f"{len(study.granularities)} in '{study.name}'."
        )
    names = [load_site_config(folder).name for folder in site_folders(sites)]
    check_lacking(lacking, study, names)
    work = {
        f"seed {seed}": partial(run_seed, study, sites, seed=seed, lacking=lacking)
        for seed in seeds
    }
    parts = over_seeds(work, jobs=jobs, on_done=on_done).values()
    return [result for part in parts for result in part]


def run_seed(
    study: Study, sites: Path, *, seed: int, lacking: Lacking = NOTHING
) -> list[MissingResult]:
    """The results of every method and subset for one seed."""
    torch.set_num_threads(1)
    study = override(study, training__seed=seed)
    hospitals = _read(study, sites, lacking)
    ways = {
        OURS: _ours(study, hospitals),
        "zero-filling": _zero_filling(study, hospitals),
        INTERSECTION: _intersection(study, sites, hospitals, lacking),
        "local only": _local_only(study, hospitals),
    }
    return [
        MissingResult(
            method=method,
            seed=seed,
            subset=subset,
            scope=scope,
            shown=tuple(name for name in subset if name in way.study.granularities),
            metrics=metrics,
        )
        for method, way in ways.items()
        for subset in subsets_of(list(study.granularities))[1:]  # of nothing, nobody is predicted
        for scope, metrics in _evaluate(way, hospitals, study, subset)
    ]


def _read(
    study: Study, folder: Path, lacking: Lacking, *, left_out: frozenset[str] = frozenset()
) -> list[PlainSite]:
    """The hospitals, with what they are to lack taken from them."""
    return [as_if_lacking(s, lacking) for s in read_sites(study, folder, left_out=left_out)]


@dataclass(frozen=True, kw_only=True)
class _Way:
    """A way of training, once trained.

    Attributes:
        models: by site; of a federation, the same for all.
        study: which the models are of; it may lack granularities.
        shows: what of a cohort the models are shown, given the subset: by site.
    """

    models: Mapping[str, PatientModel]
    study: Study
    shows: Callable[[str, Cohort, Subset], Cohort]


def _ours(study: Study, hospitals: list[PlainSite]) -> _Way:
    return _Way(models=_federated(study, hospitals), study=study, shows=_hide_others)


class ZeroFillingModel(PatientModel):
    """A model for which everybody has everything, and zeros where something is absent.

    Guarantees:
        - What granularity dropout hides in training is zero, as what is absent is at prediction.
        - Dropout never hides all that a patient has.
    """

    def forward(self, batch: Batch) -> Tensor:
        """The logits of all outcomes side by side, shape (B, W)."""
        present_BG = torch.stack([batch[name]["present_B"] for name in self.encoders], dim=1)
        if self.training and self.granularity_dropout > 0:
            present_BG = drop_granularities(
                present_BG, self.granularity_dropout, tuple(self.encoders)
            )
        filled = {
            name: _zero_where_absent(batch[name], present_BG[:, place])
            for place, name in enumerate(self.encoders)
        }
        tokens_BTD, present_BT = self.tokens(filled)
        return self.read_out(tokens_BTD, present_BT, drops=False)


def _zero_where_absent(arrays: Mapping[str, Tensor], present_B: Tensor) -> dict[str, Tensor]:
    """The arrays of one granularity, "present" for all, and zero where it is not."""
    filled = {}
    for key, value in arrays.items():
        is_there = present_B.view(-1, *[1] * (value.ndim - 1))
        filled[key] = torch.where(is_there, value, torch.zeros_like(value))
    return filled | {"present_B": torch.ones_like(present_B)}


def _zero_filling(study: Study, hospitals: list[PlainSite]) -> _Way:
    filled = [_counting_everybody(study, site) for site in hospitals]
    return _Way(
        models=_federated(study, filled, build=ZeroFillingModel), study=study, shows=_hide_others
    )


def _intersection(study: Study, folder: Path, hospitals: list[PlainSite], lacking: Lacking) -> _Way:
    """The study without the granularities that some hospital lacks; at least the commonest one.

    Where no granularity is everywhere, hospitals that lack the commonest do not train; the model
    of the others predicts their patients, too.
    """
    counts = {
        name: sum(site.counts[name] > 0 for site in hospitals) for name in study.granularities
    }
    commonest = max(counts, key=lambda name: counts[name])
    smaller = study
    for name, count in counts.items():
        if count < len(hospitals) and name != commonest:
            smaller = without_granularity(smaller, name)
    without = frozenset(site.name for site in hospitals if site.counts[commonest] == 0)
    model = _federated(smaller, _read(smaller, folder, lacking, left_out=without)).popitem()[1]
    models = dict.fromkeys((site.name for site in hospitals), model)
    return _Way(models=models, study=smaller, shows=_hide_others)


def _local_only(study: Study, hospitals: list[PlainSite]) -> _Way:
    """Each hospital's own model; what it has never seen is hidden from it."""
    models = {s.name: train_centrally(study, s.cohort.train, site=s.name) for s in hospitals}
    known = {
        s.name: {g for g, a in s.cohort.train.arrays.items() if a["present_B"].any()}
        for s in hospitals
    }

    def shows(site: str, cohort: Cohort, subset: Subset) -> Cohort:
        return _hide_others(site, cohort, tuple(g for g in subset if g in known[site]))

    return _Way(models=models, study=study, shows=shows)


def _federated(
    study: Study,
    hospitals: list[PlainSite],
    *,
    build: Callable[[Study], PatientModel] = PatientModel,
) -> dict[str, PatientModel]:
    model = build(study)
    load_state(model, plain_loop(study, hospitals, build=build).model)
    return dict.fromkeys((site.name for site in hospitals), model)


def _evaluate(
    way: _Way, hospitals: list[PlainSite], study: Study, subset: Subset
) -> Iterator[tuple[str, Metrics]]:
    """Scope and metrics over the held-out patients who have the whole subset."""
    parts: list[Evaluated] = []
    for site in hospitals:
        held_out = site.cohort.test
        has_all_B = np.all([held_out.arrays[g]["present_B"] for g in subset], axis=0)
        patients = held_out.select(has_all_B)
        shown = way.shows(site.name, patients, subset)
        arrays = {name: shown.arrays[name] for name in way.study.granularities}
        on_device = to_device(replace(shown, arrays=arrays), torch.device("cpu"))
        parts.append((predict(way.models[site.name], on_device), patients.outcomes))
    name, statistics = next(iter(statistics_of(study).items()))
    predictions, outcomes = pooled(parts)
    yield POOLED, statistics.exact_metrics(predictions[name], outcomes[name])
    yield MEAN, mean_of_sites([statistics.exact_metrics(p[name], o[name]) for p, o in parts])


def _hide_others(_: str, cohort: Cohort, subset: Subset) -> Cohort:
    """The patients as if nobody had any granularity beside those of `subset`."""
    arrays = {
        name: a if name in subset else {**a, "present_B": np.zeros(len(cohort), dtype=np.bool_)}
        for name, a in cohort.arrays.items()
    }
    return replace(cohort, arrays=arrays)


def _counting_everybody(study: Study, site: PlainSite) -> PlainSite:
    """The hospital for zero-filling: every patient counts for every granularity."""
    everybody = dict.fromkeys(study.granularities, site.counts["patients"])
    return replace(site, counts={**site.counts, **everybody})
