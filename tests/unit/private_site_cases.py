"""What tests of a private hospital share: its budget, tasks to it, and what its ledger says."""

import json
from typing import Any

from client.config import load_site_config
from client.site import Site
from common.messages import Reply, TaskKind
from common.study import Study
from tests.unit.builders import task_of
from tests.unit.consortium import signed

EPSILON, DELTA = 4.0, 1e-4
BUDGET = {"epsilon_budget": 10.0, "delta_budget": 1e-4, "cohort_size": 45, "min_patients": 20}


def answer(site: Site, study: Study, kind: TaskKind = TaskKind.TRAIN, **fields: Any) -> Reply:
    return site.answer(signed(task_of(study, kind, **fields)))


def ledger_of(site: Site) -> list[dict[str, Any]]:
    state = load_site_config(site.folder).state_dir  # type: ignore[attr-defined]
    (path,) = (state / "ledger").glob("*.jsonl")
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def kinds(site: Site) -> list[str]:
    return [entry["kind"] for entry in ledger_of(site)]
