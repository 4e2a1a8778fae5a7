"""The plan of a study: normalisation, evaluation, model, training, strategy, what stays at home."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.contract import Section
from common.fields import Count, Fraction, Name, NonNegative, Positive
from common.subgroups import MOST_FEATURES, AnySubgroup


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
        subgroups: features by whose groups the last model is also judged; under patient-level
            privacy nothing of groups is released.
        attributions: whether hospitals also tell, of all their held-out patients together, what the
            last model's predictions rest on; under patient-level privacy nothing of it is released.
    """

    split_column: Name = "split"
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.25
    split_seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    folds: Annotated[int, Field(strict=True, ge=2, le=100)] = 5
    validation_fold: Annotated[int, Field(strict=True, ge=0)] | None = None
    score_bins: Annotated[int, Field(strict=True, ge=10, le=10_000)] = 200
    # Where there are none, the study is what it was before the key was thought of, hash included.
    subgroups: Annotated[
        tuple[AnySubgroup, ...], Field(max_length=MOST_FEATURES, exclude_if=lambda value: not value)
    ] = ()
    attributions: Annotated[bool, Field(strict=True, exclude_if=lambda value: not value)] = False

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
        num_heads: of "attention"; it must divide the width.
        edges: pairs of different granularities that "graph" lets exchange what they know; none:
            all pairs.
        frozen: granularities whose encoders stay as they start (`--init-from`), untrained.
        granularity_dropout: the part of a patient's granularities that are hidden in training.
        site_intercept_sd: how far a site may move the model's logits by an intercept of its own,
            as the standard deviation of a prior (`client.recalibration`); 0: not at all.
    """

    width: Annotated[int, Field(strict=True, ge=2, le=4096)] = 16
    fusion: Literal["attention", "gated_sum", "concat", "graph"] = "attention"
    num_heads: Count = 2
    edges: tuple[tuple[Name, Name], ...] = ()
    frozen: tuple[Name, ...] = ()
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

    @model_validator(mode="after")
    def _edges_are_of_a_graph(self) -> Self:
        if self.edges and self.fusion != "graph":
            raise ValueError(
                f"expected edges with fusion = 'graph' alone, found fusion = '{self.fusion}'"
            )
        loops = sorted({one for one, other in self.edges if one == other})
        if loops:
            raise ValueError(
                f"expected edges between different granularities, found {', '.join(loops)} twice"
            )
        return self


class Training(Section):
    """What one site does in one round, and how many rounds there are.

    Exactly one of `local_epochs` and `local_steps` is given.

    Attributes:
        balance: "resample" draws patients with replacement, so that each class of the first outcome
            is met equally often; "none" visits each patient once an epoch.
    """

    rounds: Count
    local_epochs: Count | None = None
    local_steps: Count | None = None
    batch_size: Count = 32
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: Positive = 0.05
    momentum: Fraction = 0.0
    weight_decay: NonNegative = 0.0
    balance: Literal["none", "resample"] = "none"
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
        tail_average: the part of the rounds, at the end, whose models are averaged into the one
            that is released (`common.tail_average`); 0: the last model as it is.
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
    # Where there is none, the study is what it was before the key was thought of, hash included.
    tail_average: Annotated[Fraction, Field(exclude_if=lambda value: not value)] = 0.0
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


class Personal(Section):
    """What a hospital keeps for itself. Nothing of it is ever sent.

    Attributes:
        local_blocks: patterns of parameter names ("heads.*", "encoders.labs.*") that every site
            trains and keeps at home. Source: FedPer, Arivazhagan et al. 2019, arXiv:1912.00818;
            FedBN, Li et al. 2021, arXiv:2102.07623, for normalisation layers.
        fine_tune_steps: steps that a site trains the last model further, for itself.
        ditto_lambda: pull of a personal model, trained beside the shared one in every round,
            towards it; 0: there is none. Source: Li et al. 2021, arXiv:2012.04221, algorithm 1.
    """

    local_blocks: tuple[str, ...] = ()
    fine_tune_steps: Annotated[int, Field(strict=True, ge=0)] = 0
    ditto_lambda: NonNegative = 0.0

    @model_validator(mode="after")
    def _one_personal_model(self) -> Self:
        if self.fine_tune_steps and self.ditto_lambda:
            raise ValueError("expected at most one of fine_tune_steps and ditto_lambda")
        return self

    @property
    def has_model(self) -> bool:
        """Whether a site ends up with a model of its own, beside the shared one."""
        return self.fine_tune_steps > 0 or self.ditto_lambda > 0
