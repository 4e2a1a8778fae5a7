"""A privacy experiment as a value: what was asked, and the answer to each question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.study import Study
from simulations.experiments.attacks import Attacks
from simulations.experiments.pareto import Pareto
from simulations.experiments.pieces import Made
from simulations.experiments.runs import DIVERGED, FEDERATED, is_diverged
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
        attacks: on each point: none, an audit of its training, or all that there are.
    """

    bases: Bases
    questions: Sequence[Question]
    num_seeds: int
    inner: Inner
    pareto: Pareto | None = None
    charges_tuning: bool = False
    attacks: Attacks = "none"

    @property
    def is_audited(self) -> bool:
        """Whether each private point's training is audited."""
        return self.attacks != "none"


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

    @property
    def failed(self) -> str:
        """The code of its failure, also of a federated model that diverged; "" of a whole one."""
        results = [r for r in self.made["results"] if r["arm"] == FEDERATED]
        is_lost = any(is_diverged(result["metrics"]) for result in results)
        return str(self.made["failed"]) or (DIVERGED if is_lost else "")


@dataclass(frozen=True, kw_only=True)
class Point:
    """The answer to one question.

    Attributes:
        study: the effective one, but for its seed.
        trials: those among which its setting was chosen; none where there was no choice.
        audit: what an audit of the mechanism found, as JSON; None: not audited.
        attacks: what the other attacks found, as `simulations.experiments.attacks.told_of` gives
            it; none where they were not asked for.
    """

    name: str
    target: Target
    setting: Setting
    study: Study
    trials: Sequence[Trial]
    runs: Sequence[Run]
    audit: Mapping[str, Any] | None = None
    attacks: Sequence[Mapping[str, Any]] = ()

    @property
    def epsilon(self) -> float | None:
        """What was asked for, else the most a run has cost; None: no privacy, or all failed."""
        spent = [run.epsilon_spent for run in self.runs if run.epsilon_spent is not None]
        return self.target.epsilon or max(spent, default=None)

    @property
    def num_trainings(self) -> int:
        """Private trainings on the same patients that chose the setting."""
        return sum(len(t.validated.values) for t in self.trials if t.target.is_private)

    @property
    def failures(self) -> list[str]:
        """Why it has no value: the codes of its runs, where every one of them failed; else none."""
        codes = [run.failed for run in self.runs]
        return sorted(set(codes)) if all(codes) else []


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
