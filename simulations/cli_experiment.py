"""`wardround experiment privacy` and `wardround tune`: many runs, one answer.

Imports stay lazy: `--help` loads neither torch nor flwr.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console

from server.cli_run import Rounds, StudyName, new_run_folder
from simulations.cli_attack import attacks as attacks_command
from simulations.cli_simulate import Sites

if TYPE_CHECKING:
    from common.study import Study
    from simulations.experiments.make import Written

_HELP = "Experiments of many runs: what privacy costs in use."
_EPSILONS = "0.5,1,2,4,8,inf"
_GOES_ON = "The same command with the same --out goes on from what is finished."
_SECONDS_A_MINUTE = 60

N = TypeVar("N", int, float)
Listed = str | None


def mount(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    experiment = typer.Typer(help=_HELP, no_args_is_help=True)
    experiment.command("privacy")(privacy)
    experiment.command("attacks")(attacks_command)
    app.add_typer(experiment, name="experiment", rich_help_panel="For a researcher")
    app.command("tune", rich_help_panel="For a researcher")(tune)


def privacy(
    study: StudyName,
    sites: Sites = None,
    epsilons: Annotated[
        Listed,
        typer.Option(
            help="Comma-separated; no privacy (inf) is always made beside them. Default: "
            "0.5,1,2,4,8,inf."
        ),
    ] = None,
    noise_multipliers: Annotated[
        Listed, typer.Option(help="Noise in place of epsilon, which follows; comma-separated.")
    ] = None,
    num_seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds.")] = 5,
    clips: Annotated[
        Listed, typer.Option(help="Clips to compare, in inner validation; comma-separated.")
    ] = None,
    rounds: Annotated[Listed, typer.Option(help="Rounds to compare.")] = None,
    local_steps: Annotated[Listed, typer.Option(help="Local steps to compare.")] = None,
    learning_rates: Annotated[Listed, typer.Option(help="Learning rates to compare.")] = None,
    batch_sizes: Annotated[Listed, typer.Option(help="Batch sizes to compare.")] = None,
    sampler: Annotated[
        str, typer.Option(help="grid: every combination; pareto: NSGA-II over utility and epsilon.")
    ] = "grid",
    trials: Annotated[int, typer.Option(min=2, help="With --sampler pareto.")] = 24,
    folds: Annotated[int, typer.Option(min=1, help="Folds of inner validation.")] = 2,
    tuning_cost: Annotated[
        str, typer.Option(help="state: the number of trials; charge: compose them into epsilon.")
    ] = "state",
    private_study: Annotated[
        str | None,
        typer.Option(help="The study with privacy; default: STUDY-private if shipped, else STUDY."),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Default: the private study's, else 0.0001.")
    ] = None,
    attacks: Annotated[
        str,
        typer.Option(
            help="none; audit: a lower bound of epsilon for each point, in seconds; all: also "
            "membership (LiRA) and what updates of simulated patients give away, for which each "
            "point costs 8 more trainings on half of the patients, and about 20 s of a core."
        ),
    ] = "audit",
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once.")] = os.cpu_count() or 1,
    figure: Annotated[Path | None, typer.Option(help="Also write the curve as this SVG.")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: runs/STUDY-privacy-TIME.")] = None,
) -> None:
    """Utility over epsilon, fairly compared, with attacks on each point; goes on after a stop."""
    _check_choice("--sampler", sampler, ("grid", "pareto"))
    _check_choice("--tuning-cost", tuning_cost, ("state", "charge"))
    _check_choice("--attacks", attacks, ("none", "audit", "all"))
    finite, noises = _levels(epsilons, noise_multipliers, sampler=sampler)
    from simulations.experiments.attacks import ATTACKS
    from simulations.experiments.make import Wanted, bases_of, make_experiment
    from simulations.experiments.settings import Axes

    wanted = Wanted(
        bases=bases_of(study, private_name=private_study, delta=delta),
        epsilons=finite,
        noise_multipliers=noises,
        axes=Axes(
            clip=_numbers(clips, float, "--clips"),
            rounds=_numbers(rounds, int, "--rounds"),
            local_steps=_numbers(local_steps, int, "--local-steps"),
            learning_rate=_numbers(learning_rates, float, "--learning-rates"),
            batch_size=_numbers(batch_sizes, int, "--batch-sizes"),
        ),
        num_seeds=num_seeds,
        num_folds=folds,
        num_trials=trials if sampler == "pareto" else None,
        charges_tuning=tuning_cost == "charge",
        attacks=next(chosen for chosen in ATTACKS if chosen == attacks),
    )
    folder = out or new_run_folder(f"{wanted.bases.reference.name}-privacy")
    console = Console(stderr=True)
    if wanted.bases.private != wanted.bases.reference:
        _say(console, f"With privacy: the settings of {wanted.bases.private.name}.")
    with _told_progress(console, folder) as on_progress:
        written = make_experiment(
            wanted,
            sites=sites,
            out=folder,
            jobs=jobs,
            simulate_hospitals=_hospitals(wanted.bases.reference, folder, console),
            on_progress=on_progress,
            figure=figure,
        )
    _tell(console, written)


def _check_choice(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises `BadParameter` where an option is none of the words that it may be."""
    if value not in allowed:
        raise typer.BadParameter(
            f"expected {' or '.join(allowed)}, found '{value}'", param_hint=option
        )


