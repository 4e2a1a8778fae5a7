"""The environment of Flower's programs: no telemetry, no look for updates, nothing installed."""

from collections.abc import Mapping
from types import MappingProxyType

QUIET: Mapping[str, str] = MappingProxyType(
    {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PYTHONUNBUFFERED": "1",
    }
)

# What was freed goes back to the machine at once. For programs that pass models on: a training
# step takes half as long again with it (common/memory.py is for these).
SMALL: Mapping[str, str] = MappingProxyType(
    {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "131072"}
)

# One heap for all threads. For programs that train, too, which lose no time by it; after a task
# with a model of 10 MB a site process holds 40 MB less.
ONE_HEAP: Mapping[str, str] = MappingProxyType({"MALLOC_ARENA_MAX": "1"})
