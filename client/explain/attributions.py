"""Attributions of a subject's patients, with captum's integral: `client.attributions` has the rest.

A hospital's own eyes look at what an established library says; what a study asks for needs none.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from client.attributions import Attributions, Integrator, Judge
from client.attributions import attributions as attributions_by
from client.explain.subject import Subject
from client.integrated_gradients import Score, Tensors
from common.errors import SiteConfigError


def attributions(subject: Subject, outcome: str, index: NDArray[np.int64]) -> Attributions:
    """As `client.attributions.attributions`, by captum.

    Raises:
        SiteConfigError: captum is not installed.
    """
    return attributions_by(judge_of(subject), outcome, index, integrator_of_captum())


def judge_of(subject: Subject) -> Judge:
    """The subject's model, and its held-out patients."""
    return Judge(
        study=subject.study,
        model=subject.model,
        trained_on=subject.train.patients,
        patients=subject.test.patients,
        predictions=subject.test.predictions,
        intercepts=subject.intercepts,
    )


def integrator_of_captum() -> Integrator:
    """Captum's integrated gradients.

    Raises:
        SiteConfigError: captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients  # type: ignore[import-untyped]  # optional
    except ImportError:
        raise SiteConfigError(
            "Expected the library captum, found it is not installed on this computer. Install it: "
            "pip install 'wardround[explain]'."
        ) from None

    def integral(
        score: Score,
        values: Tensors,
        starts: Tensors,
        fixed: Sequence[Tensor],
        *,
        num_steps: int,
        num_rows: int,
    ) -> Tensors:
        method: Any = IntegratedGradients(score)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Tensors = method.attribute(
                values,
                baselines=starts,
                additional_forward_args=tuple(fixed),
                n_steps=num_steps,
                internal_batch_size=max(num_rows, len(values[0])),
            )
        return found

    return integral
