"""The anchor of survival studies: a pooled Cox model with ridge, held against our federated one.

The regularisation stands here as a constant because it was chosen on training patients alone: by
the mean C-index of repeated 5-fold inner validation within FLamby's training fold.

Letters of shapes: B patients, F features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.metrics.survival import concordance_index
from common.outcomes import SurvivalOutcome
from common.study import Study

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

RIDGE: Final = 0.03
_MAX_NEWTON_STEPS: Final = 100
_SMALLEST_DECREMENT: Final = 1e-15
_STEP_SIZES: Final = tuple(0.5**k for k in range(20))


@dataclass(frozen=True, kw_only=True)
class SurvivalAnchor:
    """C-indices on held-out patients: of all, and of each site (NaN without a comparable pair)."""

    pooled: float
    by_site: Mapping[str, float]

    @property
    def mean_over_sites(self) -> float:
        """The mean over the sites that have one."""
        return float(np.nanmean(list(self.by_site.values())))


def fit_cox(x_BF: Floats, time_B: Floats, event_B: Flags, *, ridge: float) -> Floats:
    """The coefficients, shape (F,), of Cox's model by Newton's method.

    Guarantees:
        - The gradient of the mean negative log partial likelihood (Breslow's ties) plus
          ridge/2 · |β|² is zero there.

    Source: Breslow 1974, Biometrics 30:89 (the treatment of ties).
    """
    num_patients, num_features = x_BF.shape
    penalty = ridge * num_patients
    beta_F = np.zeros(num_features)
    value, gradient_F, hessian_FF = _partial_likelihood(x_BF, time_B, event_B, beta_F, penalty)
    for _ in range(_MAX_NEWTON_STEPS):
        step_F = np.linalg.solve(hessian_FF, gradient_F)
        decrement = float(gradient_F @ step_F)
        if decrement / num_patients < _SMALLEST_DECREMENT:
            return beta_F
        for size in _STEP_SIZES:
            candidate_F = beta_F - size * step_F
            found = _partial_likelihood(x_BF, time_B, event_B, candidate_F, penalty)
            if found[0] <= value - 0.1 * size * decrement:
                break
        else:
            return beta_F  # rounding hides any further progress
        beta_F, (value, gradient_F, hessian_FF) = candidate_F, found
    raise ValueError(f"expected Newton's method to end within {_MAX_NEWTON_STEPS} steps")


def cox_anchor(patients: pd.DataFrame, study: Study, *, ridge: float = RIDGE) -> SurvivalAnchor:
    """The C-indices of the Cox model that is trained on all sites' training patients at once.

    Features are standardised by training patients.

    Args:
        patients: of `anchors.read_folders`, with a column `split`.
        study: its numeric tabular features are the model's, all of which are known; its primary
            outcome is survival.
    """
    outcome = study.primary
    if not isinstance(outcome, SurvivalOutcome):
        raise ValueError("expected a study with a survival outcome first")
    columns = [c for g in study.granularities.values() if g.columns for c in g.numeric]
    x_BF = patients[columns].to_numpy(dtype=np.float64)
    time_B = patients[outcome.time_column].to_numpy(dtype=np.float64)
    event_B = patients[outcome.event_column].to_numpy() == 1
    train_B = (patients["split"] == "train").to_numpy()
    scale_F = x_BF[train_B].std(axis=0)
    z_BF = (x_BF - x_BF[train_B].mean(axis=0)) / np.where(scale_F > 0, scale_F, 1.0)
    beta_F = fit_cox(z_BF[train_B], time_B[train_B], event_B[train_B], ridge=ridge)
    risk_B = z_BF @ beta_F
    by_site = {}
    for site in patients["site"].unique():
        here_B = ~train_B & (patients["site"] == site).to_numpy()
        by_site[str(site)] = concordance_index(time_B[here_B], event_B[here_B], risk_B[here_B])
    pooled = concordance_index(time_B[~train_B], event_B[~train_B], risk_B[~train_B])
    return SurvivalAnchor(pooled=pooled, by_site=by_site)


def _partial_likelihood(
    x_BF: Floats, time_B: Floats, event_B: Flags, beta_F: Floats, penalty: float
) -> tuple[float, Floats, Floats]:
    """The negative log partial likelihood and its penalty, the gradient (F,), the Hessian."""
    eta_B = x_BF @ beta_F
    weight_B = np.exp(eta_B - eta_B.max())
    value = 0.5 * penalty * float(beta_F @ beta_F)
    gradient_F = penalty * beta_F
    hessian_FF = penalty * np.eye(len(beta_F))
    for time in np.unique(time_B[event_B]):
        dying_B, at_risk_B = event_B & (time_B == time), time_B >= time
        num_dying = int(dying_B.sum())
        share_B = weight_B[at_risk_B] / weight_B[at_risk_B].sum()
        mean_F = share_B @ x_BF[at_risk_B]
        value += num_dying * float(np.log(weight_B[at_risk_B].sum()) + eta_B.max())
        value -= float(eta_B[dying_B].sum())
        gradient_F = gradient_F + num_dying * mean_F - x_BF[dying_B].sum(axis=0)
        second_FF = (x_BF[at_risk_B] * share_B[:, None]).T @ x_BF[at_risk_B]
        hessian_FF = hessian_FF + num_dying * (second_FF - np.outer(mean_F, mean_F))
    return value, gradient_F, hessian_FF
