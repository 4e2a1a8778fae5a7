"""Honest replies, and what a policy says of them."""

import numpy as np
import pytest

from client.egress import Declared, release
from client.policy import Policy
from common.arrays import Arrays, Block
from common.errors import Refusal
from common.messages import Reply, TaskKind
from common.metrics.classification import ClassStatistics
from common.metrics.evaluation import to_flat
from common.normalisation import moments_manifest

POLICY = Policy(allow_without_privacy=True, smallest_group=10, max_update_norm=100.0)
UPDATE = (
    Block(name="encoders.labs.hidden.weight", shape=(2, 2)),
    Block(name="encoders.lifestyle.hidden.weight", shape=(3,)),
    Block(name="heads.event.linear.bias", shape=(1,)),
)
ENOUGH = {"patients": 45, "labs": 45, "lifestyle": 45, "event": 45}


def sums(num_patients: int, outcome: str = "event") -> dict[str, tuple[float, ...]]:
    scores_B = np.linspace(0, 1, num_patients)
    scores_BC = np.stack([1 - scores_B, scores_B], axis=1)
    labels = {
        "known_B": np.ones(num_patients, dtype=np.bool_),
        "label_B": np.arange(num_patients) % 2,
    }
    statistics = ClassStatistics(num_classes=2, score_bins=10)
    return to_flat({outcome: statistics.sums_of(scores_BC, labels)})


def reply(kind: TaskKind = TaskKind.TRAIN, **fields: object) -> Reply:
    update = Arrays(manifest=UPDATE, flat=np.arange(1, 9, dtype=np.float32))
    honest = {
        TaskKind.TRAIN: {"arrays": update, "counts": ENOUGH, "metrics": sums(15)},
        TaskKind.EVALUATE: {"metrics": sums(15)},
        TaskKind.ENROL: {"counts": ENOUGH},
    }[kind]
    return Reply(kind=kind, run_id="r", round=1, nonce="n", site="alpha", **(honest | fields))


def moments(tiny_study, count: float) -> Arrays:
    manifest = moments_manifest(tiny_study)
    named = {b.name: np.full(b.shape, count if b.name.endswith("count") else 0.5) for b in manifest}
    return Arrays.pack(named, dtype=np.float64)


def code_of(out: Reply, declared: Declared, policy: Policy = POLICY) -> str:
    with pytest.raises(Refusal) as caught:
        release(out, policy, declared)
    return caught.value.refusal_code
