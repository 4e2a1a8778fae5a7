"""A page looked at as its readers do: on a desk and a phone, by day and by night, and on paper."""

from collections.abc import Iterator
from pathlib import Path

from tests.browser.devtools import Tab

_CHECKS = Path(__file__).with_name("checks.js").read_text(encoding="utf-8")
DESK, PHONE = 1280, 390
# A4 in CSS pixels, without the margins that the style sheet asks for.
PAPER = round((210 - 2 * 16) / 25.4 * 96)
_TAB = 9
_ON_A_SCREEN = ("lowContrast", "lowContrastOfGraphics", "overflow", "tooSmall", "smallTargets")


def faults_of(tab: Tab, url: str, pictures: Path | None = None) -> list[str]:
    """All that is wrong with a page, however it is looked at.

    Args:
        pictures: where screenshots are put; their names begin with this path's.
    """
    tab.show(width=DESK)
    tab.open(url)
    tab.evaluate(_CHECKS)
    found = [*_asked(tab, "structure"), *_asked(tab, "charts")]
    for width in (DESK, PHONE):
        for scheme in ("light", "dark"):
            tab.show(width=width, prefers_color_scheme=scheme)
            found += _named(f"{width} px, {scheme}", tab, *_ON_A_SCREEN)
            _picture(tab, pictures, f"{width}-{scheme}")
    tab.evaluate("checks.unfold()")
    for width, scheme in ((DESK, "light"), (PHONE, "dark")):
        tab.show(width=width, prefers_color_scheme=scheme)
        found += _named(f"{width} px, {scheme}, unfolded", tab, *_ON_A_SCREEN, "charts")
    tab.show(width=PAPER, media="print", prefers_color_scheme="dark")
    found += _named("on paper", tab, "lowContrast", "lowContrastOfGraphics", "overflow", "cutOff")
    _picture(tab, pictures, "paper")
    tab.show(width=DESK, prefers_reduced_motion="reduce")
    found += _named("with reduced motion", tab, "motion")
    found += _by_keyboard(tab)
    found += [f"in the console: {text}" for text in tab.complaints()]
    return list(dict.fromkeys(found))


def asked_of_others(tab: Tab, url: str) -> list[str]:
    """Requests of the page that was opened last, for anything but itself."""
    return [asked for asked in tab.requests() if asked != url]


def _asked(tab: Tab, check: str) -> list[str]:
    found: list[str] = tab.evaluate(f"checks.{check}()")
    return found


def _named(how: str, tab: Tab, *checks: str) -> Iterator[str]:
    for check in checks:
        yield from (f"{how}: {fault}" for fault in _asked(tab, check))


def _by_keyboard(tab: Tab) -> list[str]:
    """Goes through the page by the tabulator: every control is reached, and is seen to be."""
    num_controls = tab.evaluate("checks.follow()")
    tab.press("Tab", _TAB, times=num_controls)
    reached = tab.evaluate("reached")
    unseen = [f"the focus is not seen: {at['name']}" for at in reached if not at["isSeen"]]
    if {at["number"] for at in reached} >= set(range(num_controls)):
        return unseen
    missed = set(range(num_controls)) - {at["number"] for at in reached}
    return [*unseen, f"{len(missed)} of {num_controls} controls are not reached by keyboard"]


def _picture(tab: Tab, pictures: Path | None, name: str) -> None:
    if pictures is not None:
        pictures.parent.mkdir(parents=True, exist_ok=True)
        tab.screenshot(pictures.with_name(f"{pictures.name}-{name}.png"))
