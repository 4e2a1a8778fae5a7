"""The page of what leaves: it is what the code makes now, and it leaves no rule out."""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from types import ModuleType, SimpleNamespace

import pytest

from client import admission, charging, disk, egress, policy, trust, withholding
from client.ledger import heads, ledger
from common.errors import RefusalCode
from common.messages import Reply, Task, TaskKind
from server import inbox
from simulations import door_page
from simulations.door_page import PAGE, described, page, rules_of
from simulations.door_words import REFUSALS, SHAPES

DOOR = (trust, admission, policy, disk, ledger, heads, charging, egress, withholding)


def _refusing(module: ModuleType) -> Iterator[tuple[str, str]]:
    """The functions of a module that refuse, with their code; those of simulations apart."""
    tree = ast.parse(inspect.getsource(module))
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    apart = {n for c in classes if c.name == "Simulated" for n in ast.walk(c)}
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef) or function in apart:
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "RefusalCode":
                yield function.name, node.attr
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "_block":
                yield function.name, "EGRESS_BLOCKED"


def test_the_page_is_what_the_code_makes_now() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m simulations.door_page`"


@pytest.mark.parametrize("module", DOOR, ids=lambda module: module.__name__)
def test_whatever_refuses_at_the_door_is_a_rule_with_its_threat_and_its_code(module) -> None:
    told = {
        (rule.name.rpartition(".")[2], rule.refuses.name)
        for rule in rules_of(module)
        if rule.refuses is not None
    }
    apart = {("_block", "EGRESS_BLOCKED"), ("refused", "DISK_FULL")}
    assert set(_refusing(module)) - apart == told


def test_no_module_with_a_rule_is_left_out() -> None:
    root = PAGE.parents[1]
    with_rules = {
        path.relative_to(root).with_suffix("").as_posix().replace("/", ".")
        for folder in ("client", "common")
        for path in (root / folder).rglob("*.py")
        if re.search(r"^ +Threat: .* Refuses: ", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    modules = [*(module for _, module in door_page._WAY_IN), *door_page._WAY_OUT]
    assert with_rules
    assert with_rules <= {module.__name__ for module in modules}


def test_every_rule_of_the_coordinators_inbox_has_its_threat() -> None:
    told = {rule.name.rpartition(".")[2] for rule in rules_of(inbox)}
    assert {rule.__name__ for rule in inbox._RULES} <= told


@pytest.mark.parametrize("message", [Task, Reply])
def test_every_field_of_a_message_is_described(message: type) -> None:
    assert set(described(message)) == {field.name for field in fields(message)}


def test_every_code_and_every_kind_of_message_is_explained() -> None:
    assert list(REFUSALS) == list(RefusalCode)
    assert list(SHAPES) == list(TaskKind)


@pytest.mark.parametrize(
    ("line", "error"),
    [("S1-4. Refuses: NO_SUCH_CODE.", KeyError), ("against everyone", ValueError)],
)
def test_a_rule_whose_line_is_not_of_the_one_form_is_an_error(
    monkeypatch: pytest.MonkeyPatch, line: str, error: type[Exception]
) -> None:
    source = f'def rule():\n    """It holds.\n\n    Threat: {line}\n    """\n'
    monkeypatch.setattr(door_page.inspect, "getsource", lambda _: source)
    with pytest.raises(error):
        list(rules_of(SimpleNamespace(__name__="door")))  # type: ignore[arg-type]
