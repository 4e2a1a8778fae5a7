"""What a search may change in a study: keys of the study, each with values or a range.

A search may change how a study is trained and built, and never what it is about: its outcomes, who
is held out, its features, or how much privacy it promises.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from common.contract import Section, read_toml
from common.errors import StudyError
from common.granularities import (
    AnyGranularity,
    ImagesGranularity,
    MarkersGranularity,
    SeriesGranularity,
    TabularGranularity,
    TokenGranularity,
)
from common.privacy.sections import PatientPrivacy
from common.study import Study
from simulations.experiments.changes import changed

if TYPE_CHECKING:
    import optuna

_OPEN = ("granularities", "model", "normalisation", "personal", "strategy", "training")
_CLOSED = ("training.seed", "strategy.min_sites")
_CLIP = "privacy.max_grad_norm"


class Parameter(Section):
    """The values of one key: `choices`, or all between `low` and `high`.

    Attributes:
        choices: of any kind that the key takes, lists as well.
        log: whether equal ratios are equally likely.
    """

    choices: list[Any] = Field(default_factory=list)
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False

    @model_validator(mode="after")
    def _choices_or_range(self) -> Self:
        has_range = self.low is not None and self.high is not None
        if has_range == bool(self.choices) or (self.low is None) != (self.high is None):
            raise ValueError("expected either choices, or low and high")
        is_range = self.low is not None and self.high is not None and self.low < self.high
        if has_range and not (is_range and not (self.log and (self.low or 0) <= 0)):
            raise ValueError("expected low below high, and above 0 with log = true")
        return self

    def suggested(self, key: str, trial: "optuna.Trial") -> Any:
        """The value of a trial."""
        if self.low is None or self.high is None:
            # Optuna's choices are plain values, and a study's may be lists.
            labels = [json.dumps(choice) for choice in self.choices]
            return json.loads(trial.suggest_categorical(key, labels))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log)
        value = trial.suggest_float(key, self.low, self.high, log=self.log)
        # Three digits, so that people can read and compare what was tried.
        return float(f"{value:.3g}")

    def ends(self) -> list[Any]:
        """Values that a study must allow for it to allow all of them."""
        return self.choices or [self.low, self.high]


class _File(Section):
    parameters: dict[str, Parameter] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True)
class Space:
    """Parameters by the dotted key of the study that they are for."""

    parameters: Mapping[str, Parameter]

    def suggested(self, trial: "optuna.Trial") -> dict[str, Any]:
        """The values of a trial, by key."""
        return {key: p.suggested(key, trial) for key, p in self.parameters.items()}

    def described(self) -> dict[str, Any]:
        """As plain values."""
        return {key: p.model_dump(exclude_none=True) for key, p in self.parameters.items()}


def read_space(path: Path | None, study: Study) -> Space:
    """The space in a TOML file, tables `[parameters."KEY"]`; the default one without a file.

    Raises:
        StudyError: the file is malformed, or has a key or a value that the study does not allow.
    """
    if path is None:
        return default_space(study)
    space = Space(parameters=read_toml(path, _File, StudyError).parameters)
    for key, parameter in space.parameters.items():
        _check_open(key, study)
        for value in parameter.ends():
            changed(study, {key: value})
    return space


def default_space(study: Study) -> Space:
    """What is worth searching in this study: training, fusion, and the encoders that it has."""
    training = study.training
    parameters = {
        "training.optimizer": _among(["sgd", "adamw"], training.optimizer),
        "training.learning_rate": Parameter(low=1e-3, high=1.0, log=True),
        "training.momentum": _among([0.0, 0.5, 0.9], training.momentum),
        "training.weight_decay": Parameter(low=1e-4, high=1.0, log=True),
        "model.width": _among([8, 16, 32], study.model.width),
        "model.fusion": _among(["attention", "gated_sum", "concat"], study.model.fusion),
        "model.dropout": _among([0.0, 0.1, 0.3], study.model.dropout),
    }
    if training.local_steps is not None:
        parameters["training.local_steps"] = _among([1, 2, 5, 10, 20], training.local_steps)
    else:
        parameters["training.local_epochs"] = _among([1, 2, 4], training.local_epochs)
    if not study.personal.local_blocks:
        # What stays at home fits the last model, and not a mean.
        own = study.strategy.tail_average
        parameters["strategy.tail_average"] = _among([0.0, 0.25, 0.5], own)
    if len(study.granularities) > 1:
        own = study.model.granularity_dropout
        parameters["model.granularity_dropout"] = _among([0.0, 0.1, 0.2, 0.4], own)
    if isinstance(study.privacy, PatientPrivacy):
        parameters[_CLIP] = Parameter(low=0.1, high=4.0, log=True)
    for name, granularity in study.granularities.items():
        parameters |= {
            f"granularities.{name}.{key}": parameter
            for key, parameter in _of_granularity(granularity).items()
        }
    return Space(parameters=parameters)


def _of_granularity(granularity: AnyGranularity) -> dict[str, Parameter]:
    """The structure of its encoder, and how its inputs are varied in training."""
    match granularity:
        case TabularGranularity(hidden=hidden, basis=basis):
            return {
                "hidden": _among([[], [16], [32]], list(hidden)),
                "basis": _among(["linear", "hinges"], basis),
            }
        case SeriesGranularity(encoder=encoder, augment=augment):
            return {
                "encoder": _among(["summary", "tcn", "gru"], encoder),
                "augment.noise": _among([0.0, 0.1], augment.noise),
                "augment.drop": _among([0.0, 0.1], augment.drop),
            }
        case ImagesGranularity(encoder=encoder, augment=augment):
            return {
                "encoder": _among(["cnn", "residual_cnn"], encoder),
                "augment.flip": _among([0.0, 0.5], augment.flip),
                "augment.shift": _among([0.0, 0.1], augment.shift),
            }
        case MarkersGranularity(hidden=hidden):
            return {"hidden": _among([[8], [16], [32]], list(hidden))}
        case TokenGranularity(encoder=encoder, hidden=hidden):
            return {
                "encoder": _among(["bag", "lstm"], encoder),
                "hidden": _among([8, 16, 32], hidden),
            }
        case _:
            return {}


def _among(choices: list[Any], own: Any) -> Parameter:
    """These choices, and the study's own value, which a search should be able to keep."""
    return Parameter(choices=choices if own in choices else [own, *choices])


def _check_open(key: str, study: Study) -> None:
    """Nothing, if a search may change this key. Raises `StudyError`."""
    is_open = key.split(".")[0] in _OPEN and key not in _CLOSED and ".features." not in key
    if key == _CLIP:
        is_open = isinstance(study.privacy, PatientPrivacy)
    if not is_open:
        raise StudyError(
            f"Expected keys of how a study is built and trained ({', '.join(_OPEN)}; {_CLIP} of a "
            f"private one), found '{key}'. A search must not change what a study is about."
        )
