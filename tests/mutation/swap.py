"""Gives the functions of a loaded module the code of a mutant, in this process."""

import ast
import sys
import types
from collections.abc import Iterator
from typing import Any


def functions_of(namespace: Any, module: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The functions and methods that a module's file defines; what wraps them is looked into."""
    file = sys.modules[module].__file__
    for key, value in list(vars(namespace).items()):
        wrapped = (
            getattr(value, name, None) for name in ("__func__", "fget", "__wrapped__", "func")
        )
        for function in (value, *wrapped):
            is_function = isinstance(function, types.FunctionType)
            # Those that a dataclass makes have no file.
            if is_function and function.__code__.co_filename == file:
                yield prefix + key, function
        if isinstance(value, type) and value.__module__ == module:
            yield from functions_of(value, module, f"{prefix}{key}.")


def swap(name: str, tree: ast.Module) -> int:
    """How many functions of a loaded module have other code now.

    0 means that the change is where this way does not reach: in a function that only a value of
    the module holds.
    """
    module = sys.modules[name]
    other = types.ModuleType(name)
    other.__file__ = module.__file__
    sys.modules[name] = other
    try:
        exec(compile(tree, str(module.__file__), "exec"), vars(other))  # noqa: S102
    finally:
        sys.modules[name] = module
    changed = dict(functions_of(other, name))
    num = 0
    for key, function in functions_of(module, name):
        new = changed.get(key)
        if new is None or function.__code__ == new.__code__:
            continue
        function.__code__ = new.__code__
        num += 1
    _forget_results(module)
    return num


def _forget_results(module: types.ModuleType) -> None:
    """What a function with a cache has worked out before is of the code before."""
    for value in vars(module).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()
