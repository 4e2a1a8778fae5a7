"""An audit of the private training behind a point: what it proves that epsilon is at least."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from common.errors import WardroundError
from common.study import Study
from simulations.experiments.pieces import Made, Piece


def audit_piece(study: Study, spent: Mapping[str, Any]) -> Piece | None:
    """The audit of the hospital whose patients paid most; None where no run has come to its end.

    Args:
        spent: what a run has cost, by hospital (`simulations.experiments.runs.measure`).
    """
    if not spent:
        return None
    site = max(sorted(spent), key=lambda name: spent[name]["epsilon"])
    size = spent[site]["cohort_size"]
    return Piece(
        name=f"audit-{study.hash[:12]}-patients-{size}", make=partial(_audit, study, size, site)
    )


def _audit(study: Study, cohort_size: int, site: str, _: Path) -> Made:
    from simulations.attacks.finding import finding_to_json
    from simulations.attacks.gaussian_audit import audit_study

    try:
        finding = audit_study(study, cohort_size=cohort_size, seed=study.training.seed)
    except WardroundError as error:
        return {"failed": error.code, "site": site}
    return {**finding_to_json(finding), "failed": "", "site": site, "cohort_size": cohort_size}