def _levels(
    epsilons: Listed, noise_multipliers: Listed, *, sampler: str
) -> tuple[list[float], tuple[float, ...]]:
    """How much privacy is compared: finite epsilons, and noise in place of them."""
    noises = _numbers(noise_multipliers, float, "--noise-multipliers")
    asked = epsilons or ("" if noises else _EPSILONS)
    finite = [e for e in _numbers(asked, float, "--epsilons") if math.isfinite(e)]
    if not finite and not noises:
        raise typer.BadParameter("expected a finite epsilon, found none", param_hint="--epsilons")
    if noises and sampler == "pareto":
        raise typer.BadParameter(
            "expected epsilons alone with --sampler pareto, found noise; leave it out, or use "
            "--sampler grid",
            param_hint="--noise-multipliers",
        )
    return finite, noises


def _tell(console: Console, written: "Written") -> None:
    """Prints the report and where its files are; exit code 1 where no private run has ended."""
    typer.echo(written.report.read_text(encoding="utf-8"))
    for title, path in (
        ("Page:   ", written.page),
        ("Numbers:", written.rows),
        ("Trials: ", written.trials),
    ):
        _say(console, f"{title} {path}")
    if written.failures:
        _say(
            console,
            "Expected a private run that comes to its end, found that all of them failed "
            f"({', '.join(written.failures)}). The files above tell which; mend the cause and name "
            "another folder by --out.",
        )
        raise typer.Exit(1)


def _hospitals(study: "Study", folder: Path, console: Console) -> Callable[[], None]:
    """What simulates hospitals where no --sites are given."""

    def simulate_hospitals() -> None:
        from simulations.cli_simulate import simulated_hospitals

        simulated_hospitals(study, folder, 6, console, resume=False)

    return simulate_hospitals


@contextmanager
def _told_progress(
    console: Console, folder: Path
) -> Iterator[Callable[[str, int, int, float | None], None]]:
    """What tells people how far it is, and after an interruption how to go on."""
    try:
        with console.status("") as status:

            def on_progress(phase: str, done: int, total: int, left_s: float | None) -> None:
                text = f"{phase}: {done} of {total} finished{_left(left_s)}"
                status.update(text)
                if not console.is_terminal:
                    _say(console, text)

            yield on_progress
    except KeyboardInterrupt:
        _say(console, f"Interrupted. {_GOES_ON} (--out {folder})")
        raise typer.Exit(130) from None


def _left(seconds: float | None) -> str:
    """The time left, in words.

    >>> _left(None), _left(0.0), _left(42.0), _left(200.0)
    ('', '', ', less than a minute left', ', about 4 min left')
    """
    if not seconds:
        return ""
    if seconds < _SECONDS_A_MINUTE:
        return ", less than a minute left"
    return f", about {math.ceil(seconds / _SECONDS_A_MINUTE)} min left"


def _numbers(text: str | None, kind: type[N], option: str) -> tuple[N, ...]:
    """Numbers above 0 of a comma-separated text, each once, in order."""
    found = []
    for word in (text or "").split(",") if text else []:
        try:
            number = kind(word.strip())
        except ValueError:
            raise _no_number(word, kind, option) from None
        if not number > 0:
            raise _no_number(word, kind, option)
        found.append(number)
    return tuple(dict.fromkeys(found))


def _no_number(word: str, kind: type, option: str) -> typer.BadParameter:
    numbers = "whole numbers" if kind is int else "numbers"
    return typer.BadParameter(
        f"expected {numbers} above 0 with commas between them, found '{word}'", param_hint=option
    )


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def tune(
    study: StudyName,
    sites: Sites = None,
    trials: Annotated[int, typer.Option(min=2, help="How many settings are tried.")] = 40,
    timeout: Annotated[
        float | None, typer.Option(min=0.0, help="Minutes after which no new setting is begun.")
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option(
            help="TOML of what is searched; default: what fits the study's granularities."
        ),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds of inner validation.")] = 2,
    num_seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds of each fold.")] = 2,
    rounds: Rounds = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once.")] = os.cpu_count() or 1,
    out: Annotated[Path | None, typer.Option(help="Default: runs/STUDY-tune-TIME.")] = None,
) -> None:
    """Search structure and hyper-parameters on inner validation alone; goes on after a stop."""
    from common.study_file import load_study, override
    from simulations.experiments.space import read_space
    from simulations.experiments.tuning import Tuning, tune_study
    from simulations.experiments.validation import Inner

    effective = override(load_study(study), training__rounds=rounds)
    folder = out or new_run_folder(f"{effective.name}-tune")
    tuning = Tuning(
        study=effective,
        space=read_space(space, effective),
        num_trials=trials,
        inner=Inner(num_folds=folds, num_seeds=num_seeds),
    )
    console = Console(stderr=True)
    with _told_progress(console, folder) as on_progress:
        report = tune_study(
            tuning,
            sites=sites,
            out=folder,
            jobs=jobs,
            timeout_s=math.inf if timeout is None else timeout * _SECONDS_A_MINUTE,
            simulate_hospitals=_hospitals(effective, folder, console),
            on_progress=on_progress,
        )
    typer.echo(report.read_text(encoding="utf-8"))
    _say(console, f"Study: {folder / 'best.toml'}")
