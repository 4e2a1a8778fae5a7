"""What the tests of the door read of a site: its replies and its audit log."""

import json
from pathlib import Path

from common.messages import Reply

CANARY = "Qx-Mrs-Miller-1943-zK"


def audit_of(state_dir: Path) -> list[dict]:
    text = (state_dir / "audit.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def content_of(reply: Reply) -> tuple:
    """All of a reply that does not tell how long the work took."""
    metrics = {k: v for k, v in reply.metrics.items() if not k.startswith("seconds")}
    flat = None if reply.arrays is None else reply.arrays.flat.tobytes()
    return reply.status, dict(reply.counts), metrics, flat
