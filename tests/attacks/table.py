"""Makes docs/threats.md from the rows, the docstrings of the product and the marks of the tests.

`python -m tests.attacks.table` writes it; `test_table.py` fails where it is not what this makes.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.attacks.rows import ROWS, Row

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "threats.md"
PACKAGES = ("client", "common", "server", "simulations")
ROW = re.compile(r"\b(?:S0|S1|C|N|K|I|R)-\d+\b")

Defined = ast.FunctionDef | ast.ClassDef

_INTRODUCTION = """\
# Threats

Each attack of the threat model, the functions that stand against it, and the tests that are the
attack. This page is made by `python -m tests.attacks.table`, from the lines `Threat: ROW` in
docstrings and the marks `threat("ROW")` of tests; a test fails where it is out of date. `make test`
runs the campaigns among them in a small size, `make test-full` in full: how many, when, and what
came of them is in [campaigns](campaigns.md).

S0 is a curious server, S1 a hostile one, C a hostile hospital, N the network, K a stolen key, I
somebody inside with logs and files, R whoever holds the released model.
"""


def defined_in(tree: ast.AST, outer: str = "") -> Iterator[tuple[str, Defined]]:
    """Functions and classes with their names as one finds them: `Site.answer`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Defined):
            name = f"{outer}.{node.name}".lstrip(".")
            yield name, node
            yield from defined_in(node, name)


def functions() -> dict[str, ast.AST]:
    """All that the product defines, by MODULE:NAME."""
    found: dict[str, ast.AST] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.stem.endswith(("_pb2", "_pb2_grpc")):
                continue
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found |= {f"{module}:{name}": node for name, node in defined_in(tree)}
    return found


def named_in(docstring: str) -> set[str]:
    """The rows in the lines `Threat: …` of a docstring.

    >>> sorted(named_in("Nothing leaves.\\n\\nThreat: S0-1, I-1."))
    ['I-1', 'S0-1']
    """
    lines = re.findall(r"^\s*Threats?: (.*)$", docstring, re.M)
    return {row for line in lines for row in ROW.findall(line)}


def defences(defined: Mapping[str, ast.AST]) -> dict[str, list[str]]:
    """The functions against each row: those of `rows.py`, and those whose docstring names it.

    Args:
        defined: what `functions` finds.
    """
    by_row: dict[str, set[str]] = defaultdict(set)
    for row in ROWS:
        by_row[row.row] |= set(row.defences)
    for name, node in defined.items():
        for row_id in named_in(ast.get_docstring(node) or ""):  # type: ignore[arg-type]
            by_row[row_id].add(name)
    return {row: sorted(names) for row, names in by_row.items()}


def attacks() -> dict[str, list[str]]:
    """The tests of each row, as FILE::NAME, by the marks that they or their module have."""
    by_row: dict[str, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        of_module = {
            row
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
            for row in _marked(node.value)
        }
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marked = {row for mark in node.decorator_list for row in _marked(mark)}
                for row in of_module | marked:
                    by_row[row].add(f"{path.relative_to(ROOT).as_posix()}::{node.name}")
    return {row: sorted(names) for row, names in by_row.items()}


def _marked(node: ast.AST) -> Iterator[str]:
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.threat":
            yield from (str(ast.literal_eval(row)) for row in call.args)


def page(by_defence: Mapping[str, list[str]], by_test: Mapping[str, list[str]]) -> str:
    """The whole page, of what `defences` and `attacks` find."""
    lines = [_INTRODUCTION, "| row | attack | tests | missing |", "|---|---|---:|---|"]
    for row in ROWS:
        number = len(by_test.get(row.row, ())) or "**none**"
        lines.append(
            f"| [{row.row}](#{row.row.lower()}) | {row.attack} | {number} | {row.missing} |"
        )
    for row in ROWS:
        lines += ["", *_section(row, by_defence.get(row.row, []), by_test.get(row.row, []))]
    return "\n".join(lines) + "\n"


def _section(row: Row, by: list[str], attacked: list[str]) -> Iterator[str]:
    yield f"## {row.row}"
    yield ""
    yield f"{row.attack[0].upper()}{row.attack[1:]}." + (f" {row.missing}" if row.missing else "")
    yield ""
    yield "Defence: " + (", ".join(f"`{name}`" for name in by) if by else "none.")
    yield ""
    yield "Tests:" if attacked else "Tests: none."
    for test in attacked:
        file, _, name = test.partition("::")
        yield f"- `{name}` ({file})"


if __name__ == "__main__":
    PAGE.write_text(page(defences(functions()), attacks()), encoding="utf-8")
