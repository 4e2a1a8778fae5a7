"""The pure parts of the bench of real processes: what is subtracted, summed up and shown."""

import json
import os
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from flwr.app import MetricRecord, RecordDict
from rich.console import Console

from client.node_loop import pause_s
from common.errors import RunError
from simulations.bench.federation.bench import check_complete
from simulations.bench.federation.bundle import plain_bundle
from simulations.bench.federation.report import federation_tables, load_tables
from simulations.bench.federation.rounds import (
    Round,
    rounds_of_journal,
    rounds_of_stock,
    summary,
    with_ratios,
)
from simulations.bench.federation.usage import (
    Memory,
    Usage,
    Watch,
    cpu_by_role,
    memory_by_role,
    role_of,
    tree_of,
    usage_of,
)
from simulations.bench.stock_app.server_app import slowest


def _reply(round_number: int, evaluation: float, training: float) -> dict[str, Any]:
    metrics = {"seconds_evaluation": [evaluation], "seconds_training": [training]}
    return {"event": "reply", "kind": "train", "round": round_number, "metrics": metrics}


def test_of_ours_the_slowest_site_is_subtracted() -> None:
    events: list[Mapping[str, Any]] = [
        {"event": "reply", "kind": "query", "round": 0, "metrics": {}},
        _reply(0, 0.25, 1.0),
        _reply(0, 0.5, 0.25),
        {"event": "round_finished", "round": 1, "seconds": 2.0},
        _reply(1, 0.25, 0.25),
        {"event": "round_finished", "round": 2, "seconds": 1.0},
    ]
    first, second = rounds_of_journal(events)
    assert (first.work, first.overhead, first.num_sites) == (1.25, 0.75, 2)
    assert (second.work, second.overhead, second.num_sites) == (0.5, 0.5, 1)


def test_of_stock_flower_training_and_evaluation_are_subtracted_one_after_the_other() -> None:
    of_sites = {"num-sites": 4, "seconds": 1.0}
    line = {"round": 1, "seconds": 10.0, "training": of_sites, "evaluation": of_sites}
    (only,) = rounds_of_stock(json.dumps(line) + "\n")
    assert (only.work, only.overhead, only.num_sites) == (2.0, 8.0, 4)


def test_a_round_of_stock_flower_without_replies_is_no_measurement() -> None:
    line = {"round": 3, "seconds": 10.0, "training": None, "evaluation": None}
    with pytest.raises(ValueError, match="found none in 3"):
        rounds_of_stock(json.dumps(line))


def test_the_plain_app_tells_the_slowest_site() -> None:
    replies = [RecordDict({"metrics": MetricRecord({"seconds": s})}) for s in (1.0, 3.0, 2.0)]
    assert dict(slowest(replies, "")) == {"num-sites": 3, "seconds": 3.0}


def test_the_first_round_is_not_counted_and_ratios_are_of_medians() -> None:
    def rounds(*overheads: float) -> list[Round]:
        return [Round(seconds=s + 1, work=1, num_sites=2) for s in overheads]

    arms = {"ours": summary(rounds(99, 1, 3, 2)), "stock": summary(rounds(99, 40, 10, 20))}
    assert arms["ours"]["num_rounds_measured"] == 3
    assert arms["ours"]["overhead_seconds"] == 2
    assert (arms["ours"]["overhead_seconds_min"], arms["ours"]["overhead_seconds_max"]) == (1, 3)
    ratios = with_ratios(arms)
    assert ratios["ours"]["stock_over_this"] == 10
    assert ratios["stock"]["stock_over_this"] == 1
    assert with_ratios({"ours": arms["ours"]})["ours"]["stock_over_this"] is None


