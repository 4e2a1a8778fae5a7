"""The granularities of a study: what is known of a patient at one resolution, by kind.

Each kind has one section here, one reader in `client/sources` and its encoders in `common/models`.
What a section fixes is public knowledge: plausible ranges, categories, markers, image sizes; never
anything learned from patients.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from common.augmentation import ImageAugmentation, SeriesAugmentation
from common.contract import Section
from common.features import CategoricalFeature, Feature, NumericFeature
from common.fields import Count, Finite, Fraction, Name, Positive, Word, check_range
from common.pretrained import Pretrained


class Granularity(Section):
    """What all kinds have in common.

    Attributes:
        max_unusable_fraction: the part of a feature's values at a site that may lie outside the
            range, or be of no known category, before the site's data count as wrong.
    """

    max_unusable_fraction: Fraction = 0.05

    @property
    def numeric(self) -> dict[str, NumericFeature]:
        """The measured quantities that are normalised, in the order of the study; none by default.

        Those of a series are its signals, those of markers the markers.
        """
        return {}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the patients' table that belong to this granularity."""
        return ()


class TabularGranularity(Granularity):
    """Numeric and categorical features of one row per patient.

    Attributes:
        hidden: widths of the hidden layers of its encoder; none makes the encoder linear.
        basis: "hinges" gives the encoder each number as a piecewise linear basis, so that even a
            linear one can find both low and high values dangerous; "linear": the number alone.
        flags_missing: whether the encoder is also told of each number that it is missing. Where
            nothing is, these flags are constants that a private plan clips and adds noise to.
    """

    kind: Literal["tabular"]
    features: Annotated[dict[Name, Feature], Field(min_length=1)]
    hidden: tuple[Count, ...] = (32,)
    basis: Literal["linear", "hinges"] = "linear"
    flags_missing: bool = True

    @property
    def numeric(self) -> dict[str, NumericFeature]:
        """The numeric features, in the order of the study."""
        return {k: f for k, f in self.features.items() if isinstance(f, NumericFeature)}

    @property
    def categorical(self) -> dict[str, CategoricalFeature]:
        """The categorical features, in the order of the study."""
        return {k: f for k, f in self.features.items() if isinstance(f, CategoricalFeature)}

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the features."""
        return tuple(self.features)


class SeriesGranularity(Granularity):
    """Irregular measurements over time, read onto a grid of steps with a mask.

    A step holds the mean of the values measured within it, [start, start + step). Measurements
    outside of [start_minutes, end_minutes) are not used.

    Attributes:
        encoder: "tcn", a temporal convolution; "gru", a recurrent network; "summary", a linear map
            of each signal's mean, extremes, spread, last value and coverage: for few patients.
        basis: of "summary", as of tabular granularities.
        hidden: width of the layers of "tcn" and "gru".
        num_layers: blocks of the temporal convolution, or layers of the recurrent network.
    """

    kind: Literal["series"]
    signals: Annotated[dict[Name, NumericFeature], Field(min_length=1)]
    start_minutes: Finite = 0.0
    end_minutes: Finite = 1440.0
    step_minutes: Positive = 60.0
    encoder: Literal["tcn", "gru", "summary"] = "tcn"
    basis: Literal["linear", "hinges"] = "linear"
    hidden: Count = 32
    num_layers: Count = 2
    augment: SeriesAugmentation = SeriesAugmentation()

    @model_validator(mode="after")
    def _steps_fill_the_window(self) -> Self:
        # As a float first: it may be more than an integer can be made of.
        ratio = (self.end_minutes - self.start_minutes) / self.step_minutes
        if not 0 < ratio <= 10_000:
            raise ValueError(
                "expected start_minutes < end_minutes, and 1 to 10000 steps of step_minutes "
                f"between them, found {ratio:g}"
            )
        return self

    @property
    def num_steps(self) -> int:
        """The steps of the grid; the last may be cut by the end of the window."""
        return -int(-(self.end_minutes - self.start_minutes) // self.step_minutes)

    @property
    def numeric(self) -> dict[str, NumericFeature]:
        """The signals, in the order of the study."""
        return dict(self.signals)


class ImagesGranularity(Granularity):
    """One or more grayscale images of a patient, resized to one size (height, width) in pixels.

    Attributes:
        max_images: the images of a patient that are used: the first ones listed.
        contrast: "stretch" maps the 1st to 99th percentile onto the full range; "equalise" flattens
            the histogram; "none" maps the image's own or its header's range.
        denoise: grayscale morphology ("opening" removes bright specks, "closing" dark ones), or the
            median, over 3 × 3 pixels.
        channels: of the encoder's stages, each of which halves the image.
    """

    kind: Literal["images"]
    size: tuple[Count, Count] = (64, 64)
    max_images: Count = 1
    contrast: Literal["none", "stretch", "equalise"] = "none"
    denoise: Literal["none", "opening", "closing", "median"] = "none"
    encoder: Literal["cnn", "residual_cnn"] = "cnn"
    channels: Annotated[tuple[Count, ...], Field(min_length=1)] = (16, 32, 64)
    augment: ImageAugmentation = ImageAugmentation()

    @model_validator(mode="after")
    def _images_survive_the_stages(self) -> Self:
        if min(self.size) < 2 ** len(self.channels):
            raise ValueError(
                f"expected a size of at least {2 ** len(self.channels)} pixels for "
                f"{len(self.channels)} stages, found {min(self.size)}"
            )
        return self


class MarkersGranularity(Granularity):
    """A vector of genomic markers: allele dosages (0 to 2) or expression levels.

    Attributes:
        markers: their names, in the order of the model's inputs. In a VCF a marker is named by its
            ID, or CHROM:POS:REF:ALT where it has none.
        range: plausible for every marker.
        encoder: "mlp"; "cnn1d", over neighbouring markers; "cnn2d", markers laid out row by row as
            a square image.
        hidden: widths of the hidden layers of "mlp", channels of the convolutions of the others.
    """

    kind: Literal["markers"]
    markers: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    unit: str = "dosage"
    range: tuple[Finite, Finite] = (0.0, 2.0)
    encoder: Literal["mlp", "cnn1d", "cnn2d"] = "mlp"
    hidden: tuple[Count, ...] = (32,)

    _ascending = field_validator("range")(check_range)

    @model_validator(mode="after")
    def _convolutions_have_channels(self) -> Self:
        if self.encoder != "mlp" and not self.hidden:
            raise ValueError(f"expected one width or more in hidden for encoder '{self.encoder}'")
        return self

    @field_validator("markers")
    @classmethod
    def _markers_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("expected markers that differ from one another")
        return value

    @property
    def numeric(self) -> dict[str, NumericFeature]:
        """Each marker as a feature with the range of all."""
        feature = NumericFeature(kind="numeric", unit=self.unit, range=self.range)
        return dict.fromkeys(self.markers, feature)


class TokenGranularity(Granularity):
    """What notes and sequences share: a row of token codes per patient, and its encoder.

    Attributes:
        max_tokens: the tokens of a patient that are used.
        encoder: "lstm", "transformer", "bag" (the mean of the embeddings); of notes "pretrained".
        hidden: width of the token embeddings and of the encoder's layers.
        num_heads: of the Transformer; it must divide `hidden`.
    """

    max_tokens: Annotated[int, Field(strict=True, ge=1, le=8192)] = 128
    encoder: Literal["lstm", "transformer", "bag", "pretrained"] = "bag"
    # Layer normalisation of a single number is a constant.
    hidden: Annotated[int, Field(strict=True, ge=2)] = 32
    num_layers: Count = 1
    num_heads: Count = 2

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> Self:
        if self.encoder == "transformer" and self.hidden % self.num_heads:
            raise ValueError(
                f"expected a hidden that num_heads divides, found {self.hidden} and "
                f"{self.num_heads}"
            )
        return self

    @property
    def num_codes(self) -> int:
        """The token codes there are: 0 is padding, 1 is unknown or masked, the others from 2."""
        raise NotImplementedError


class NotesGranularity(TokenGranularity):
    """Texts of a patient, joined in the order of their minutes (or of the file).

    Words are lower-cased runs of letters and digits. Without a `vocabulary`, a word's code is its
    hash, so that no list of words is learned from patients or exchanged.

    Attributes:
        num_buckets: codes that words are hashed to.
        vocabulary: public words with a code each; any other word is unknown. It replaces hashing.
        masked_words: words that would give the outcome away ("deceased"); they become unknown.
        start_minutes, end_minutes: notes with a time outside of [start, end) are not used.
        pretrained: the weights of encoder "pretrained", whose tokens are parts of words; no other
            encoder looks at them.
    """

    kind: Literal["notes"]
    num_buckets: Annotated[int, Field(strict=True, ge=2, le=1_000_000)] = 4096
    vocabulary: tuple[Word, ...] = ()
    masked_words: tuple[Word, ...] = ()
    start_minutes: Finite | None = None
    end_minutes: Finite | None = None
    # Left out where nothing is asked, so that older studies keep their hash.
    pretrained: Annotated[Pretrained | None, Field(exclude_if=lambda value: value is None)] = None

    @model_validator(mode="after")
    def _window_and_words_make_sense(self) -> Self:
        start, end = self.start_minutes, self.end_minutes
        if start is not None and end is not None and start >= end:
            raise ValueError(
                f"expected start_minutes before end_minutes, found {start:g} and {end:g}"
            )
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError("expected words in vocabulary that differ from one another")
        if self.encoder == "pretrained" and self.pretrained is None:
            raise ValueError("expected a table pretrained with the digest and width of the weights")
        return self

    @property
    def num_codes(self) -> int:
        """Padding, unknown, and one code for each word of the vocabulary or bucket."""
        return 2 + (len(self.vocabulary) or self.num_buckets)


class SequencesGranularity(TokenGranularity):
    """Nucleotide sequences of a patient (FASTA), read as overlapping k-mers.

    A k-mer with any letter but A, C, G, T is unknown.

    Attributes:
        k: letters of a token.
        stride: letters from the start of one token to that of the next.
    """

    kind: Literal["sequences"]
    encoder: Literal["lstm", "transformer", "bag"] = "bag"
    k: Annotated[int, Field(strict=True, ge=1, le=8)] = 3
    stride: Count = 1

    @property
    def num_codes(self) -> int:
        """Padding, unknown, and 4^k k-mers."""
        return 2 + (1 << 2 * self.k)


AnyGranularity = Annotated[
    TabularGranularity
    | SeriesGranularity
    | ImagesGranularity
    | MarkersGranularity
    | NotesGranularity
    | SequencesGranularity,
    Field(discriminator="kind"),
]
