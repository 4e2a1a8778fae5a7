"""Making a site's dossier from its folder: reads the books, verifies them, signs what they tell.

Reads only, so that it can be asked while the site runs. Must not import torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from client.acceptance import standings
from client.audit_view import AuditView, view_audit
from client.config import SiteConfig, load_site_config
from client.dossier.contents import About, dossier_of
from client.dossier.signed import Signed
from client.ledger.entries import ledger_path
from client.ledger.view import LedgerView, view_ledger
from client.roster import coordinator_key_of
from common.code_version import release
from common.errors import ProvisionError, SiteConfigError, StudyError
from common.signing import SigningKey
from common.study_file import study_from_toml


@dataclass(frozen=True, kw_only=True)
class Books:
    """Where the books of one hospital are.

    Attributes:
        simulated_run: the folder of the simulated run that they are of; None for a real site.
        only_run: the id of the run that is asked for; None for all.
    """

    config: SiteConfig
    simulated_run: Path | None
    only_run: str | None

    @classmethod
    def of(cls, site_dir: Path, run: str | None) -> "Books":
        """The books that `run` means: the folder of a simulated run with this site, else an id.

        Raises `SiteConfigError` if `site.toml` cannot be used.
        """
        config = load_site_config(site_dir)
        if run is not None and (Path(run) / "sites" / site_dir.resolve().name).is_dir():
            return cls(config=config, simulated_run=Path(run), only_run=None)
        return cls(config=config, simulated_run=None, only_run=run)

    @property
    def state_dir(self) -> Path:
        """The folder with audit log and ledger."""
        if self.simulated_run is None:
            return self.config.state_dir
        return self.simulated_run / "sites" / self.config.folder.name

    def key(self) -> SigningKey | None:
        """The site's key; None where a simulation has made none.

        Raises:
            SiteConfigError: a real site has no key, or it cannot be used.
        """
        path = self.state_dir / "keys" / "site.pem"
        if self.simulated_run is not None and not path.exists():
            return None
        return SigningKey.load(path)


def make_dossier(site_dir: Path, run: str | None, *, made_at: datetime) -> Signed:
    """The dossier of a hospital, signed by its key. Changes nothing.

    Guarantees:
        - Both chains are verified first; what is wrong with them is in the dossier.
        - A ledger that a private run must have had, and that is gone, is a fault.

    Args:
        run: the folder of a simulated run, or the id of a run that is told of alone.

    Raises:
        SiteConfigError: there are no books, they know no such run, or the site has no usable key.
    """
    books = Books.of(site_dir, run)
    key = books.key()
    public_key = None if key is None else key.public_key
    is_simulation = books.simulated_run is not None
    audit = view_audit(
        books.state_dir,
        dataset_id=books.config.dataset_id,
        is_simulated=is_simulation,
        public_key=None if is_simulation else public_key,
    )
    ledger = _ledger(books, audit, public_key)
    about = About(
        site=books.config.name,
        dataset_id=books.config.dataset_id,
        release=release(),
        is_simulation=is_simulation,
        public_key=public_key,
        coordinator_key=None if is_simulation else _coordinator_key(books.state_dir),
        studies=_studies(books),
        only_run=books.only_run,
    )
    return Signed.of(dossier_of(about, audit, ledger, made_at=made_at), key)


def _ledger(books: Books, audit: AuditView, public_key: str | None) -> LedgerView | None:
    """The view of the ledger; None where a simulation had nothing to write there."""
    config, state_dir = books.config, books.state_dir
    had_none = all(answer.receipt is None for answer in audit.answers)
    is_there = ledger_path(state_dir, config.dataset_id).exists()
    if books.simulated_run is not None and had_none and not is_there:
        return None
    return view_ledger(
        state_dir,
        dataset_id=config.dataset_id,
        delta=config.policy.delta_budget,
        budget=config.policy.epsilon_budget,
        public_key=public_key,
    )


def _coordinator_key(state_dir: Path) -> str | None:
    try:
        return coordinator_key_of(state_dir)
    except ProvisionError:
        # What left is told all the same; a damaged roster stops the site, and is told there.
        return None


def _studies(books: Books) -> dict[str, str]:
    """Names of studies by hash: those that were accepted, or that of a simulated run."""
    if books.simulated_run is None:
        return dict(_accepted(books.config))
    try:
        text = (books.simulated_run / "study.toml").read_text(encoding="utf-8")
        study = study_from_toml(text)
    except (OSError, ValueError, StudyError):
        return {}
    return {study.hash: study.name}


def _accepted(config: SiteConfig) -> Iterable[tuple[str, str]]:
    try:
        for standing in standings(config):
            name = standing.last.study if standing.last else ""
            if standing.kept.study is not None:
                name = standing.kept.study.name
            yield standing.study_hash, name
    except SiteConfigError:
        # A name is a convenience; the record of acceptances is verified by what rests on it.
        return
