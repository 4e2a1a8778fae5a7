"""The disease behind simulated patients: a latent state, what shows of it, and what follows.

The state z of a patient is Gaussian. A granularity shows a few summaries u = A z + noise of it, and
an outcome depends on it through one number, its driver. So what any subset of granularities can
tell of a driver is known exactly: that is the ground truth which models are held against. Files are
rendered from the summaries alone (`simulations.rendering`), and can therefore tell no more.

It must never use anything of a patient but z and the patient's own noise.

Letters of shapes: B patients, L latent dimensions, K summaries, N nodes of a quadrature.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_NODES_N, _WEIGHTS_N = np.polynomial.hermite_e.hermegauss(16)
_erf = np.frompyfunc(math.erf, 1, 1)


@dataclass(frozen=True, kw_only=True)
class View:
    """What one granularity shows of z: u = A z + noise.

    Attributes:
        loading_KL: A.
        noise_K: the standard deviation of the noise of each summary.
    """

    loading_KL: Floats
    noise_K: Floats

    def draw(self, z_BL: Floats, random: np.random.Generator) -> Floats:
        """The summaries u (B, K) of these patients."""
        noise_BK = self.noise_K * random.normal(size=(len(z_BL), len(self.noise_K)))
        u_BK: Floats = z_BL @ self.loading_KL.T + noise_BK
        return u_BK

    def standardise(self, u_BK: Floats) -> Floats:
        """The summaries with a variance of 1 over the patients of any one hospital."""
        variance_K = (self.loading_KL**2).sum(axis=1) + self.noise_K**2
        standard_BK: Floats = u_BK / np.sqrt(variance_K)
        return standard_BK


class Driver(ABC):
    """The one number through which an outcome depends on z."""

    @abstractmethod
    def values(self, z_BL: Floats, prior_L: Floats) -> Floats:
        """The driver of each patient of a hospital where z has this mean."""

    @abstractmethod
    def nodes(
        self, mean_BL: Floats, covariance_LL: Floats, prior_L: Floats
    ) -> tuple[Floats, Floats]:
        """Its distribution where z is Gaussian: values (B, N) and their probabilities (B, N)."""

    @abstractmethod
    def explained(self, covariance_LL: Floats) -> float:
        """The part of its variance that is explained where this covariance of z is left."""


@dataclass(frozen=True, kw_only=True)
class LinearDriver(Driver):
    """intercept + w · z.

    >>> driver = LinearDriver(weight_L=np.array([3.0, 4.0]))
    >>> driver.explained(np.diag([1.0, 0.25]))  # 16 × .75 of 25
    0.48
    """

    weight_L: Floats
    intercept: float = 0.0

    def values(self, z_BL: Floats, prior_L: Floats) -> Floats:
        """See `Driver`; the hospital matters through z alone."""
        values_B: Floats = self.intercept + z_BL @ self.weight_L
        return values_B

    def nodes(
        self, mean_BL: Floats, covariance_LL: Floats, prior_L: Floats
    ) -> tuple[Floats, Floats]:
        """See `Driver`; Gauss–Hermite nodes."""
        spread = math.sqrt(max(0.0, float(self.weight_L @ covariance_LL @ self.weight_L)))
        values_BN = self.values(mean_BL, prior_L)[:, None] + spread * _NODES_N
        return values_BN, np.broadcast_to(_WEIGHTS_N / _WEIGHTS_N.sum(), values_BN.shape)

    def explained(self, covariance_LL: Floats) -> float:
        """See `Driver`."""
        left = float(self.weight_L @ covariance_LL @ self.weight_L)
        return 1 - left / float(self.weight_L @ self.weight_L)


@dataclass(frozen=True, kw_only=True)
class InteractionDriver(Driver):
    """± strength: plus where two dimensions of z have the same sign (an exclusive or).

    Guarantees:
        - What tells of one of the two dimensions alone tells nothing of the driver.

    The hospital's case mix moves it as an intercept, and not through z. The two dimensions must be
    independent given what is shown of them: no granularity may mix them with a third one that
    another shows too.
    """

    first: int
    second: int
    strength: float

    def values(self, z_BL: Floats, prior_L: Floats) -> Floats:
        """See `Driver`."""
        same_B = np.where(z_BL[:, self.first] * z_BL[:, self.second] >= 0, 1.0, -1.0)
        values_B: Floats = prior_L[0] + self.strength * same_B
        return values_B

    def nodes(
        self, mean_BL: Floats, covariance_LL: Floats, prior_L: Floats
    ) -> tuple[Floats, Floats]:
        """See `Driver`; two values."""
        sign_B2 = np.stack(
            [_mean_sign(mean_BL[:, i], covariance_LL[i, i]) for i in (self.first, self.second)],
            axis=1,
        )
        same_B = (1 + sign_B2.prod(axis=1)) / 2
        values_N = prior_L[0] + self.strength * np.array([-1.0, 1.0])
        weights_BN = np.stack([1 - same_B, same_B], axis=1)
        return np.broadcast_to(values_N, weights_BN.shape), weights_BN

    def explained(self, covariance_LL: Floats) -> float:
        """See `Driver`; by the arcsine law of the signs of two correlated Gaussians."""
        shares = [1 - float(covariance_LL[i, i]) for i in (self.first, self.second)]
        return math.prod(2 / math.pi * math.asin(min(1.0, max(0.0, share))) for share in shares)


def _mean_sign(mean_B: Floats, variance: float) -> Floats:
    """The expected sign of Gaussians: erf(m / √(2 v))."""
    return np.asarray(_erf(mean_B / math.sqrt(2 * max(variance, 1e-12))), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """A randomised treatment: who gets it is a coin flip, independent of z.

    The response is `centre` + the baseline + noise, and the effect τ(z) on top for the treated.

    Attributes:
        target: the regression outcome whose column holds the transformed response
            (Y - centre)(W - p) / (p (1 - p)), of which τ(z) is the mean given z.
        limit: what the target lies within, by either sign.

    Source: Athey & Imbens 2016, Recursive partitioning for heterogeneous causal effects, section
    2.3 (the transformed outcome). Differs from the source in subtracting a constant from Y, which
    leaves the mean as it is and makes the variance smaller.
    """

    target: str
    limit: float
    baseline: LinearDriver
    effect: LinearDriver
    noise: float
    probability: float = 0.5

    @property
    def centre(self) -> float:
        """The middle of the scale of the response, which starts at 0."""
        return self.limit * self.probability


@dataclass(frozen=True, kw_only=True)
class DiseaseProcess:
    """What z shows and does, the same at every hospital of a cohort.

    Attributes:
        views: by granularity.
        drivers: by outcome.
        treatment: where the study is of one.
    """

    views: Mapping[str, View]
    drivers: Mapping[str, Driver]
    treatment: Treatment | None = None

    @property
    def num_latent(self) -> int:
        """L."""
        return int(next(iter(self.views.values())).loading_KL.shape[1])

    def prior(self, severity_shift: float = 0.0) -> Floats:
        """The mean of z at a hospital: dimension 0 is the severity."""
        prior_L = np.zeros(self.num_latent)
        prior_L[0] = severity_shift
        return prior_L

    def covariance(self, granularities: Collection[str]) -> Floats:
        """The covariance of z (L, L) that is left where these granularities are seen."""
        precision_LL: Floats = np.eye(self.num_latent)
        for name in granularities:
            view = self.views[name]
            weighed_KL = view.loading_KL / view.noise_K[:, None] ** 2
            precision_LL = precision_LL + view.loading_KL.T @ weighed_KL
        return np.asarray(np.linalg.inv(precision_LL), dtype=np.float64)

    def posterior(
        self, summaries: Mapping[str, Floats], prior_L: Floats, num_patients: int
    ) -> tuple[Floats, Floats]:
        """The mean (B, L) and the covariance (L, L) of z given the summaries of granularities.

        Guarantees:
            - No summaries give the prior; more of them never leave more variance.
        """
        covariance_LL = self.covariance(summaries)
        evidence_BL = np.zeros((num_patients, self.num_latent))
        for name, u_BK in summaries.items():
            view = self.views[name]
            surprise_BK = (u_BK - view.loading_KL @ prior_L) / view.noise_K**2
            evidence_BL += surprise_BK @ view.loading_KL
        return prior_L + evidence_BL @ covariance_LL, covariance_LL
