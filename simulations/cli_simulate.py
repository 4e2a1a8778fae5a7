"""`wardround simulate`: one federation on this machine, with or without privacy.

Imports stay lazy: `--help` loads neither torch nor flwr.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from common.study import Study
    from simulations.simulate import Simulation

StudyName = Annotated[
    str, typer.Argument(help="A study file, or the name of a shipped study.", show_default=False)
]
Sites = Annotated[
    Path | None, typer.Option(help="Folder of site folders; without it, hospitals are simulated.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Overrides the study's seed.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="Overrides the study's rounds.")]
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
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

_DELTA = 1e-4


def simulate(
    study: StudyName,
    sites: Sites = None,
    rounds: Rounds = None,
    seed: Seed = None,
    strategy: Annotated[
        str | None, typer.Option(help="fedavg, fedprox, fedadam, fedyogi or fedadagrad.")
    ] = None,
    epsilon: Epsilon = None,
    delta: Delta = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; default: runs/STUDY-TIME.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in --out.")] = False,
    num_sites: Annotated[
        int, typer.Option(min=2, help="How many hospitals to simulate without --sites.")
    ] = 6,
    engine: Annotated[
        str, typer.Option(help="in-process, or flower: Flower's own simulation runtime.")
    ] = "in-process",
    init_from: Annotated[
        Path | None,
        typer.Option(help="Start from the model of another run, block by block where it fits."),
    ] = None,
    durable: Annotated[bool, typer.Option(help="Wait for the disk (fsync) at every step.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train one model across hospitals on this machine, and report each hospital's result."""
    from common.run_folder import check_unused, check_used
    from common.study_file import load_study, override
    from simulations.simulate import Simulation

    if engine not in ("in-process", "flower"):
        raise typer.BadParameter(f"expected in-process or flower, found '{engine}'")
    if engine == "flower" and durable:
        raise typer.BadParameter("--durable is for the in-process engine")
    if resume and out is None:
        raise typer.BadParameter("--resume needs --out, the folder of the run to go on with")
    console = Console(stderr=as_json)
    effective = override(
        load_study(study),
        training__rounds=rounds,
        training__seed=seed,
        strategy__name=strategy,
    )
    effective = with_privacy(effective, epsilon, delta, console)
    folder = out or new_run_folder(effective.name)
    (check_used if resume else check_unused)(folder)
    simulation = Simulation(
        study=effective,
        sites=sites or _simulated(effective, folder, num_sites, console, resume=resume),
        out=folder,
        resume=resume,
        durable=durable,
        init_from=init_from,
    )
    try:
        _run(simulation, engine, console)
    except KeyboardInterrupt:
        console.print(_how_to_go_on(folder), highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
    _tell(folder, console, as_json=as_json)


def _how_to_go_on(folder: Path) -> str:
    """What to do after an interruption: a run that had not begun leaves nothing to go on with."""
    from common.errors import RunError
    from common.run_folder import check_used

    try:
        check_used(folder)
    except RunError:
        return "Interrupted before the first round. Give the same command again."
    return f"Interrupted. Go on with the same command, --out {folder} and --resume."


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


def _simulated(
    study: "Study", folder: Path, num_sites: int, console: Console, *, resume: bool
) -> Path:
    """The folder of simulated hospitals, which a run that goes on has already."""
    from simulations.cohort import varied_sites, write_cohort

    sites = folder / "hospitals"
    if not resume:
        console.print(
            f"No --sites: simulating {num_sites} hospitals with this study's features in "
            f"{sites} (no real patients).",
            highlight=False,
        )
        effects = varied_sites(study, num_sites=num_sites, seed=study.training.seed)
        write_cohort(study, effects, sites, seed=study.training.seed)
    return sites


def _run(simulation: "Simulation", engine: str, console: Console) -> None:
    from simulations.progress import Progress
    from simulations.simulate import simulate as run

    if engine == "flower":
        from simulations.flower_runtime import run_on_flower

        run_on_flower(
            simulation.study,
            simulation.sites,
            simulation.out,
            resume=simulation.resume,
            init_from=simulation.init_from,
        )
        return
    with Progress(console) as progress:
        run(simulation, listeners=[progress.listen])


def _tell(folder: Path, console: Console, *, as_json: bool) -> None:
    from simulations.progress import results_tables

    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps(results, indent=1))
        return
    for table in results_tables(results):
        console.print(table)
    for title, name in (
        ("Report: ", "report.md"),
        ("Results:", "results.json"),
        ("Model:  ", "model.safetensors"),
    ):
        console.print(f"{title} {folder / name}", highlight=False, soft_wrap=True)
