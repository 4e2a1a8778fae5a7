"""The study: the research protocol that every hospital agrees on, validated, frozen and hashed.

A study names the granularities and their features, the outcome, the model, the training plan, the
strategy and the privacy plan. It is written by people as TOML (`common.study_file` reads it) and
never changes while it is in use: an override makes another study with another hash.

It must never hold anything learned from patients; ranges and categories are public knowledge.
"""

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from common.contract import Section

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Count = Annotated[int, Field(strict=True, ge=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class NumericFeature(Section):
    """A measured quantity. Values outside `range` are clipped to it, and counted.

    Attributes:
        unit: what one unit of the column is, as people write it ("mmHg").
        range: the plausible range, from public knowledge and not from the data.
        missing_codes: values that mean "not measured" (a cholesterol of 0).
    """

    kind: Literal["numeric"]
    unit: str
    range: tuple[Finite, Finite]
    missing_codes: tuple[Finite, ...] = ()

    @field_validator("range")
    @classmethod
    def _range_ascends(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] >= value[1]:
            raise ValueError("expected range = [low, high] with low < high")
        return value


class CategoricalFeature(Section):
    """A quality with a public, closed list of categories; anything else is unknown, and counted."""

    kind: Literal["categorical"]
    categories: Annotated[tuple[str, ...], Field(min_length=2)]

    @field_validator("categories")
    @classmethod
    def _categories_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value) or "" in value:
            raise ValueError("expected categories that are non-empty and differ from one another")
        return value


Feature = Annotated[NumericFeature | CategoricalFeature, Field(discriminator="kind")]


class TabularGranularity(Section):
    """Numeric and categorical features of one row per patient.

    Attributes:
        hidden: widths of the hidden layers of its encoder; none makes the encoder linear.
        max_unusable_fraction: the part of a feature's values at a site that may lie outside the
            range, or be of no known category, before the site's data count as wrong.
    """

    kind: Literal["tabular"]
    features: Annotated[dict[Name, Feature], Field(min_length=1)]
    hidden: tuple[Count, ...] = (32,)
    max_unusable_fraction: Fraction = 0.05

    @property
    def numeric(self) -> dict[str, NumericFeature]:
        """The numeric features, in the order of the study."""
        return {k: f for k, f in self.features.items() if isinstance(f, NumericFeature)}

    @property
    def categorical(self) -> dict[str, CategoricalFeature]:
        """The categorical features, in the order of the study."""
        return {k: f for k, f in self.features.items() if isinstance(f, CategoricalFeature)}


class Identity(Section):
    """What the study is called, and what it is for."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    title: str = ""
    description: str = ""


class Outcome(Section):
    """What is predicted: a column with one of the classes, in the order of their labels."""

    column: Name
    kind: Literal["binary", "multiclass"]
    classes: tuple[str, ...]

    @model_validator(mode="after")
    def _classes_fit_the_kind(self) -> Self:
        num_expected = "2" if self.kind == "binary" else "3 or more"
        fits = len(self.classes) == 2 if self.kind == "binary" else len(self.classes) >= 3
        if not fits or len(set(self.classes)) != len(self.classes) or "" in self.classes:
            raise ValueError(
                f"expected {num_expected} different, non-empty classes for kind = '{self.kind}', "
                f"found {len(set(self.classes) - {''})}"
            )
        return self


class Normalisation(Section):
    """How numeric features are centred and scaled.

    `federated`: by the mean and standard deviation over all sites, from exact sums within the
    public ranges. `public_range`: by the ranges alone; no statistic leaves a site.
    """

    method: Literal["federated", "public_range"] = "federated"


class Evaluation(Section):
    """Which patients are held out, and how finely their scores are counted.

    A `split_column` (values `train` and `test`) decides where the site's table has it; otherwise a
    keyed hash of the patient id holds out `test_fraction`, so that a patient stays on one side when
    rows are added.

    Attributes:
        validation_fold: for choosing settings: the held-out patients are left out altogether, and
            this fold (0…folds-1) of the others is evaluated on instead.
        score_bins: the number of equal bins in which scores are counted.
    """

    split_column: Name = "split"
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.25
    split_seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    folds: Annotated[int, Field(strict=True, ge=2, le=100)] = 5
    validation_fold: Annotated[int, Field(strict=True, ge=0)] | None = None
    score_bins: Annotated[int, Field(strict=True, ge=10, le=10_000)] = 200

    @model_validator(mode="after")
    def _fold_exists(self) -> Self:
        if self.validation_fold is not None and self.validation_fold >= self.folds:
            raise ValueError(
                f"expected validation_fold below folds = {self.folds}, found {self.validation_fold}"
            )
        return self


class Model(Section):
    """The fusion model: token width D, how tokens are fused, and regularisation.

    Attributes:
        site_intercept_sd: how far a site may move the model's logits by an intercept of its own,
            as the standard deviation of a prior (`client.recalibration`); 0: not at all.
    """

    width: Annotated[int, Field(strict=True, ge=2, le=4096)] = 16
    fusion: Literal["attention", "gated_sum", "concat"] = "attention"
    num_heads: Count = 2
    dropout: Fraction = 0.0
    granularity_dropout: Fraction = 0.0
    site_intercept_sd: NonNegative = 0.0

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.fusion == "attention" and self.width % self.num_heads:
            raise ValueError(
                f"expected a width that num_heads divides, found {self.width} and {self.num_heads}"
            )
        return self


class Training(Section):
    """What one site does in one round, and how many rounds there are.

    Exactly one of `local_epochs` and `local_steps` is given.
    """

    rounds: Count
    local_epochs: Count | None = None
    local_steps: Count | None = None
    batch_size: Count = 32
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: Positive = 0.05
    momentum: Fraction = 0.0
    weight_decay: NonNegative = 0.0
    seed: Annotated[int, Field(strict=True, ge=0)] = 0

    @model_validator(mode="after")
    def _one_measure_of_work(self) -> Self:
        if (self.local_epochs is None) == (self.local_steps is None):
            raise ValueError("expected exactly one of local_epochs and local_steps")
        return self

    def steps_of(self, num_patients: int) -> int:
        """The optimizer steps of a site with this many training patients in one round."""
        if self.local_steps is not None:
            return self.local_steps
        assert self.local_epochs is not None  # by the validator above
        return self.local_epochs * -(-num_patients // self.batch_size)


class Strategy(Section):
    """How updates become the next model.

    `combine` says how updates are averaged, block by block; `name` which optimizer the server then
    applies. `weights`: by observed patients, or every site alike.

    Attributes:
        min_sites: a round that fewer sites answer is not aggregated.
        min_sites_per_block: a granularity that fewer sites have is not trained: the mean over one
            site would publish that site's own update. 1 allows it.
        server_learning_rate: of the server's optimizer; without it 1 for fedavg and fedprox, and
            .03 for the adaptive ones, whose steps do not shrink with the updates.
        max_patients_per_site, max_update_norm: a site that claims more, or sends a longer update,
            is dropped from the round.
    """

    name: Literal["fedavg", "fedprox", "fedadam", "fedyogi", "fedadagrad"] = "fedavg"
    combine: Literal["mean", "median", "trimmed_mean"] = "mean"
    weights: Literal["patients", "equal"] = "patients"
    trimmed_fraction: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.2
    proximal_mu: NonNegative = 0.01
    server_learning_rate: Positive | None = None
    beta_1: Fraction = 0.9
    beta_2: Fraction = 0.99
    tau: Positive = 1e-3
    min_sites: Annotated[int, Field(strict=True, ge=2)] = 2
    min_sites_per_block: Count = 2
    max_attempts: Count = 3
    round_timeout_s: Positive = 600.0
    max_patients_per_site: Count = 100_000
    max_update_norm: Positive = 10_000.0

    @property
    def step_size(self) -> float:
        """The server's learning rate, given or by the kind of its optimizer."""
        if self.server_learning_rate is not None:
            return self.server_learning_rate
        return 1.0 if self.name in ("fedavg", "fedprox") else 0.03


class Privacy(Section):
    """The privacy plan. "none" is a plan with a name, and a site's policy must allow it."""

    mode: Literal["none"] = "none"


class Study(Section):
    """The whole protocol. Equal studies have equal hashes, and any difference changes the hash.

    Guarantees:
        - Studies are equal if their hashes are, and can be keys of a dict or a cache.
        - A study is frozen, and a key that it does not know is an error.
        - `hash` covers every field, and the order of granularities and features, which is the
          order of the model's inputs.
    """

    study: Identity
    outcome: Outcome
    granularities: Annotated[dict[Name, TabularGranularity], Field(min_length=1)]
    normalisation: Normalisation = Normalisation()
    evaluation: Evaluation = Evaluation()
    model: Model = Model()
    training: Training
    strategy: Strategy = Strategy()
    privacy: Privacy = Privacy()

    @model_validator(mode="after")
    def _granularities_are_not_all_patients(self) -> Self:
        # "patients" counts all patients of a site, beside the counts of each granularity.
        if "patients" in self.granularities:
            raise ValueError("expected another name than 'patients' for a granularity")
        return self

    @model_validator(mode="after")
    def _columns_are_used_once(self) -> Self:
        names = [self.outcome.column, self.evaluation.split_column, "patient_id"]
        for granularity in self.granularities.values():
            names += granularity.features
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                "expected every column (patient_id, outcome, split, features) to be named once, "
                f"found more than once: {', '.join(repeated)}"
            )
        return self

    @property
    def name(self) -> str:
        """The short name, safe as a file name."""
        return self.study.name

    @property
    def hash(self) -> str:
        """SHA-256, in hex, of the study in canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    # Pydantic's own equality does not see the order of a dict, and its own hash fails on one.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Study) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    @property
    def num_classes(self) -> int:
        """The number of classes of the outcome."""
        return len(self.outcome.classes)
