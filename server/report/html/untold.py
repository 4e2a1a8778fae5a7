"""Why a page does not show what the study asks hospitals for."""

from collections.abc import Mapping
from typing import Any

from common.page.document import Block, Paragraph
from server.report.privacy import is_private
from server.report.rounds import last_evaluated


def why_untold(
    results: Mapping[str, Any], key: str, told: str, *, private: str, none: str
) -> list[Block] | None:
    """What stands in place of results that there are not; None where there are some.

    Args:
        key, told: of the results, what the study asks for, and in it what hospitals told.
        private: said where nothing is released, because each patient is protected.
        none: said where the last model was evaluated and no hospital told anything.
    """
    found = results[key]
    if found is None:
        return []
    if is_private(results):
        return [Paragraph(text=private, look="note")]
    if last_evaluated(results) is None:
        return []
    return None if found[told] else [Paragraph(text=none, look="note")]
