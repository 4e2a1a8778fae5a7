"""The view of an audit log: everything that left a hospital, and whether the log is what it was.

For the person who signs. Reads only, so that it can be asked while the site runs.

What the chain alone shows: every changed, dropped, repeated, moved or added line; with the site's
key also a log that was written anew, or on from an older copy, without that key. What it cannot
show: that lines at the end were cut off, which leaves a true log of an earlier day. The ledger
helps: a head that the coordinator has countersigned left this hospital in an answer, so that a log
without that answer is not whole. What came after the newest such head may be missing unseen, and
so may anything be that somebody wrote who has the site's private key.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from client.audit import audit_path
from client.chained_lines import Line, read_lines
from client.ledger.verification import chain_of, read_countersigned, readable_books
from client.plain_text import plain
from common.errors import SiteConfigError
from common.messages import OK
from common.receipts import Countersigned
from common.signing import Purpose, SigningKey, is_countersigned


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer that left.

    Attributes:
        num_elements, norm, sha256: of its arrays; 0 and None if it had none.
        size_bytes: of all of its numbers; None in a log from before this was told.
        counts: names and numbers, as they were sent.
        statistics: names of the sums that it held.
        withheld: names of what the policy kept back or changed.
        receipt: the number and the digest of the ledger's entry that it told; None without one.
    """

    at: str
    run_id: str
    study_hash: str
    round: int
    kind: str
    status: str
    num_elements: int
    size_bytes: int | None
    norm: float | None
    sha256: str | None
    counts: dict[str, int]
    statistics: tuple[str, ...]
    withheld: tuple[str, ...]
    receipt: tuple[int, str] | None


@dataclass(frozen=True, kw_only=True)
class AuditView:
    """What an audit log tells.

    Attributes:
        answers: oldest first, up to the first fault; of one run where one was asked for.
        num_lines: of all runs.
        head: number and digest of the last line before a fault; None without one.
        num_repairs: torn lines that the next one tells of: their answers did not leave.
        faults: why the log is not what was written; none if it is.
        is_signed: whether its last line is signed by this site; a simulation's is not.
        checked_against: the entry of the newest countersigned head of the ledger; None if there is
            none, and then a cut end is not seen.
    """

    path: str
    answers: tuple[Answer, ...]
    num_lines: int
    head: tuple[int, str] | None
    num_repairs: int
    faults: tuple[str, ...]
    is_signed: bool
    checked_against: int | None

    def to_json(self) -> dict[str, Any]:
        """The view as plain values."""
        return asdict(self) | {"whole": not self.faults, "limits": list(self.limits())}

    def limits(self) -> tuple[str, ...]:
        """What a verification of this log cannot show, in sentences."""
        if self.checked_against is None:
            end = "no head of the ledger was ever countersigned: a cut end would not be seen"
        else:
            end = (
                f"the answer with entry {self.checked_against} of the ledger, which the "
                "coordinator has countersigned, was looked for; what came after it could be cut "
                "unseen"
            )
        unsigned = "no line is signed: who can write the file can write another"
        return (end,) if self.is_signed or not self.num_lines else (end, unsigned)


def view_audit(
    state_dir: Path,
    *,
    dataset_id: str,
    run_id: str | None = None,
    is_simulated: bool = False,
    public_key: str | None = None,
    last_countersigned: Countersigned | None = None,
) -> AuditView:
    """The view of a site's audit log. Changes nothing.

    Guarantees:
        - Every edit of the file that a chain can show is a fault.
        - A real site's log whose last line is not signed by its key is a fault.
        - A log that lacks an answer whose receipt was countersigned is a fault.

    Args:
        run_id: shows this run alone; always the whole log is verified.
        is_simulated: whether the log is that of a simulation, which is not signed.
        public_key: of the site, where it is known from elsewhere than its state folder.
        last_countersigned: the coordinator's copy, to check against.

    Raises:
        SiteConfigError: there is no log, it cannot be read, or the site has no usable key.
    """
    path = audit_path(state_dir)
    content = _content_of(path)
    if public_key is None and not is_simulated:
        public_key = SigningKey.load(state_dir / "keys" / "site.pem").public_key
    found = read_lines(content, purpose=Purpose.AUDIT_LINE, public_key=public_key)
    answers, faults = _answers(found.lines)
    heads, head_faults = _heads(state_dir, dataset_id, public_key, last_countersigned)
    faults = [*found.faults_and_torn_end(), *faults, *head_faults, *_missing(heads, answers)]
    last = found.lines[-1] if found.lines else None
    return AuditView(
        path=str(path),
        answers=tuple(a for a in answers if run_id in (None, a.run_id)),
        num_lines=len(found.lines),
        head=None if last is None else (last.seq, last.digest),
        num_repairs=found.num_repairs,
        faults=tuple(faults),
        is_signed=last is not None
        and public_key is not None
        and last.is_signed(public_key, Purpose.AUDIT_LINE),
        checked_against=max((head.seq for head in heads), default=None),
    )


