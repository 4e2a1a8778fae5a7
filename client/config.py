"""`site.toml`: where a hospital's data are, on which device to train, its policy. Never sent."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from client.policy import Policy
from common.contract import SITE_NAME_PATTERN, Section, read_toml
from common.errors import SiteConfigError

# A zero byte is in no path; the operating system's own refusal would be an exception.
PathText = Annotated[str, Field(pattern=r"^[^\x00]*$")]


class SiteIdentity(Section):
    """Who this site is, and where it keeps its own books.

    Attributes:
        dataset_id: the name of this data set, under which everything spent on it is booked.
        state_dir: where audit log, ledger and keys live: outside of the data, which may be
            read-only. Relative paths start at the folder of `site.toml`.
        device: "cpu", "cuda:N", or "auto" (the first GPU if there is one).
        threads: of the processor, that the site process computes with; 0 leaves it to torch. A
            simulation always takes one.
    """

    name: Annotated[str, Field(pattern=SITE_NAME_PATTERN)]
    dataset_id: Annotated[str, Field(min_length=1, max_length=200)]
    state_dir: PathText
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda:[0-9]+)$")] = "auto"
    threads: Annotated[int, Field(strict=True, ge=0, le=1024)] = 0


class DataFiles(Section):
    """The files of the data, relative to the folder of `site.toml`.

    Attributes:
        patients: the table of one row per patient; without it, patients.csv or patients.parquet.
        files: the file of a granularity, by its name in the study. Without it, the file of that
            name (vitals.csv, notes.parquet, genomics.vcf.gz, …) is looked for; a tabular
            granularity without one has its columns in the patients' table.
        pretrained: the folder with the weights that a study wants a granularity to be read by, by
            the granularity's name.
        lacks: granularities and outcomes of a study that this hospital does not record at all, of
            any patient: a fact about the hospital, which a private study tells the coordinator.
        identifiers: what to do with columns and texts that look like direct identifiers (names,
            record numbers, birth dates, phones): "mask" them, with a warning, or "refuse" the file.
    """

    patients: PathText = ""
    files: dict[str, PathText] = Field(default_factory=dict)
    pretrained: dict[str, PathText] = Field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    identifiers: Literal["mask", "refuse"] = "mask"


class SiteFile(Section):
    """The content of `site.toml`."""

    site: SiteIdentity
    data: DataFiles = DataFiles()
    policy: Policy


@dataclass(frozen=True, kw_only=True)
class SiteConfig:
    """`site.toml`, validated, with its paths resolved.

    Attributes:
        embeddings_dir: in the state_dir of `site.toml`, that of a simulation included: what
            pretrained weights made of a patient is the same in every run.
    """

    folder: Path
    name: str
    dataset_id: str
    device: str
    threads: int
    state_dir: Path
    patients: Path
    files: Mapping[str, Path]
    pretrained: Mapping[str, Path]
    embeddings_dir: Path
    lacks: frozenset[str]
    identifiers: Literal["mask", "refuse"]
    policy: Policy

    @property
    def data_paths(self) -> list[Path]:
        """Everything that may be read as data: the folder without `site.toml`, and named files.

        The patients' table stands twice: with another one of the same files in its place, which may
        hold other patients out, the data are others.
        """
        inside = [path for path in self.folder.iterdir() if path.name != "site.toml"]
        named = {self.patients, *self.files.values()}
        there = {*inside, *(path for path in named if path.exists())}
        return sorted([*there, *([self.patients] if self.patients.exists() else [])])


def load_site_config(site_dir: Path) -> SiteConfig:
    """The configuration of the site folder `site_dir`.

    Raises:
        SiteConfigError: `site.toml` is missing or malformed, has no policy, or keeps its state
            inside the folder of the data.
    """
    path = site_dir / "site.toml"
    file = read_toml(path, SiteFile, SiteConfigError)
    folder = site_dir.resolve()
    state_dir = (folder / file.site.state_dir).resolve()
    if state_dir == folder or folder in state_dir.parents:
        raise SiteConfigError(
            f"Expected site.state_dir outside of the data folder, found it inside ({path}). "
            "The data may be read-only; name a folder beside it."
        )
    return SiteConfig(
        folder=folder,
        name=file.site.name,
        dataset_id=file.site.dataset_id,
        device=file.site.device,
        threads=file.site.threads,
        state_dir=state_dir,
        patients=_patients_table(folder, file.data.patients),
        files={name: folder / path for name, path in file.data.files.items()},
        pretrained={name: folder / path for name, path in file.data.pretrained.items()},
        embeddings_dir=state_dir / "embeddings",
        lacks=frozenset(file.data.lacks),
        identifiers=file.data.identifiers,
        policy=file.policy,
    )


def _patients_table(folder: Path, named: str) -> Path:
    """The table of `site.toml`, or patients.csv, .csv.gz or .parquet, whichever is there."""
    candidates = [folder / f"patients{suffix}" for suffix in (".csv", ".csv.gz", ".parquet")]
    found = [path for path in candidates if path.is_file()]
    return folder / named if named else (found or candidates)[0]
