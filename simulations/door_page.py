"""The page *What leaves your hospital*, made of the code that lets it out.

    python -m simulations.door_page    # writes docs/what-leaves.md

Its rules are the docstrings of the functions that enforce them, those with a line `Threat: …`; its
fields are those of `common.messages`; what a reply may hold is what `client.egress` declares. A
test compares the file in the tree with what is made now.
"""

import ast
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType

from client import admission, charging, disk, egress, policy, site, trust, withholding
from client.agreement import what_leaves
from client.ledger import heads, ledger
from client.policy import Policy
from common import one_piece, wire, wire_limits
from common.errors import RefusalCode
from common.messages import Reply, Task, TaskKind
from common.study_file import load_study
from server import inbox
from simulations.door_words import ENDING, OPENING, REFUSALS, SHAPES

PAGE = Path(__file__).parents[1] / "docs" / "what-leaves.md"
# Shipped studies of the same patients, one of which protects each of them.
_EXAMPLES = ("heart-disease", "heart-disease-private")

_WAY_IN = (
    ("The form of a message", one_piece),
    ("", wire),
    ("", wire_limits),
    ("Who asks, and for whom", trust),
    ("What is asked", admission),
    ("Your policy", policy),
    ("Room and budget", disk),
    ("", ledger),
    ("", heads),
    ("", charging),
)
_WAY_OUT = (egress, withholding, site)
_SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Guarantees|Edge cases):")
_THREAT = re.compile(r"^([A-Z0-9, -]+)\.(?: Refuses: ([A-Z_]+)\.)?$")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule of the door, as its docstring tells it.

    Attributes:
        threats: rows of the threat model.
        refuses: the code of a message that breaks it; None where something is withheld, scaled or
            added instead.
    """

    name: str
    text: str
    threats: tuple[str, ...]
    refuses: RefusalCode | None


def rules_of(module: ModuleType) -> Iterator[Rule]:
    """The rules of a module, in the order of its source.

    Raises:
        ValueError: a line `Threat: …` is not of its one form.
        KeyError: it names no refusal code.
    """
    tree = ast.parse(inspect.getsource(module))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    for function in sorted(functions, key=lambda node: node.lineno):
        docstring = ast.get_docstring(function) or ""
        if "Threat:" in docstring:
            yield _rule(f"{module.__name__}.{function.name}", docstring)


def _rule(name: str, docstring: str) -> Rule:
    before, _, line = docstring.partition("\n\nThreat: ")
    match = _THREAT.match(line.partition("\n")[0])
    if match is None:
        raise ValueError(f"expected a line 'Threat: ROW, ROW. Refuses: CODE.' in {name}")
    paragraphs = (" ".join(part.split()) for part in before.split("\n\n"))
    code = match[2]
    return Rule(
        name=name,
        text=" ".join(p for p in paragraphs if not _SECTION.match(p)).replace("`", ""),
        threats=tuple(match[1].split(", ")),
        refuses=None if code is None else RefusalCode[code],
    )


def page() -> str:
    """The whole page, in Markdown."""
    parts = [OPENING, _messages(), _examples(), _way_in(), _way_out(), _coordinator()]
    return "\n\n".join([*parts, _codes(), ENDING]) + "\n"


def _messages() -> str:
    return "\n\n".join(
        [
            "## What a message holds",
            "Nothing but the following fields crosses the boundary. A message with anything else "
            "in it is not read.",
            "**A task** comes in:",
            _fields_of(Task),
            "**A reply** goes out:",
            _fields_of(Reply),
            "By kind of reply:",
            _kinds(),
        ]
    )


def _fields_of(message: type) -> str:
    said = described(message)
    rows = [(f"`{field.name}`", said[field.name]) for field in fields(message)]
    return _table(("field", "what it is"), rows)


def described(message: type) -> dict[str, str]:
    """What the docstring of a class says of each attribute."""
    _, _, section = inspect.cleandoc(message.__doc__ or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w[\w, ]*): (.+(?:\n {8}.+)*)", section, re.M)
    return {
        name: " ".join(text.split()).replace("`", "")
        for names, text in entries
        for name in names.split(", ")
    }


def _kinds() -> str:
    rows = []
    for kind in TaskKind:
        dtype = egress.DTYPES.get(kind)
        arrays, counts, metrics = SHAPES[kind]
        rows.append(
            (kind.name.lower(), "none" if dtype is None else str(dtype), arrays, counts, metrics)
        )
    return _table(("kind", "type of the arrays", "arrays", "counts", "statistics"), rows)


def _examples() -> str:
    parts = [
        "## Two examples",
        "What leaves is said for each study, with its numbers, before a person accepts it "
        "(`wardround study accept`). Of two shipped studies, under the default policy:",
    ]
    for name in _EXAMPLES:
        leaves = what_leaves(load_study(name), Policy(allow_without_privacy=True))
        parts += [f"`{name}`:", "\n".join(f"- {sentence}" for sentence in leaves)]
    return "\n\n".join(parts)


def _way_in() -> str:
    parts = [
        "## On the way in: what your hospital refuses to do",
        "In this order. A task that breaks a rule is answered with the code alone, and nothing is "
        "worked on. What the code says in full stays in your own log.",
    ]
    rows: list[tuple[str, ...]] = []
    for title, module in _WAY_IN:
        if title and rows:
            parts.append(_rules_table(rows))
            rows = []
        if title:
            parts.append(f"**{title}**")
        rows += [_row(rule) for rule in rules_of(module) if rule.name != "client.trust.sign"]
    return "\n\n".join([*parts, _rules_table(rows)])


def _way_out() -> str:
    rows = [_row(rule) for module in _WAY_OUT for rule in rules_of(module)]
    rows += [_row(rule) for rule in rules_of(trust) if rule.name == "client.trust.sign"]
    return "\n\n".join(
        [
            "## On the way out: what your hospital does not send",
            "Each reply passes these rules before it leaves, in this order. Where no code stands, "
            "the reply leaves without what the rule keeps back.",
            _rules_table(rows),
        ]
    )


def _coordinator() -> str:
    rows = [(rule.text, ", ".join(rule.threats)) for rule in rules_of(inbox)]
    return "\n\n".join(
        [
            "## At the coordinator: what another hospital cannot do to yours",
            "A reply that breaks a rule is dropped, and the hospital that sent it is named in the "
            "report.",
            _table(("rule", "threat"), rows),
        ]
    )


def _codes() -> str:
    rows = [(f"`{code.value}`", REFUSALS[code]) for code in RefusalCode]
    return "\n\n".join(
        [
            "## The words of a refusal",
            "A refusal is one of these words. No text of an error leaves the hospital.",
            _table(("code", "what it says"), rows),
        ]
    )


def _row(rule: Rule) -> tuple[str, ...]:
    code = "" if rule.refuses is None else f"`{rule.refuses.value}`"
    return (rule.text, ", ".join(rule.threats), code)


def _rules_table(rows: list[tuple[str, ...]]) -> str:
    return _table(("rule", "threat", "refused as"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
