"""Tail averaging: what a run releases is the mean of its last rounds' models, where a study asks.

The models of single rounds scatter: by their batches, by what hospitals do alone between two
rounds, and by the noise of privacy. Their mean scatters less, and it is no further release: it is
made of models that the coordinator has.

Source: Jain et al. 2018, "Parallelizing stochastic gradient descent for least squares regression",
JMLR 18(223); of neural networks Izmailov et al. 2018, arXiv:1803.05407; under privacy De et al.
2022, arXiv:2204.13650, whose average is an exponential one.

Letters of shapes: P parameters.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.arrays import Arrays, Manifest, places_in, size_of
from common.study import Study


@dataclass(frozen=True, kw_only=True)
class Tail:
    """The models so far.

    Attributes:
        sum_P: of their parameters, float64; empty where none is averaged.
    """

    num_models: int
    sum_P: NDArray[np.float64]


def averaged_rounds(study: Study) -> int:
    """How many rounds at the end are averaged; 0 where the last model is released as it is.

    One alone is its own mean.
    """
    rounds = int(study.strategy.tail_average * study.training.rounds + 0.5)
    return rounds if rounds > 1 else 0


@dataclass(frozen=True, kw_only=True)
class TailAverage:
    """Which rounds of a run are averaged, and in which parameters.

    Guarantees:
        - What the manifest does not name (the normalisation) is that of the last model.
        - A study without averaging has its last model released as it is, bit for bit.
    """

    first_round: int
    manifest: Manifest

    @classmethod
    def of(cls, study: Study, manifest: Manifest) -> "TailAverage":
        """The plan of a study, for the trainable parameters of its model."""
        first_round = study.training.rounds - averaged_rounds(study) + 1
        return cls(first_round=first_round, manifest=manifest)

    def start(self) -> Tail:
        """Before the first round."""
        return Tail(num_models=0, sum_P=np.zeros(0))

    def takes(self, round_number: int) -> bool:
        """Whether the model after a round counts; to look costs less than to have the model."""
        return round_number >= self.first_round

    def add(self, tail: Tail, model: Arrays, *, round_number: int) -> Tail:
        """The tail with the model after a round, if that is one of the last.

        Args:
            round_number: aggregations so far, from 1.
        """
        if not self.takes(round_number):
            return tail
        sum_P = tail.sum_P.copy() if tail.num_models else np.zeros(size_of(self.manifest))
        for place, target in places_in(model.manifest, self.manifest):
            sum_P[place] += model.flat[target]
        return Tail(num_models=tail.num_models + 1, sum_P=sum_P)

    def released(self, tail: Tail, last: Arrays) -> Arrays:
        """The mean of the tail's models; the last model where there are none."""
        if tail.num_models == 0:
            return last
        mean_P = (tail.sum_P / tail.num_models).astype(np.float32)
        flat = last.flat.copy()
        for place, target in places_in(last.manifest, self.manifest):
            flat[target] = mean_P[place]
        return Arrays(manifest=last.manifest, flat=flat)
