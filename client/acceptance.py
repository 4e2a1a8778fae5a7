"""Which studies a hospital has agreed to, by whom, and when: a human act, on record.

state_dir/acceptances.jsonl holds one signed line for every acceptance and withdrawal, chained to
the one before; state_dir/studies/HASH.toml holds the study. Hashes that a person wrote into the
policy's `accepted_studies` count as well. Nothing else is accepted, and what cannot be verified
stops the site.

What the record alone cannot show: that lines at its end were cut off. The study of a withdrawal
that was cut off is not there any more, and the site does not start.
"""

import os
import pwd
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from client.audit import utc_now
from client.chained_file import ChainedFile
from client.chained_lines import Line, read_lines
from client.config import SiteConfig
from client.study_store import Kept, keep, read_kept, set_aside, study_path, withdrawn_path
from common.code_version import code_fingerprint, release
from common.errors import SiteConfigError
from common.signing import Purpose, SigningKey
from common.study import Study


class Act(StrEnum):
    """What a person did."""

    ACCEPTED = "accepted"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One act of a person.

    Attributes:
        study: its name.
        who: the user of the operating system.
        at: when, UTC, ISO 8601.
        file_sha256: of the study's file as it was written.
        code, release: the fingerprint and the version of the software that showed the study.
    """

    act: Act
    study_hash: str
    study: str
    who: str
    at: str
    file_sha256: str
    code: str
    release: str


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How one study stands at this hospital.

    Attributes:
        is_in_policy: whether `site.toml` lists it.
        last: the last act on record; None if `site.toml` alone knows it.
        kept: the study as it was accepted, or why its file is not that.
    """

    study_hash: str
    is_in_policy: bool
    last: Record | None
    kept: Kept

    @property
    def is_accepted(self) -> bool:
        """Whether tasks of this study may be answered, if its file is intact."""
        return self.is_in_policy or (self.last is not None and self.last.act is Act.ACCEPTED)


def acceptances_path(state_dir: Path) -> Path:
    """Where a site keeps the record of what was accepted."""
    return state_dir / "acceptances.jsonl"


def accepted_studies(config: SiteConfig) -> dict[str, Study]:
    """The studies that this hospital has agreed to, by hash: on record, or in its policy.

    Guarantees:
        - No study is in it but by a signed record, without a later withdrawal, or by `site.toml`.
        - Each is the one that was accepted: its hash, and on record each byte of its file.
        - One thing that cannot be verified is an error, and no study is accepted.

    Raises:
        SiteConfigError: the record is damaged or not signed by this site, or a study's file is
            missing or another.
    """
    studies = {}
    for standing in standings(config):
        if standing.is_accepted:
            if standing.kept.study is None:
                raise SiteConfigError(
                    f"Expected the accepted study {standing.study_hash[:12]}… in "
                    f"{config.state_dir / 'studies'}, found {standing.kept.fault}. Accept it again "
                    "(`wardround study accept`), or withdraw it."
                )
            studies[standing.study_hash] = standing.kept.study
    return studies


def standings(config: SiteConfig) -> list[Standing]:
    """Every study that was ever accepted, those of the policy first. Raises `SiteConfigError`."""
    last = {record.study_hash: record for record in history(config)}
    in_policy = dict.fromkeys(config.policy.accepted_studies)
    return [
        _standing(
            config, study_hash, is_in_policy=study_hash in in_policy, last=last.get(study_hash)
        )
        for study_hash in [*in_policy, *(name for name in last if name not in in_policy)]
    ]


def _standing(
    config: SiteConfig, study_hash: str, *, is_in_policy: bool, last: Record | None
) -> Standing:
    is_on_record = last is not None and last.act is Act.ACCEPTED
    place = study_path if is_in_policy or is_on_record else withdrawn_path
    # What a person put there by hand after a withdrawal is told by its hash alone.
    is_told = last is not None and (is_on_record or not is_in_policy)
    return Standing(
        study_hash=study_hash,
        is_in_policy=is_in_policy,
        last=last,
        kept=read_kept(
            place(config.state_dir, study_hash),
            study_hash,
            last.file_sha256 if is_told and last is not None else None,
        ),
    )


