"""`wardround data`: site folders of real data sets, and of simulated hospitals."""

from pathlib import Path
from typing import Annotated, Literal

import typer

data = typer.Typer(help="Write site folders: real data sets, or simulated hospitals.")

Source = Annotated[Path, typer.Option(help="Folder with the files of the data set.")]
Out = Annotated[Path, typer.Option(help="Where the site folders go.")]


@data.command("heart-disease")
def data_heart_disease(
    out: Out,
    source: Annotated[
        Path | None,
        typer.Option(help="Folder with the UCI files; without it they are downloaded."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="none, or flamby: its published 740 patients and split.")
    ] = "none",
) -> None:
    """Four real hospitals: UCI Heart Disease, with the smoking history of the raw files."""
    from simulations.datasets.heart_disease import fetch_sources, import_heart_disease

    if split not in ("none", "flamby"):
        raise typer.BadParameter(f"expected none or flamby, found '{split}'")
    if source is None:
        source = out / "source"
        typer.echo(f"No --source: downloading the UCI files to {source}.")
        fetch_sources(source)
    folders = import_heart_disease(source, out, split="flamby" if split == "flamby" else "none")
    _tell(folders)


@data.command("simulated")
def data_simulated(
    study: Annotated[
        str, typer.Argument(help="A study file, or a shipped study.", show_default=False)
    ],
    out: Out,
    num_sites: Annotated[int, typer.Option(min=1)] = 6,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Simulated hospitals with a study's features: patients of a known disease process."""
    from common.study_file import load_study
    from simulations.cohort import varied_sites, write_cohort

    protocol = load_study(study)
    effects = varied_sites(protocol, num_sites=num_sites, seed=seed)
    _tell(write_cohort(protocol, effects, out, seed=seed))


@data.command("eicu-demo")
def data_eicu_demo(
    source: Source,
    out: Out,
    sites: Annotated[
        str, typer.Option(help="region: five sites, whole hospitals held out; or hospital: 186.")
    ] = "region",
    test_fold: Annotated[int, typer.Option(min=0, max=4, help="The fold that is held out.")] = 0,
) -> None:
    """Intensive care at 186 hospitals: physiology, vital signs and texts of the first day."""
    from simulations.datasets.eicu_demo import import_eicu_demo

    if sites not in ("region", "hospital"):
        raise typer.BadParameter(f"expected region or hospital, found '{sites}'")
    by: Literal["region", "hospital"] = "hospital" if sites == "hospital" else "region"
    _tell(import_eicu_demo(source, out, sites=by, test_fold=test_fold))


@data.command("tcga-brca")
def data_tcga_brca(source: Source, out: Out) -> None:
    """Breast cancer in six regions: clinical features, mRNA, miRNA and proteins; survival."""
    from simulations.datasets.tcga_brca import import_tcga_brca

    _tell(import_tcga_brca(source, out))


@data.command("hannover-cxr")
def data_hannover_cxr(
    source: Source,
    out: Out,
    num_sites: Annotated[int, typer.Option(min=2, help="Hospitals to deal patients to.")] = 4,
    test_fold: Annotated[int, typer.Option(min=0, max=3, help="The fold that is held out.")] = 0,
) -> None:
    """Chest X-rays and laboratory values of 67 patients; admission to intensive care."""
    from simulations.datasets.hannover_cxr import import_hannover_cxr

    _tell(import_hannover_cxr(source, out, num_sites=num_sites, test_fold=test_fold))


@data.command("vocabulary")
def data_vocabulary(
    text: Annotated[Path, typer.Argument(help="A public text, UTF-8.", show_default=False)],
    size: Annotated[int, typer.Option(min=1, help="The most words to list.")] = 4000,
    min_count: Annotated[int, typer.Option(min=1, help="How often a word must occur.")] = 2,
) -> None:
    """The words of a public text (never of patients), as the `vocabulary` of notes."""
    from client.sources.vocabulary import vocabulary_of

    words = ", ".join(f'"{word}"' for word in vocabulary_of(text, size, min_count=min_count))
    typer.echo(f"vocabulary = [{words}]")


def _tell(folders: list[Path]) -> None:
    for folder in folders[:_MOST_LINES]:
        typer.echo(f"wrote {folder}")
    if len(folders) > _MOST_LINES:
        typer.echo(f"… and {len(folders) - _MOST_LINES} more")


_MOST_LINES = 12
