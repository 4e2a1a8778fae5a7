"""FLamby's published results, from its own files: what other federated systems reached."""

from pathlib import Path
from typing import Final, Literal

import pandas as pd

from simulations.datasets.source_files import read_source, require_files

SEEDS: Final = range(42, 47)
POOLED: Final = "Pooled Test"

FlambyDataset = Literal["heart", "tcga"]


def flamby_results(source: Path, dataset: FlambyDataset) -> pd.DataFrame:
    """The published metric of each method, over the five seeds.

    It is the accuracy at .5 for "heart", and the concordance index for "tcga".

    Args:
        source: the folder with heart_seed42.csv … tcga_seed46.csv.

    Returns:
        A row for each method, best first: pooled_mean and pooled_sd, of all held-out patients, and
        sites_mean and sites_sd, of the mean over the sites; sd over seeds.

    Raises:
        DataError: a file is missing, or lacks a column.
    """
    names = [f"{dataset}_seed{seed}.csv" for seed in SEEDS]
    require_files(source, names, dataset="FLamby's published results")
    columns = ("Method", "Test", "Metric")
    rows = pd.concat([read_source(source / n, columns).assign(seed=n) for n in names])
    rows["Metric"] = pd.to_numeric(rows["Metric"])
    is_pooled = rows["Test"] == POOLED
    of_seed = {
        "pooled": rows[is_pooled].groupby(["Method", "seed"])["Metric"].mean(),
        "sites": rows[~is_pooled].groupby(["Method", "seed"])["Metric"].mean(),
    }
    table = pd.DataFrame(
        {
            f"{name}_{statistic}": values.groupby("Method").agg(statistic.replace("sd", "std"))
            for name, values in of_seed.items()
            for statistic in ("mean", "sd")
        }
    )
    return table.rename_axis("method").sort_values("pooled_mean", ascending=False)
