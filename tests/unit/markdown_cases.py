"""Results of a run of two hospitals, written by hand."""

import copy
from typing import Any

METRICS = {
    "num_patients": 30.0,
    "accuracy": 0.8125,
    "auroc": 0.75,
    "auprc": 0.7,
    "f1": None,
    "loss": 0.5,
    "brier": 0.2,
    "calibration_error": 0.05,
    "auroc_error_bound": 0.0012,
}


def results_by_hand() -> dict[str, Any]:
    entry = {
        "pooled": {"event": METRICS},
        "sites": {"north": {"event": METRICS}, "south": None},
        "personal": None,
        "oracle": None,
    }
    return copy.deepcopy(
        {
            "schema": 3,
            "run_id": "abc",
            "status": "finished",
            "study": "small",
            "study_hash": "0123456789abcdef" * 4,
            "seed": 7,
            "strategy": "fedadam",
            "outcomes": {"event": "binary"},
            "units": {},
            "engine": "in-process",
            "release": "0.1.0",
            "code": "c0de",
            "started_at": "2026-03-01T12:00:00+00:00",
            "ended_at": "2026-03-01T12:05:00+00:00",
            "num_rounds": 1,
            "num_aggregated": 1,
            "averaged_rounds": 0,
            "unfinished_round": None,
            "resumed_at_rounds": [],
            "transferred": [],
            "sites": {
                "north": {"training_patients": {"patients": 90}},
                "south": {"training_patients": {"patients": 60}},
            },
            "privacy": {"mode": "none"},
            "rounds": [
                {"round": 0, "aggregated_from": [], **entry},
                {"round": 1, "aggregated_from": ["north", "south"], **entry},
            ],
            "absent": [],
            "bytes": {"down": 1234567, "up": 4200},
            "seconds": {
                "rounds": 4.0,
                "aggregation": 1.0,
                "checkpoints": 0.25,
                "site_training": 3.0,
                "site_evaluation": 1.25,
            },
        }
    )
