"""An experiment made by hand, for the tests of its files and of its page."""

from simulations.arms import MEAN, POOLED
from simulations.experiments.experiment import Experiment, Point, Run, Sweep, Trial
from simulations.experiments.settings import Bases, Setting, Target
from simulations.experiments.validation import Inner, Validated
from tests.unit.builders import study_of

BASES = Bases(
    private=study_of(
        study={"name": "small-private"}, privacy={"mode": "patient", "epsilon": 1.0, "delta": 1e-4}
    ),
    reference=study_of(),
    delta=1e-4,
)
SPENT = {"epsilon": 0.99, "noise_multiplier": 3.0, "noise": ["seeded"], "charges": []}


def _made(arms: dict[str, float | None], *, is_private: bool) -> dict[str, object]:
    return {
        "results": [
            {
                "arm": arm,
                "variant": "",
                "seed": 0,
                "outcome": "event",
                "scope": scope,
                "metrics": {"num_patients": 9.0, "auroc": value},
            }
            for arm, value in arms.items()
            for scope in ("ada", "bob", POOLED, MEAN)
        ],
        "failed": "",
        "spent": {"ada": SPENT} if is_private else {},
    }


def run_of(seed: int, value: float | None, *, is_private: bool = True) -> Run:
    arms = {"federated": value, "local only": 0.6}
    arms |= {} if is_private else {"pooled": 0.9}
    epsilon = 0.99 if is_private else None
    made = _made(arms, is_private=is_private)
    return Run(seed=seed, made=made, epsilon_spent=epsilon, epsilon_reported=epsilon)


def failed_run(seed: int) -> Run:
    made = {"results": [], "failed": "cohort", "spent": {}}
    return Run(seed=seed, made=made, epsilon_spent=None, epsilon_reported=None)


def point_of(target: Target, runs: list[Run], trials: list[Trial] = []) -> Point:  # noqa: B006
    return Point(
        name=target.name,
        target=target,
        setting=Setting(),
        study=BASES.study(target, Setting()),
        trials=trials,
        runs=runs,
    )


def trial_of(target: Target, setting: Setting, *values: float | None) -> Trial:
    failed = ["diverged"] if None in values else []
    validated = Validated(values=values, failed=failed, epsilon=0.99, charges=[])
    return Trial(question=target.name, target=target, setting=setting, validated=validated)


ONE, FOUR = Target(epsilon=1.0), Target(epsilon=4.0)
TRIALS = [trial_of(ONE, Setting(), 0.7, 0.8), trial_of(ONE, Setting(clip=9.0), 0.5, None)]


def small_experiment() -> Experiment:
    """Two levels of privacy by two seeds, of which one run diverged and one failed."""
    return Experiment(
        sweep=Sweep(bases=BASES, questions=[], num_seeds=2, inner=Inner()),
        points=[
            point_of(ONE, [run_of(0, 0.7), run_of(1, None)], TRIALS),
            point_of(FOUR, [run_of(0, 0.8), failed_run(1)]),
        ],
        reference=point_of(
            Target(), [run_of(0, 0.85, is_private=False), run_of(1, 0.87, is_private=False)]
        ),
        noise=["seeded"],
    )
