"""A privacy experiment as a value: what was asked, and the answer to each question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.study import Study
from simulations.experiments.pareto import Pareto
from simulations.experiments.pieces import Made
from simulations.experiments.settings import Bases, Question, Setting, Target
from simulations.experiments.validation import Inner, Validated


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is asked.

    Attributes:
        questions: as `questions_of` gives them: the one without privacy is the last.
        pareto: where given, what is searched in place of the private questions' settings.
        inner: how settings are compared.
        charges_tuning: whether the reported epsilon holds the trials of inner validation.
        is_audited: whether each point's training is audited.
    """

    bases: Bases
    questions: Sequence[Question]
    num_seeds: int
    inner: Inner
    pareto: Pareto | None = None
    charges_tuning: bool = False
    is_audited: bool = False


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting that inner validation has looked at."""

    question: str
    target: Target
    setting: Setting
    validated: Validated


@dataclass(frozen=True, kw_only=True)
class Run:
    """One seed of a point.

    Attributes:
        epsilon_spent: by the ledger of the hospital whose patients paid most; None: no privacy, or
            a failed run.
        epsilon_reported: the same, with all trials if they are charged.
    """

    seed: int
    made: Made
    epsilon_spent: float | None
    epsilon_reported: float | None


@dataclass(frozen=True, kw_only=True)
class Point:
    """The answer to one question.

    Attributes:
        study: the effective one, but for its seed.
        trials: those among which its setting was chosen; none where there was no choice.
        audit: what an audit of the mechanism found, as JSON; None: not audited.
    """

    name: str
    target: Target
    setting: Setting
    study: Study
    trials: Sequence[Trial]
    runs: Sequence[Run]
    audit: Mapping[str, Any] | None = None

    @property
    def num_trainings(self) -> int:
        """Private trainings on the same patients that chose the setting."""
        return sum(len(t.validated.values) for t in self.trials if t.target.is_private)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All that the files of an experiment are made of.

    Attributes:
        points: of the private questions.
        reference: the point without privacy.
        noise: the kinds of source of the noise that was added.
    """

    sweep: Sweep
    points: Sequence[Point]
    reference: Point
    noise: Sequence[str]
