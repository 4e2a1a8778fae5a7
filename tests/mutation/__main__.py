"""`python -m tests.mutation`: whether the tests of the door notice when the door is broken.

Draws so many mutants of its modules, runs the tests of each, writes what came of them, line by
line, and prints a table by module and the mutants that nobody noticed, in Markdown; and the lines
and branches of these modules that their tests do not run. With the same `--out` it goes on where it
was cut off.
"""

import argparse
import importlib
import json
import os
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.mutation.door import ROOT, modules, name_of, test_files
from tests.mutation.operators import Mutant, mutants_of
from tests.mutation.runner import Mutation, Verdict

NOTICED = {"caught", "too long"}
OUT_OF_REACH = "out of reach"

# A line of the file that is written: path, place, line, before, after, came, by, num_tests, took_s.
Told = Mapping[str, Any]


def drawn(paths: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """So many mutants of some modules at random: a campaign that is cut off has seen fewer."""
    pool = _all_of(paths)
    return random.Random(seed).sample(pool, min(count, len(pool)))


def unnoticed(paths: Sequence[str], earlier: Path) -> list[Mutant]:
    """What the tests of an earlier campaign did not notice, where its code still stands."""
    survived = {
        (told["path"], told["before"], told["after"])
        for told in read(earlier)
        if told["came"] not in {*NOTICED, OUT_OF_REACH}
    }
    return [m for m in _all_of(paths) if (m.path, m.before, m.after) in survived]


def _all_of(paths: Sequence[str]) -> list[Mutant]:
    return [m for path in paths for m in mutants_of((ROOT / path).read_text("utf-8"), path)]


def tell(verdict: Verdict, out: Path) -> None:
    """Adds a line to the file."""
    fields = ("path", "place", "line", "before", "after")
    told = {name: getattr(verdict.mutant, name) for name in fields}
    told |= {name: getattr(verdict, name) for name in ("came", "by", "num_tests", "took_s")}
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(told) + "\n")


def read(out: Path) -> list[Told]:
    """The lines of the file; none where there is none."""
    lines = out.read_text("utf-8").splitlines() if out.exists() else []
    return [json.loads(line) for line in lines]


def summary(every: Sequence[Told]) -> Iterator[str]:
    """The table and the list, in lines of Markdown; what was out of reach counts for nothing."""
    by_module: dict[str, Counter[str]] = defaultdict(Counter)
    for told in every:
        by_module[told["path"]][told["came"]] += 1
    yield from ("| module | noticed | mutants |", "|---|---:|---:|")
    for path, came in sorted(by_module.items()):
        yield _line(f"`{path}`", came)
    together = Counter(told["came"] for told in every)
    yield _line("together", together)
    yield from ("", f"Out of reach: {together[OUT_OF_REACH]}.", "")
    for told in every:
        if told["came"] not in {*NOTICED, OUT_OF_REACH}:
            yield (
                f"- {told['path']}:{told['line']} `{told['before']}` as `{told['after']}` "
                f"({told['came']}, {told['num_tests']} tests)"
            )


def _line(name: str, came: Counter[str]) -> str:
    num = came.total() - came[OUT_OF_REACH]
    noticed = sum(came[kind] for kind in NOTICED)
    part = f" ({noticed / num:.0%})" if num else ""
    return f"| {name} | {noticed}{part} | {num} |"


def _asked(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--only", nargs="*", default=[], help="paths of modules; all by default")
    parser.add_argument("--again", type=Path, help="those that nobody noticed, of such a file")
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"))
    return parser.parse_args(words)


def _without_shrinking() -> None:
    """Examples that fail are not made smaller: that takes minutes, and nobody reads them here."""
    slow = {hypothesis.Phase.shrink, hypothesis.Phase.explain}
    hypothesis.settings.register_profile(
        "mutants",
        deadline=None,
        derandomize=True,
        max_examples=60,
        phases=[phase for phase in hypothesis.Phase if phase not in slow],
        database=None,
    )
    os.environ["WARDROUND_HYPOTHESIS"] = "mutants"  # tests/conftest.py loads it


def main(words: Sequence[str]) -> int:
    """Runs the campaign; the exit code of pytest."""
    asked = _asked(words)
    tests_of = modules()
    paths = [path for path in tests_of if not asked.only or path in asked.only]
    mutants = (
        unnoticed(paths, asked.again) if asked.again else drawn(paths, asked.count, asked.seed)
    )
    known = {(told["path"], told["place"]) for told in read(asked.out)}
    mutants = [mutant for mutant in mutants if (mutant.path, mutant.place) not in known]
    _without_shrinking()
    mutation = Mutation(mutants, tests_of.__getitem__, lambda verdict: tell(verdict, asked.out))
    for path in paths:
        importlib.import_module(name_of(path))
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "--tb=no", "--show-capture=no"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # much is loaded already
    code = pytest.main([*options, *test_files({m.path for m in mutants})], plugins=[mutation])
    told = ["", *summary(read(asked.out)), "", mutation.coverage]
    sys.stdout.write("\n".join(told) + "\n")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
