"""Small mistakes that somebody could make in a module, one at a time, as changed syntax trees.

Only what stands in a function is changed, and no text: of errors, of logs, of documentation.
"""

import ast
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_CALCULATED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Div,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_NAMES = {"any": "all", "all": "any", "min": "max", "max": "min", "sorted": "list"}
_LOGS = {"debug", "info", "warning", "error", "exception"}
_UNTOUCHED = (ast.Raise, ast.JoinedStr, ast.arguments, ast.Import, ast.ImportFrom)

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


Way = tuple[tuple[str, int | None], ...]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A module with one node changed.

    Attributes:
        path: of the module.
        place: which change of that module it is.
        line: where it is; `before` and `after` are the node's code, up to its first line's end.
        lines: first and last line of its statement; of `if` and the like, those above the body.
        module: as it is, without the change.
        way: how the node is reached from there: names of fields, and places in their lists.
        new: what takes its place.
    """

    path: str
    place: int
    line: int
    lines: tuple[int, int]
    before: str
    after: str
    module: ast.Module
    way: Way
    new: ast.AST

    def tree(self) -> ast.Module:
        """The changed module."""
        changed = deepcopy(self.module)
        node: ast.AST = changed
        *way, (name, place) = self.way
        for step, at in way:
            child = getattr(node, step)
            node = child if at is None else child[at]
        if place is None:
            setattr(node, name, self.new)
        else:
            getattr(node, name)[place] = self.new
        return changed


def mutants_of(source: str, path: str = "") -> list[Mutant]:
    """All mutants of a module.

    >>> for mutant in mutants_of("def f(a):\\n    return a < 1"):
    ...     print(mutant.line, mutant.before, "->", mutant.after)
    2 return a < 1 -> return None
    2 a < 1 -> a <= 1
    2 1 -> 2
    """
    module = ast.parse(source)
    changes = [
        (spot, ast.fix_missing_locations(ast.copy_location(new, spot.node)))
        for spot in _spots(module)
        for new in _changed(spot.node)
        if ast.dump(new) != ast.dump(spot.node)
    ]
    return [
        Mutant(
            path=path,
            place=number,
            line=spot.node.lineno,
            lines=spot.lines,
            before=_first_line(spot.node),
            after=_first_line(new),
            module=module,
            way=spot.way,
            new=new,
        )
        for number, (spot, new) in enumerate(changes)
    ]


def _first_line(node: ast.AST) -> str:
    return ast.unparse(node).partition("\n")[0]


@dataclass(frozen=True, kw_only=True)
class _Spot:
    """A node that may be changed, the way to it, and the lines of its statement."""

    node: ast.expr | ast.stmt
    way: Way
    lines: tuple[int, int]


def _spots(module: ast.Module) -> Iterator[_Spot]:
    """All nodes that may be changed: what stands in functions, but texts."""

    def walk(node: ast.AST, way: Way, lines: tuple[int, int], is_inside: bool) -> Iterator[_Spot]:
        if isinstance(node, _UNTOUCHED) or _is_log(node) or _is_text(node):
            return
        if isinstance(node, ast.stmt):
            lines = _lines_of(node)
        if is_inside and isinstance(node, ast.expr | ast.stmt):
            yield _Spot(node=node, way=way, lines=lines)
        for name, value in ast.iter_fields(node):
            if name in {"annotation", "returns", "decorator_list", "keys"}:
                continue
            children = value if isinstance(value, list) else [value]
            inside = is_inside or (isinstance(node, Function) and name == "body")
            for place, child in enumerate(children):
                if isinstance(child, ast.AST):
                    step = (name, place if isinstance(value, list) else None)
                    yield from walk(child, (*way, step), lines, inside)

    return walk(module, (), (0, 0), False)


def _lines_of(statement: ast.stmt) -> tuple[int, int]:
    body = getattr(statement, "body", None)
    last = body[0].lineno - 1 if isinstance(body, list) and body else statement.end_lineno
    return statement.lineno, max(statement.lineno, last or 0)


def _is_log(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in _LOGS
    )


def _is_text(node: ast.AST) -> bool:
    """Whether a node is documentation, or a statement that is nothing but a log line."""
    return isinstance(node, ast.Expr) and (
        isinstance(node.value, ast.Constant) or _is_log(node.value)
    )


def _changed(node: ast.AST) -> Iterator[ast.AST]:
    for kind, change in _OPERATORS:
        if isinstance(node, kind):
            yield from change(deepcopy(node))


def _compare(node: ast.Compare) -> Iterator[ast.AST]:
    for place, operator in enumerate(node.ops):
        ops = [*node.ops]
        ops[place] = _COMPARED[type(operator)]()
        yield ast.Compare(left=node.left, ops=ops, comparators=node.comparators)


def _bool(node: ast.BoolOp) -> Iterator[ast.AST]:
    other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    yield ast.BoolOp(op=other, values=node.values)
    for place in range(len(node.values)):
        values = node.values[:place] + node.values[place + 1 :]
        yield values[0] if len(values) == 1 else ast.BoolOp(op=node.op, values=values)


def _not(node: ast.UnaryOp) -> Iterator[ast.AST]:
    if isinstance(node.op, ast.Not | ast.USub):
        yield node.operand


def _calculate(node: ast.BinOp) -> Iterator[ast.AST]:
    if other := _CALCULATED.get(type(node.op)):
        yield ast.BinOp(left=node.left, op=other(), right=node.right)


def _condition(node: ast.If | ast.While | ast.IfExp) -> Iterator[ast.AST]:
    """The condition never holds; and it is turned round."""
    never = deepcopy(node)
    never.test = ast.Constant(value=False)
    yield never
    turned = deepcopy(node)
    turned.test = ast.UnaryOp(op=ast.Not(), operand=node.test)
    yield turned


def _comprehend(node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> Iterator[ast.AST]:
    for place, part in enumerate(node.generators):
        if part.ifs:
            every = deepcopy(node)
            every.generators[place].ifs = []
            yield every


def _constant(node: ast.Constant) -> Iterator[ast.AST]:
    if isinstance(node.value, bool):
        yield ast.Constant(value=not node.value)
    elif isinstance(node.value, int | float):
        yield ast.Constant(value=node.value + 1)
    elif isinstance(node.value, str):
        yield ast.Constant(value=f"X{node.value}")


def _assign(node: ast.Assign | ast.AnnAssign) -> Iterator[ast.AST]:
    if node.value is not None and ast.unparse(node.value) != "None":
        node.value = ast.Constant(value=None)
        yield node


def _add(node: ast.AugAssign) -> Iterator[ast.AST]:
    yield ast.Assign(targets=[node.target], value=node.value)


def _return(node: ast.Return) -> Iterator[ast.AST]:
    if node.value is not None and ast.unparse(node.value) != "None":
        yield ast.Return(value=ast.Constant(value=None))


def _statement(node: ast.Expr) -> Iterator[ast.AST]:
    """A call for its effect is left out: a check that nobody makes."""
    if isinstance(node.value, ast.Call | ast.YieldFrom | ast.Yield):
        yield ast.Pass()


def _call(node: ast.Call) -> Iterator[ast.AST]:
    if isinstance(node.func, ast.Name) and node.func.id in _NAMES:
        renamed = deepcopy(node)
        renamed.func = ast.Name(id=_NAMES[node.func.id], ctx=ast.Load())
        yield renamed
    for place in range(len(node.keywords)):
        if node.keywords[place].arg is not None:
            fewer = deepcopy(node)
            del fewer.keywords[place]
            yield fewer
    for place, argument in enumerate(node.args):
        if not isinstance(argument, ast.Constant | ast.Starred):
            without = deepcopy(node)
            without.args[place] = ast.Constant(value=None)
            yield without


def _leave(node: ast.Break | ast.Continue) -> Iterator[ast.AST]:
    yield ast.Continue() if isinstance(node, ast.Break) else ast.Break()


_OPERATORS: Iterable[tuple[Any, Callable[..., Iterator[ast.AST]]]] = (
    (ast.Compare, _compare),
    (ast.BoolOp, _bool),
    (ast.UnaryOp, _not),
    (ast.BinOp, _calculate),
    ((ast.If, ast.While, ast.IfExp), _condition),
    ((ast.ListComp, ast.SetComp, ast.GeneratorExp), _comprehend),
    (ast.Constant, _constant),
    ((ast.Assign, ast.AnnAssign), _assign),
    (ast.AugAssign, _add),
    (ast.Return, _return),
    (ast.Expr, _statement),
    (ast.Call, _call),
    ((ast.Break, ast.Continue), _leave),
)
