"""The study: the research protocol that every hospital agrees on, validated, frozen and hashed.

A study names the granularities and their features, the outcomes, the model, the training plan, the
strategy and the privacy plan. It is written by people as TOML (`common.study_file` reads it) and
never changes while it is in use: an override makes another study with another hash.

It must never hold anything learned from patients; ranges and categories are public knowledge.
"""

import hashlib
import json
from typing import Annotated, Self

from pydantic import Field, model_validator

from common.contract import Section
from common.fields import TORCH_NAMES, Name
from common.granularities import AnyGranularity, TabularGranularity
from common.outcomes import AnyOutcome, ClassOutcome
from common.plan import Evaluation, Model, Normalisation, Personal, Strategy, Training
from common.privacy.sections import AnyPrivacy, NoPrivacy
from common.subgroups import check_subgroups


class Identity(Section):
    """What the study is called, and what it is for."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    title: str = ""
    description: str = ""


class Study(Section):
    """The whole protocol. Equal studies have equal hashes, and any difference changes the hash.

    Guarantees:
        - Studies are equal if their hashes are, and can be keys of a dict or a cache.
        - A study is frozen, and a key that it does not know is an error.
        - `hash` covers every field, and the order of granularities, features and outcomes, which
          is the order of the model's inputs and outputs.

    Attributes:
        outcomes: by name; the first is the one that headlines and choices of settings look at.
    """

    study: Identity
    outcomes: Annotated[dict[Name, AnyOutcome], Field(min_length=1)]
    granularities: Annotated[dict[Name, AnyGranularity], Field(min_length=1)]
    normalisation: Normalisation = Normalisation()
    evaluation: Evaluation = Evaluation()
    model: Model = Model()
    training: Training
    strategy: Strategy = Strategy()
    personal: Personal = Personal()
    privacy: AnyPrivacy = NoPrivacy()

    @model_validator(mode="after")
    def _names_of_counts_differ(self) -> Self:
        # Counts are sent by these names: all patients, those with a granularity, with an outcome.
        # Reports call what is shared by all granularities "fusion".
        names = ["patients", "personal", "fusion", *self.granularities, *self.outcomes]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                "expected names of granularities and outcomes that differ from one another and "
                f"from 'patients', 'personal' and 'fusion', found {', '.join(repeated)}"
            )
        taken = sorted(TORCH_NAMES.intersection(names))
        if taken:
            raise ValueError(
                "expected names of granularities and outcomes that torch does not use itself, "
                f"found {', '.join(taken)}"
            )
        return self

    @model_validator(mode="after")
    def _columns_are_used_once(self) -> Self:
        names = [self.evaluation.split_column, "patient_id"]
        for part in (*self.outcomes.values(), *self.granularities.values()):
            names += part.columns
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                "expected every column (patient_id, outcomes, split, features) to be named once, "
                f"found more than once: {', '.join(repeated)}"
            )
        return self

    @model_validator(mode="after")
    def _model_speaks_of_what_there_is(self) -> Self:
        named = {*self.model.frozen, *(name for edge in self.model.edges for name in edge)}
        unknown = sorted(named - set(self.granularities))
        if unknown:
            raise ValueError(
                "expected granularities of this study in model.edges and model.frozen, found "
                f"{', '.join(unknown)}"
            )
        pull = max(
            self.personal.ditto_lambda,
            self.strategy.proximal_mu if self.strategy.name == "fedprox" else 0.0,
        )
        if self.training.optimizer == "sgd" and self.training.learning_rate * pull >= 2:
            raise ValueError(
                "expected training.learning_rate times ditto_lambda or proximal_mu below 2, found "
                f"{self.training.learning_rate * pull:g}: training would diverge"
            )
        if self.training.balance == "resample" and not isinstance(self.primary, ClassOutcome):
            raise ValueError(
                "expected classes as the first outcome for training.balance = 'resample'"
            )
        return self

    @model_validator(mode="after")
    def _averaged_models_are_whole(self) -> Self:
        if self.strategy.tail_average and self.personal.local_blocks:
            raise ValueError(
                "expected no personal.local_blocks with strategy.tail_average, found "
                f"{len(self.personal.local_blocks)}: what stays at home fits the last model, and "
                "not a mean"
            )
        return self

    @model_validator(mode="after")
    def _subgroups_are_of_features(self) -> Self:
        tables = [g for g in self.granularities.values() if isinstance(g, TabularGranularity)]
        features = {name: f for table in tables for name, f in table.features.items()}
        check_subgroups(self.evaluation.subgroups, features)
        return self

    @model_validator(mode="after")
    def _attributions_are_no_outcome(self) -> Self:
        # Statistics are sent as OUTCOME.NAME, those of attributions as attributions.OUTCOME.NAME.
        if self.evaluation.attributions and "attributions" in self.outcomes:
            raise ValueError(
                "expected no outcome named 'attributions' with evaluation.attributions, found one"
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
    def primary(self) -> AnyOutcome:
        """The first outcome."""
        return next(iter(self.outcomes.values()))
