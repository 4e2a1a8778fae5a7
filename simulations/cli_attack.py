"""`wardround experiment attacks`: what attacks recover from what hospitals send.

Imports stay lazy: `--help` loads neither torch nor flwr.
"""

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from server.cli_run import StudyName

_AUDITED_PATIENTS = 400


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
    audit: Annotated[
        bool, typer.Option(help="Also audit the claim of epsilon, by canaries.")
    ] = True,
    out: Annotated[Path, typer.Option(help="Where attacks.json and attacks.html go.")] = Path(
        "attacks"
    ),
) -> None:
    """Attack updates of simulated hospitals, with and without privacy, and show what is recovered.

    All patients are simulated for it, so that no page ever shows a real patient's picture.
    """
    from common.study_file import load_study
    from simulations.attacks.reconstruction import reconstruct
    from simulations.attacks.summary import rows_of, write_attacks
    from simulations.over_seeds import over_seeds

    loaded = load_study(study)
    console = Console(stderr=True)
    work = {
        f"seed {seed}": partial(
            reconstruct, loaded, epsilon=epsilon, seed=seed, own_encoder=own_encoder
        )
        for seed in range(1, num_seeds + 1)
    }
    done: list[str] = []
    try:
        with console.status(f"attacking simulated patients of {loaded.name}") as status:

            def on_done(name: str) -> None:
                done.append(name)
                status.update(f"{len(done)} of {len(work)} seeds")

            results = over_seeds(work, jobs=jobs, on_done=on_done)
    except KeyboardInterrupt:
        console.print("Interrupted; nothing was written.")
        raise typer.Exit(130) from None
    audits = []
    if audit:
        from common.study_file import with_patient_privacy
        from simulations.attacks.exposure import DELTA
        from simulations.attacks.gaussian_audit import audit_study

        private = with_patient_privacy(loaded, epsilon=epsilon, delta=DELTA)
        audits.append(audit_study(private, cohort_size=_AUDITED_PATIENTS, seed=1))
    encoder = "the study's own" if own_encoder else "16 × 16 pixels, last stage of one place"
    findings = write_attacks(
        list(results.values()),
        out,
        study=loaded.name,
        settings={"epsilon": epsilon, "seeds": num_seeds, "image encoder": encoder},
        audits=audits,
    )
    shown = Table("attack", "protection", "mean ± sd over seeds", "outcome")
    for row in rows_of(findings):
        shown.add_row(*row)
    Console().print(shown)
    console.print("All patients are simulated.", highlight=False)
    for name in ("attacks.json", "attacks.html"):
        console.print(f"Written: {out / name}", highlight=False, soft_wrap=True)
