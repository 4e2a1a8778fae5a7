"""`wardround experiment attacks`: what attacks recover from what hospitals release.

Imports stay lazy: `--help` loads neither torch nor flwr.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from server.cli_run import StudyName

if TYPE_CHECKING:
    from common.study import Study
    from simulations.attacks.finding import Finding
    from simulations.attacks.reconstruction import Reconstructions

_AUDITED_PATIENTS = 400
_FEWEST_SHADOWS = 3


def attacks(
    study: StudyName = "demo",
    epsilon: Annotated[
        float, typer.Option(min=0.01, max=1000.0, help="Of the private arm, per patient.")
    ] = 8.0,
    num_seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds.")] = 5,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once.")] = os.cpu_count() or 1,
    own_encoder: Annotated[
        bool,
        typer.Option(
            "--own-encoder",
            help="Attack images as the study reads them, and not by the encoder that tells most; "
            "the time grows with the third power of the pixels.",
        ),
    ] = False,
    shadows: Annotated[
        int,
        typer.Option(
            min=0,
            help="Shadow models of the membership attack (LiRA), 3 or more; 0: none. Of each seed, "
            "one more is trained without privacy, and with.",
        ),
    ] = 8,
    audit: Annotated[
        bool, typer.Option(help="Also audit the claim of epsilon, by canaries.")
    ] = True,
    out: Annotated[Path, typer.Option(help="Where attacks.json and attacks.html go.")] = Path(
        "attacks"
    ),
) -> None:
    """Attack simulated hospitals, with and without privacy, and show what is recovered.

    From updates: images and records; from models: who was trained on, and what was withheld. All
    patients are simulated for it, so that no page ever shows a real patient's picture.
    """
    if 0 < shadows < _FEWEST_SHADOWS:
        raise typer.BadParameter(
            f"expected 0 or at least {_FEWEST_SHADOWS}, found {shadows}", param_hint="--shadows"
        )
    from common.study_file import load_study
    from simulations.attacks.suite import attack_all
    from simulations.attacks.summary import write_attacks

    loaded = load_study(study)
    console = Console(stderr=True)
    work = {
        f"seed {seed}": partial(
            attack_all,
            loaded,
            epsilon=epsilon,
            seed=seed,
            own_encoder=own_encoder,
            num_shadows=shadows,
        )
        for seed in range(1, num_seeds + 1)
    }
    results = _attacked(work, jobs=jobs, name=loaded.name, console=console)
    encoder = "the study's own" if own_encoder else "16 × 16 pixels, last stage of one place"
    findings = write_attacks(
        results,
        out,
        study=loaded.name,
        settings={
            "epsilon": epsilon,
            "seeds": num_seeds,
            "image encoder": encoder,
            "shadow models": shadows,
        },
        audits=[_audited(loaded, epsilon)] if audit else [],
    )
    _tell(console, findings, out)


def _attacked(
    work: Mapping[str, "Callable[[], Reconstructions]"], *, jobs: int, name: str, console: Console
) -> "list[Reconstructions]":
    """What attacks have reached, one for each seed; people see how far it is."""
    from simulations.over_seeds import over_seeds

    done: list[str] = []
    try:
        with console.status(f"attacking simulated patients of {name}") as status:

            def on_done(seed: str) -> None:
                done.append(seed)
                status.update(f"{len(done)} of {len(work)} seeds")

            return list(over_seeds(work, jobs=jobs, on_done=on_done).values())
    except KeyboardInterrupt:
        console.print("Interrupted; nothing was written.")
        raise typer.Exit(130) from None


def _audited(study: "Study", epsilon: float) -> "Finding":
    """What canaries say of the claim of epsilon."""
    from common.study_file import with_patient_privacy
    from simulations.attacks.exposure import DELTA
    from simulations.attacks.gaussian_audit import finding_of
    from simulations.attacks.study_audit import audit_study

    private = with_patient_privacy(study, epsilon=epsilon, delta=DELTA)
    return audit_study(private, finding_of, cohort_size=_AUDITED_PATIENTS, seed=1)


def _tell(console: Console, findings: "Sequence[Finding]", out: Path) -> None:
    """Prints what was recovered, and where the files are."""
    from simulations.attacks.summary import rows_of

    shown = Table("attack", "protection", "mean ± sd over seeds", "outcome")
    for row in rows_of(findings):
        shown.add_row(*row)
    Console().print(shown)
    console.print("All patients are simulated.", highlight=False)
    for name in ("attacks.json", "attacks.html"):
        console.print(f"Written: {out / name}", highlight=False, soft_wrap=True)
