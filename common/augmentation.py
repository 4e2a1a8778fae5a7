"""How inputs are varied in training: sections of the study; `common.models.augment` does it."""

from common.contract import Section
from common.fields import Fraction, NonNegative


class SeriesAugmentation(Section):
    """How series are varied in training, per patient and per batch.

    Attributes:
        noise: standard deviation added to each observed value, in standard deviations of the
            signal.
        drop: the part of the observed steps that are hidden.
    """

    noise: NonNegative = 0.0
    drop: Fraction = 0.0


class ImageAugmentation(Section):
    """How images are varied in training, per patient and per batch.

    Attributes:
        flip: the probability of a mirror image, left to right.
        shift: the largest shift, as a part of the image's side.
        contrast: the largest relative change of contrast.
        noise: standard deviation of noise, where the image's range is 0 to 1.
    """

    flip: Fraction = 0.0
    shift: Fraction = 0.0
    contrast: Fraction = 0.0
    noise: NonNegative = 0.0
