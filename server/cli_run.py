"""What the commands that run a study have in common: options, privacy, and what they tell.

Imports stay lazy: `--help` loads neither torch nor flwr.
"""

import json
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from common.study import Study
    from server.journal import Listener

StudyName = Annotated[
    str, typer.Argument(help="A study file, or the name of a shipped study.", show_default=False)
]
Seed = Annotated[int | None, typer.Option(min=0, help="Overrides the study's seed.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="Overrides the study's rounds.")]
StrategyName = Annotated[
    str | None, typer.Option(help="fedavg, fedprox, fedadam, fedyogi or fedadagrad.")
]
Epsilon = Annotated[
    float | None,
    typer.Option(
        help="Train with this much privacy for each patient (add or remove one patient); above 0."
    ),
]
Delta = Annotated[
    float | None,
    typer.Option(help="With --epsilon, or of a private study; default: the study's, else 0.0001."),
]
MlflowStore = Annotated[
    str | None,
    typer.Option(help="Tell the run to MLflow, too: a folder, or the address of a store."),
]
TensorBoardFolder = Annotated[
    Path | None, typer.Option(help="Write the run for TensorBoard, too: a folder.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

_DELTA = 1e-4


def how_to_go_on(folder: Path) -> str:
    """What to do after an interruption: a run that had not begun leaves nothing to go on with."""
    from common.errors import RunError
    from common.run_folder import check_used

    try:
        check_used(folder)
    except RunError:
        return "Interrupted before the first round. Give the same command again."
    return f"Interrupted. Go on with the same command, --out {folder} and --resume."


def live_sinks(
    folder: Path, console: Console, *, mlflow: str | None, tensorboard: Path | None
) -> "AbstractContextManager[list[Listener]]":
    """Listeners of a run that tell it where the command line asks for it, round by round.

    Raises:
        RunError: a library is missing, or there is no store at that place; at once.
    """
    from server.sinks.live import live, sinks_of

    sinks = sinks_of(mlflow, tensorboard)
    return live(
        folder,
        sinks,
        warn=lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True),
    )


def effective_study(
    study: str,
    console: Console,
    *,
    rounds: int | None,
    seed: int | None,
    strategy: str | None,
    epsilon: float | None,
    delta: float | None,
) -> "Study":
    """The study that is named, as the options of the command line change it.

    Raises:
        StudyError: there is none, a value is not allowed, or it cannot keep what its privacy
            promises.
    """
    from common.study_file import load_study, override

    effective = override(
        load_study(study),
        training__rounds=rounds,
        training__seed=seed,
        strategy__name=strategy,
    )
    return with_privacy(effective, epsilon, delta, console)


def with_privacy(
    study: "Study", epsilon: float | None, delta: float | None, console: Console
) -> "Study":
    """The study with this much privacy for each patient, as the command line asks for it.

    Raises:
        StudyError: a value is not allowed, or the study cannot keep what its privacy promises.
    """
    from common.privacy.plan import check_private
    from common.privacy.sections import PatientPrivacy
    from common.study_file import with_patient_privacy

    if epsilon is None and delta is None:
        check_private(study)
        return study
    if epsilon is None and not isinstance(study.privacy, PatientPrivacy):
        raise typer.BadParameter("--delta needs --epsilon")
    if study.privacy.mode == "site":
        console.print(
            "With --epsilon each patient is protected, in place of each site as the study says.",
            highlight=False,
            soft_wrap=True,
        )
    own = study.privacy.delta if isinstance(study.privacy, PatientPrivacy) else _DELTA
    private = with_patient_privacy(study, epsilon=epsilon, delta=own if delta is None else delta)
    check_private(private)
    for section, field in (("model", "site_intercept_sd"), ("training", "balance")):
        before, after = (getattr(getattr(s, section), field) for s in (study, private))
        if before != after:
            console.print(
                f"Under privacy {section}.{field} is {after}, not {before}: it looks at exact "
                "outcomes.",
                highlight=False,
                soft_wrap=True,
            )
    return private


def new_run_folder(study_name: str) -> Path:
    """The default folder of a run that starts now."""
    return Path("runs") / f"{study_name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def tell_results(folder: Path, console: Console, *, as_json: bool) -> None:
    """Prints the results of a finished run, and where they are; or results.json alone."""
    from server.progress import results_tables

    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps(results, indent=1))
        return
    for table in results_tables(results):
        console.print(table)
    for title, name in (
        ("Report: ", "report.html"),
        ("As text:", "report.md"),
        ("Results:", "results.json"),
        ("Model:  ", "model.safetensors"),
    ):
        console.print(f"{title} {folder / name}", highlight=False, soft_wrap=True)
