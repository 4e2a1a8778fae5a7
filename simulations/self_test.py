"""`wardround site self-test`: what would leave this hospital, and whether it tells of a patient.

Canaries are planted in a copy of the site's data (`simulations.planting`); the site takes part in a
rehearsal with simulated hospitals, answers tasks that it must refuse and tasks that fail
(`simulations.rehearsal`); and all that came out is searched. Must never tell a value.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.study import Study
from simulations.canaries import Hit, files_below
from simulations.federation.run import federation
from simulations.rehearsal import Tell, rehearsal, rehearse, reply_of
from simulations.sent_fields import Field, fields_of


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """What came out of a rehearsal.

    Attributes:
        num_canaries: values that were planted and searched for.
        num_messages, num_bytes: that the site sent.
        num_files: that were searched, beside the messages.
        answers: how often the site answered with each status.
        fields: of the site's messages, each once.
        hits: canaries that were found.
    """

    site: str
    study: str
    num_patients: int
    num_canaries: int
    num_messages: int
    num_bytes: int
    num_files: int
    answers: Mapping[str, int]
    fields: tuple[Field, ...]
    hits: tuple[Hit, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as plain values."""
        return asdict(self)


def run_self_test(
    site_dir: Path,
    study: Study,
    *,
    seed: int,
    with_processes: bool = False,
    tell: Tell = lambda text: None,
    look: Callable[[], None] = lambda: None,
) -> SelfTest:
    """The self-test of a site with a study.

    Args:
        seed: of the canaries.
        with_processes: also rehearse with processes, TLS and a SuperLink, and search what they
            leave: its database, their logs.
        tell: told what is being done.
        look: called again and again; what it raises ends the test, and deletes the copy.

    Raises:
        SiteConfigError, DataError: the site could not take part in the study; every reason is told.
        RunError: the rehearsal came to no end.
    """

    def step(text: str) -> None:
        look()
        tell(text)

    with rehearsal(site_dir, study, seed=seed, tell=step) as made:
        rehearse(made, tell=step, look=look)
        if with_processes:
            step("rehearsing with processes of their own: half a minute or more")
            processes = made.out / "processes"
            with federation(made.study, made.hospitals, processes, look=look) as running:
                running.run(resume=False)
        step(f"searching for {len(made.canaries)} canaries")
        hits = made.search()
        replies = [reply_of(data) for data in made.sent]
        return SelfTest(
            site=made.name,
            study=study.name,
            num_patients=made.num_patients,
            num_canaries=len(made.canaries),
            num_messages=len(made.sent),
            num_bytes=sum(map(len, made.sent)),
            num_files=sum(1 for _ in files_below(made.out, without=made.excluded())),
            answers=dict(Counter(reply.status for reply in replies)),
            fields=fields_of(replies, made.study),
            hits=tuple(dict.fromkeys(hits)),
        )