def test_a_round_that_lacks_a_site_is_refused(tmp_path: Path) -> None:
    rounds = [Round(seconds=1, work=0, num_sites=n) for n in (4, 3, 4)]
    with pytest.raises(RunError, match=r"fewer in rounds \[2\]"):
        check_complete(rounds, 4, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "role"),
    [
        ("python /x/bin/wardround site serve /sites/a", "site process"),
        ("python /x/bin/wardround site connect /sites/serve --superlink h:1", "connector"),
        ("python /x/bin/wardround site up /sites/a", "supervisor"),
        ("/x/bin/python /x/bin/flower-superlink --port 1", "superlink"),
        ("/x/bin/python /x/bin/flower-supernode --node-config site=a", "supernode"),
    ],
)
def test_processes_are_told_apart_by_their_commands(arguments: str, role: str) -> None:
    assert role_of(arguments.split()) == role


def test_this_process_uses_memory_and_processor_time() -> None:
    (own,) = usage_of([os.getpid()])
    assert os.getpid() in tree_of(os.getpid())
    assert 0 < own.memory.pss <= own.memory.rss
    assert own.cpu_s > 0
    assert usage_of([2**30]) == []


def test_of_a_role_the_largest_process_and_all_processor_time_are_told() -> None:
    usages = [
        Usage(role="site", memory=Memory(rss=3, pss=1), cpu_s=1.0),
        Usage(role="site", memory=Memory(rss=2, pss=2), cpu_s=2.0),
    ]
    assert memory_by_role(usages) == {"site": Memory(rss=3, pss=2)}
    assert cpu_by_role(usages) == {"site": 3.0}


def test_the_peak_is_of_one_moment() -> None:
    watch = Watch(list, pause_s=1)
    one = Usage(role="a", memory=Memory(rss=4, pss=4), cpu_s=0)
    other = Usage(role="b", memory=Memory(rss=5, pss=5), cpu_s=0)
    watch.take([one])
    watch.take([other])
    watch.take([one, one])
    assert watch.peak == {"a": one.memory, "b": other.memory}
    assert watch.peak_total == Memory(rss=8, pss=8)


def test_the_plain_app_fits_into_a_bundle() -> None:
    assert plain_bundle().startswith(b"PK")


def test_tables_show_every_arm_and_every_role() -> None:
    figures = summary([Round(seconds=3, work=1, num_sites=2)] * 3)
    memory = {"connector": {"rss": 105.0, "pss": 61.0}}
    case = {
        "study": "heart-disease",
        "sites": 4,
        "tensors": 18,
        "arms": with_ratios({"ours": figures, "stock": figures}),
        "cpu_seconds": {"ours": {"connector": 0.5}, "stock": {"supernode": 9.25}},
        "memory_mb": {"ours": memory, "stock": memory},
    }
    text = _shown(federation_tables({"cases": [case]}))
    assert all(word in text for word in ("ours", "stock", "connector", "9.25", "105"))
    load = {
        "sites": 10,
        "rounds": 20,
        "model_mb": 10.0,
        "replies_received": 199,
        "replies_expected": 200,
        "peak_memory_mb": memory,
        "peak_total_mb": {"rss": 5000.0, "pss": 3210.0},
        **figures,
    }
    assert all(word in _shown(load_tables(load)) for word in ("199", "200", "3210", "connector"))


def _shown(tables: list[Any]) -> str:
    console = Console(width=200, record=True, file=StringIO())
    for table in tables:
        console.print(table)
    return console.export_text()


@pytest.mark.parametrize(
    ("idle_s", "last_gap_s", "waited_s"),
    [
        (0.0, 0.0, 0.05),  # nothing is known yet
        (0.0, 1.0, 0.75),  # three quarters of the last gap at once
        (0.75, 1.0, 0.1),  # then a tenth of it at a time
        (5.0, 1.0, 0.5),  # a longer gap than the last: a tenth of this one
        (0.0, 3600.0, 2.0),  # never long: a run may have ended meanwhile
    ],
)
def test_a_node_asks_when_a_message_can_be_there(
    idle_s: float, last_gap_s: float, waited_s: float
) -> None:
    assert pause_s(idle_s, last_gap_s) == pytest.approx(waited_s)