def _content_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise SiteConfigError(
            f"Expected a readable audit log at {path}, found {type(fault).__name__}. A site "
            "writes it with its first answer; that of a simulated run is shown by --simulated RUN."
        ) from None


def _missing(heads: Sequence[Countersigned], answers: Sequence[Answer]) -> list[str]:
    """The countersigned heads, each of which left in an answer, that are in no answer here."""
    told = {answer.receipt for answer in answers}
    return [
        f"the answer with entry {head.seq} of the ledger, which the coordinator has countersigned, "
        "is not in the log: its end was cut off, or it is an older copy"
        for head in heads
        if (head.seq, head.digest) not in told
    ]


def _answers(lines: Sequence[Line]) -> tuple[list[Answer], list[str]]:
    answers: list[Answer] = []
    for line in lines:
        try:
            answers.append(_answer_of(line.fields))
        except (KeyError, TypeError, ValueError):
            return answers, [f"line {line.seq + 1} is not one of this version"]
    return answers, []


def _answer_of(fields: Any) -> Answer:
    """The answer of a line. Raises KeyError, TypeError or ValueError where it is none."""
    receipt, norm = fields["receipt"], fields["norm"]
    size, sha256 = fields.get("size_bytes"), fields["sha256"]
    numbers = [fields["round"], fields["num_elements"], *([] if size is None else [size])]
    texts = [fields[name] for name in ("at", "run_id", "study_hash", "kind", "status")]
    texts += [] if sha256 is None else [sha256]
    if not all(type(n) is int for n in numbers) or not all(isinstance(t, str) for t in texts):
        raise TypeError("expected numbers and texts of an answer, found others")
    return Answer(
        at=fields["at"],
        run_id=fields["run_id"],
        study_hash=fields["study_hash"],
        round=fields["round"],
        kind=fields["kind"],
        status=fields["status"],
        num_elements=fields["num_elements"],
        size_bytes=size,
        norm=None if norm is None else float(norm),
        sha256=sha256,
        counts=dict(fields["counts"]),
        statistics=tuple(fields["statistics"]),
        withheld=tuple(fields["withheld"]),
        receipt=None if receipt is None else (receipt["seq"], receipt["digest"]),
    )


def _heads(
    state_dir: Path,
    dataset_id: str,
    public_key: str | None,
    last: Countersigned | None,
) -> tuple[list[Countersigned], list[str]]:
    """The heads of the ledger that left this hospital and came back countersigned."""
    heads = {} if last is None else {last.seq: last}
    faults = []
    try:
        kept = read_countersigned(state_dir, dataset_id)
        books, _ = readable_books(chain_of(state_dir, dataset_id))
    except SiteConfigError as fault:
        return list(heads.values()), [f"the ledger cannot be asked: {fault}"]
    for head in [*books.acknowledged, *([] if kept is None else [kept])]:
        heads.setdefault(head.seq, head)
    for head in list(heads.values()):
        if public_key is not None and not is_countersigned(head, site_key=public_key):
            faults.append(f"the countersigned head of entry {head.seq} has a false signature")
            del heads[head.seq]
    return sorted(heads.values(), key=lambda head: head.seq), faults


def renderables(view: AuditView) -> list[RenderableType]:
    """The view for a terminal, top to bottom."""
    lines = [(f"{view.path}: {view.num_lines} lines", "bold")]
    if view.num_repairs:
        lines.append((f"torn lines, whose answers did not leave: {view.num_repairs}", "yellow"))
    whole = (
        ("the log is NOT what was written", "red")
        if view.faults
        else ("the chain is whole", "green")
    )
    lines += [whole, *((f"fault: {fault}", "red") for fault in view.faults)]
    lines += [(f"not shown by this: {limit}", "") for limit in view.limits()]
    text = Text("\n").join(Text(plain(line, most=1000), style=style) for line, style in lines)
    return [*([_table(view.answers)] if view.answers else []), text]


def _table(answers: Sequence[Answer]) -> Table:
    table = Table()
    for column in ("time and run", "round", "answer", "numbers", "norm", "what it told", "receipt"):
        table.add_column(
            column, justify="right" if column in ("round", "numbers", "norm") else "left"
        )
    for answer in answers:
        table.add_row(
            Text(f"{plain(answer.at[:19])}\n{plain(answer.run_id, most=70)}"),
            str(answer.round),
            Text(
                f"{plain(answer.kind)}\n{plain(answer.status)}",
                style="" if answer.status == OK else "yellow",
            ),
            f"{answer.num_elements:,}" if answer.num_elements else "",
            "" if answer.norm is None else f"{answer.norm:.4g}",
            Text("\n".join(_told(answer))),
            "" if answer.receipt is None else f"{answer.receipt[0]} {plain(answer.receipt[1][:8])}",
        )
    return table


def _told(answer: Answer) -> list[str]:
    lines = []
    if answer.counts:
        lines.append("counts: " + ", ".join(plain(name) for name in answer.counts))
    if answer.statistics:
        lines.append("statistics: " + ", ".join(plain(name) for name in answer.statistics))
    if answer.withheld:
        lines.append("withheld: " + ", ".join(plain(name) for name in answer.withheld))
    return lines
