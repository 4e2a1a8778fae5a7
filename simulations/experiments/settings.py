"""What a sweep asks for, and the settings that are compared to answer it.

A target says how much privacy; a setting says how to train under it. A question is a target with
the settings that may be compared for it: those that cost the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import product

from common.plan import Training
from common.privacy.sections import PatientPrivacy
from common.study import Study
from common.study_file import with_patient_privacy, without_privacy
from simulations.experiments.changes import changed

OWN = "the study's own settings"


@dataclass(frozen=True, kw_only=True)
class Target:
    """How much privacy a run is to have: an epsilon, or noise; neither is no privacy."""

    epsilon: float | None = None
    noise_multiplier: float | None = None

    @property
    def is_private(self) -> bool:
        """Whether patients are protected."""
        return self.epsilon is not None or self.noise_multiplier is not None

    @property
    def name(self) -> str:
        """As tables call it.

        >>> Target(epsilon=0.5).name, Target(noise_multiplier=2).name, Target().name
        ('epsilon 0.5', 'noise multiplier 2', 'no privacy')
        """
        if self.epsilon is not None:
            return f"epsilon {self.epsilon:g}"
        noise = self.noise_multiplier
        return "no privacy" if noise is None else f"noise multiplier {noise:g}"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How to train; None is as the study says."""

    clip: float | None = None
    rounds: int | None = None
    local_steps: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None

    @property
    def name(self) -> str:
        """As tables call it.

        >>> Setting(clip=0.5, local_steps=2).name
        'clip 0.5, local steps 2'
        """
        given = [
            f"{field.name.replace('_', ' ')} {value:g}"
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None
        ]
        return ", ".join(given) or OWN

    def changes(self) -> dict[str, object]:
        """What it changes in a study, by dotted key."""
        named = {
            "privacy.max_grad_norm" if field.name == "clip" else f"training.{field.name}": getattr(
                self, field.name
            )
            for field in fields(self)
        }
        return {key: value for key, value in named.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The values that are compared, by what a setting holds; none: as the study says."""

    clip: Sequence[float] = ()
    rounds: Sequence[int] = ()
    local_steps: Sequence[int] = ()
    learning_rate: Sequence[float] = ()
    batch_size: Sequence[int] = ()

    def settings(self) -> list[Setting]:
        """Every combination, in order; the study's own alone where nothing is compared."""
        names = [field.name for field in fields(self)]
        values = [getattr(self, name) or (None,) for name in names]
        return [
            Setting(**dict(zip(names, combination, strict=True)))
            for combination in product(*values)
        ]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A target, and the settings among which inner validation chooses.

    Attributes:
        name: unique in a sweep.
    """

    name: str
    target: Target
    settings: Sequence[Setting]


@dataclass(frozen=True, kw_only=True)
class Bases:
    """The two studies of a sweep: what is trained with privacy, and what without.

    Attributes:
        delta: of private runs.
    """

    private: Study
    reference: Study
    delta: float

    def study(self, target: Target, setting: Setting) -> Study:
        """The study that asks for this target with this setting.

        Raises:
            StudyError: a value is not allowed.
        """
        if not target.is_private:
            return changed(without_privacy(self.reference), replace(setting, clip=None).changes())
        # A study that is not private yet needs some epsilon before noise can replace it.
        private = with_patient_privacy(
            self.private, epsilon=target.epsilon or 1.0, delta=self.delta
        )
        changes = setting.changes()
        if target.noise_multiplier is not None:
            changes["privacy.noise_multiplier"] = target.noise_multiplier
        return changed(private, changes)


def questions_of(
    epsilons: Sequence[float], noise_multipliers: Sequence[float], axes: Axes
) -> list[Question]:
    """The private questions, and the one without privacy, last.

    With noise in place of epsilon, settings that sum up more often also cost more: only those of
    equal work are compared with one another, and each amount of work is a question of its own.
    Without privacy there is nothing to clip, and the study's own settings always take part.

    Args:
        epsilons: finite ones.
    """
    settings = axes.settings()
    questions = [
        Question(name=target.name, target=target, settings=settings)
        for target in (Target(epsilon=epsilon) for epsilon in epsilons)
    ]
    for noise in noise_multipliers:
        target = Target(noise_multiplier=noise)
        for work in dict.fromkeys(_work_of(setting) for setting in settings):
            alike = [setting for setting in settings if _work_of(setting) == work]
            told = "" if work == Setting() else f", {work.name}"
            questions.append(Question(name=f"{target.name}{told}", target=target, settings=alike))
    unclipped = (Setting(), *(replace(setting, clip=None) for setting in settings))
    plain = Target()
    return [
        *questions,
        Question(name=plain.name, target=plain, settings=tuple(dict.fromkeys(unclipped))),
    ]


def _work_of(setting: Setting) -> Setting:
    return replace(setting, clip=None, learning_rate=None)


def steps_text(training: Training) -> str:
    """A round's work as tables tell it.

    >>> steps_text(Training(rounds=2, local_steps=3))
    '3 steps'
    """
    if training.local_steps is not None:
        return f"{training.local_steps} step{'s' if training.local_steps > 1 else ''}"
    return f"{training.local_epochs} epoch{'s' if training.local_epochs != 1 else ''}"


def clip_of(study: Study) -> float | None:
    """The norm to which each patient's gradient is clipped; None without privacy."""
    return study.privacy.max_grad_norm if isinstance(study.privacy, PatientPrivacy) else None
