"""Pictures of patients with what the model made of them, for a contact sheet; worst misses first.

Letters of shapes: B patients, N images, H height, W width.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from client.explain.reliance import Reliance
from client.explain.subject import Subject
from common.granularities import ImagesGranularity
from common.metrics.survival import negative_log_likelihood, risk_of
from common.outcomes import ClassOutcome, RegressionOutcome

Floats = NDArray[np.float64]

MOST_PICTURES = 24
# Red raises the score, blue lowers it: told apart by all common kinds of colour vision.
_RAISES, _LOWERS = np.array([230.0, 97.0, 0.0]), np.array([26.0, 133.0, 255.0])
_STRONGEST = 0.75
_SMOOTHING = 3


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One patient's first picture.

    Attributes:
        plain, overlaid: PNG as data URIs; the second with what each place adds to the score.
        size: height and width, in pixels.
        miss: how far the prediction was off: 1 - probability of the true class; absolute error;
            negative log likelihood.
    """

    patient_id: str
    plain: str
    overlaid: str
    size: tuple[int, int]
    predicted: str
    outcome: str
    miss: float


def contact_sheet(subject: Subject, granularity: str, reliance: Reliance) -> list[Picture]:
    """The pictures whose predictions of the first outcome were furthest off, worst first.

    Patients without a picture, or whose outcome is not known, are not in it.

    Args:
        reliance: of the first outcome.
    """
    if not isinstance(subject.study.granularities[granularity], ImagesGranularity):
        raise ValueError("expected a granularity of images")
    name = next(iter(subject.study.outcomes))
    test = subject.test
    arrays = test.cohort.arrays[granularity]
    miss_B = misses(subject)
    shown_B = (arrays["present_B"] & test.known(name))[reliance.index]
    places = np.flatnonzero(shown_B)
    places = places[np.argsort(-miss_B[reliance.index][places], kind="stable")][:MOST_PICTURES]
    pictures = []
    for place in places:
        b = int(reliance.index[place])
        n = int(np.argmax(arrays["observed_BN"][b]))
        pixels_HW = arrays["images_BNHW"][b, n]
        added_HW = reliance.attributions.pixels[granularity][place, n]
        predicted, outcome = _words(subject, b)
        pictures.append(
            Picture(
                patient_id=test.ids[b],
                plain=_png(np.repeat(pixels_HW[:, :, None], 3, axis=2)),
                overlaid=_png(overlay(pixels_HW, added_HW)),
                size=(pixels_HW.shape[0], pixels_HW.shape[1]),
                predicted=predicted,
                outcome=outcome,
                miss=float(miss_B[b]),
            )
        )
    return pictures


def misses(subject: Subject) -> Floats:
    """How far each held-out patient's prediction of the first outcome is off, shape (B,)."""
    name, outcome = next(iter(subject.study.outcomes.items()))
    predicted_BP = subject.test.predictions[name]
    arrays = subject.test.cohort.outcomes[name]
    if isinstance(outcome, ClassOutcome):
        true_B = np.maximum(arrays["label_B"], 0)
        missed_B: Floats = 1 - predicted_BP[np.arange(len(true_B)), true_B]
        return missed_B
    if isinstance(outcome, RegressionOutcome):
        return np.abs(predicted_BP[:, 0] - arrays["value_B"].astype(np.float64))
    event_B, time_B = arrays["event_B"], arrays["time_B"].astype(np.float64)
    if outcome.loss == "discrete_time":
        return negative_log_likelihood(predicted_BP, time_B, event_B, outcome.cut_points)
    risk_B = risk_of(predicted_BP)
    return np.where(event_B, 1 - risk_B, risk_B)


def overlay(pixels_HW: NDArray[np.uint8], added_HW: Floats) -> NDArray[np.uint8]:
    """The picture, (H, W, 3): orange where a place raises the score, blue where it lowers it.

    The stronger, the more colour; a picture that adds nothing stays grey.
    """
    smooth_HW = _smoothed(added_HW)
    strongest = float(np.abs(smooth_HW).max())
    part_HW1 = np.abs(smooth_HW)[:, :, None] / strongest if strongest > 0 else 0.0
    colour_HW3 = np.where(smooth_HW[:, :, None] > 0, _RAISES, _LOWERS)
    alpha = _STRONGEST * part_HW1
    grey_HW3 = np.repeat(pixels_HW[:, :, None].astype(np.float64), 3, axis=2)
    result_HW3 = (1 - alpha) * grey_HW3 + alpha * colour_HW3
    return np.clip(np.rint(result_HW3), 0, 255).astype(np.uint8)


def _smoothed(added_HW: Floats) -> Floats:
    """The mean over a small square: single pixels of a gradient are noise."""
    reach = _SMOOTHING // 2
    padded = np.pad(added_HW, reach, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (_SMOOTHING, _SMOOTHING))
    mean_HW: Floats = windows.mean(axis=(2, 3))
    return mean_HW


def _words(subject: Subject, b: int) -> tuple[str, str]:
    """What was predicted of the first outcome, and what was observed."""
    name, outcome = next(iter(subject.study.outcomes.items()))
    predicted_P = subject.test.predictions[name][b]
    arrays = subject.test.cohort.outcomes[name]
    if isinstance(outcome, ClassOutcome):
        c = int(predicted_P.argmax())
        label = outcome.classes[int(arrays["label_B"][b])]
        return f"{outcome.classes[c]} ({100 * predicted_P[c]:.0f} %)", label
    if isinstance(outcome, RegressionOutcome):
        value = float(arrays["value_B"][b])
        return f"{predicted_P[0]:.4g} {outcome.unit}", f"{value:.4g} {outcome.unit}"
    what = "event" if arrays["event_B"][b] else "no event until"
    observed = f"{what} {arrays['time_B'][b]:.4g} {outcome.unit}"
    return f"mean risk {100 * (1 - predicted_P.mean()):.0f} %", observed


def _png(pixels_HW3: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels_HW3).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