def history(config: SiteConfig) -> list[Record]:
    """All acts on record, oldest first; a torn end is no act.

    Raises:
        SiteConfigError: the record is damaged, or its last line is not signed by the site's key.
    """
    path = acceptances_path(config.state_dir)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as fault:
        raise _record_fault(path, type(fault).__name__) from None
    key = SigningKey.load(config.state_dir / "keys" / "site.pem")
    found = read_lines(content, purpose=Purpose.ACCEPTANCE, public_key=key.public_key)
    if found.faults:
        raise _record_fault(path, "; ".join(found.faults))
    return [_record_of(line, path) for line in found.lines]


def accept(
    config: SiteConfig,
    study: Study,
    *,
    who: str | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> Record:
    """Puts on record that a person of this hospital has agreed to `study`.

    The caller has shown it to that person, who has said so. An intact acceptance that is on record
    already is returned as it is.

    Guarantees:
        - The study is on disk, whole, before the record says that it is accepted.
        - Without its line on record, it is not accepted, whenever the power fails.

    Args:
        who: the user of the operating system, unless a caller knows better.

    Raises:
        SiteConfigError: the record is damaged, or the site's key cannot be used.
        OSError: something could not be written.
    """
    last = {record.study_hash: record for record in history(config)}.get(study.hash)
    if last is not None and last.act is Act.ACCEPTED:
        path = study_path(config.state_dir, study.hash)
        if not read_kept(path, study.hash, last.file_sha256).fault:
            return last
    return _append(
        config,
        Record(
            act=Act.ACCEPTED,
            study_hash=study.hash,
            study=study.name,
            who=os_user() if who is None else who,
            at=clock().isoformat(timespec="seconds"),
            file_sha256=keep(config.state_dir, study),
            code=code_fingerprint(),
            release=release(),
        ),
    )


def withdraw(
    config: SiteConfig,
    study_hash: str,
    *,
    who: str | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> Record:
    """Puts on record that this hospital takes no more part, and sets the study's file aside.

    Args:
        study_hash: of an accepted study, whole or its first 8 digits or more.

    Raises:
        SiteConfigError: the study is not accepted, or `site.toml` lists it: then it would still
            count; or the record is damaged.
        OSError: something could not be written.
    """
    standing = standing_of(config, study_hash)
    if standing.is_in_policy:
        raise SiteConfigError(
            f"Expected a study that site.toml does not list, found {standing.study_hash[:12]}… in "
            "policy.accepted_studies. Take it out there; if it is on record too, withdraw it then."
        )
    if standing.last is None or not standing.is_accepted:
        raise SiteConfigError(
            f"Expected an accepted study, found {standing.study_hash[:12]}…, which is withdrawn "
            "already."
        )
    record = _append(
        config,
        replace(
            standing.last,
            act=Act.WITHDRAWN,
            who=os_user() if who is None else who,
            at=clock().isoformat(timespec="seconds"),
            code=code_fingerprint(),
            release=release(),
        ),
    )
    set_aside(config.state_dir, standing.study_hash)
    return record


def standing_of(config: SiteConfig, study_hash: str) -> Standing:
    """The one study whose hash begins so. Raises `SiteConfigError` unless there is exactly one."""
    found = [s for s in standings(config) if s.study_hash.startswith(study_hash)]
    if len(study_hash) < 8 or len(found) != 1:
        raise SiteConfigError(
            f"Expected the hash of one known study, or its first 8 digits or more, found "
            f"{len(study_hash)} characters that fit {len(found)}. `wardround study list SITE_DIR` "
            "shows them."
        )
    return found[0]


def _append(config: SiteConfig, record: Record) -> Record:
    path = acceptances_path(config.state_dir)
    # Where there is a record, `history` has read it with the key that is there: none is made then.
    key = SigningKey.load_or_create(config.state_dir / "keys" / "site.pem")
    ChainedFile(path, purpose=Purpose.ACCEPTANCE, durable=True, key=key).append(asdict(record))
    return record


def os_user() -> str:
    """The user of the operating system; not what an environment variable says."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"


def _record_of(line: Line, path: Path) -> Record:
    fields: dict[str, Any] = dict(line.fields)
    try:
        return Record(**{**fields, "act": Act(fields["act"])})
    except (KeyError, TypeError, ValueError):
        raise _record_fault(path, f"a line {line.seq} of another version") from None


def _record_fault(path: Path, found: str) -> SiteConfigError:
    return SiteConfigError(
        f"Expected the whole record of accepted studies at {path}, found: {found}. No study is "
        "accepted until a person has looked: put back the newest copy, or move the file aside and "
        "accept again."
    )
