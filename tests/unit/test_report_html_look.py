"""How pages look: contrast in both colour schemes, and the content policy.

In a real browser: tests/browser.
"""

import base64
import hashlib
import re

import pytest

from common.page.style import DARK, GRAPHIC_PAIRS, LIGHT, STYLE, TEXT_PAIRS, content_policy
from tests.unit.report_journals import page_of, plain_journal

SCHEMES = {"light": LIGHT, "dark": DARK}


def luminance_of(colour: str) -> float:
    """Relative luminance. Source: WCAG 2.2, definition of relative luminance."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast_of(one: str, other: str) -> float:
    low, high = sorted((luminance_of(one), luminance_of(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_known_colours() -> None:
    # Black on white is 21 by definition; #767676 is the lightest grey that passes AA on white.
    assert contrast_of("#000000", "#ffffff") == pytest.approx(21)
    assert contrast_of("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("mark", "ground"), TEXT_PAIRS)
def test_text_contrasts_with_its_ground(scheme: str, mark: str, ground: str) -> None:
    assert contrast_of(SCHEMES[scheme][mark], SCHEMES[scheme][ground]) >= 4.5


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("mark", "ground"), GRAPHIC_PAIRS)
def test_graphics_contrast_with_their_ground(scheme: str, mark: str, ground: str) -> None:
    assert contrast_of(SCHEMES[scheme][mark], SCHEMES[scheme][ground]) >= 3


def test_every_colour_of_text_and_of_lines_is_among_the_pairs_that_are_checked() -> None:
    # A rule separates, a track is what is left empty: neither has to be told from its ground.
    texts = {name for name, _ in TEXT_PAIRS}
    graphics = {name for name, _ in GRAPHIC_PAIRS} | {"soft", "rule"}
    assert set(re.findall(r"[{;\s]color:var\(--(\w+)\)", STYLE)) <= texts
    assert set(re.findall(r"(?:stroke|fill):var\(--(\w+)\)", STYLE)) <= graphics
    assert set(re.findall(r"background:var\(--(\w+)\)", STYLE)) <= {g for _, g in TEXT_PAIRS}
    assert set(LIGHT) == set(DARK)
    assert not re.search(r"#[0-9a-f]{3,6}\b", STYLE.split("*{box-sizing")[1])


def test_the_policy_allows_the_style_sheet_of_the_page_and_nothing_else() -> None:
    page = page_of(plain_journal())
    (style,) = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = content_policy()
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert f'content="{policy}"'.replace("'", "&#39;") in page
