"""A page as blocks: what the sections of a report are made of, and the page made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from common.page.style import STYLE, content_policy
from common.page.templates import TEMPLATES


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading below that of the section."""

    template: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """A paragraph of plain text.

    Attributes:
        look: "", or "lead", "note", "warn", "fault".
    """

    template: ClassVar[str] = "paragraph"
    text: str
    look: str = ""


@dataclass(frozen=True, kw_only=True)
class Items:
    """A list of plain texts; `is_todo` gives each a box to tick on paper."""

    template: ClassVar[str] = "items"
    items: Sequence[str]
    is_todo: bool = False


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number that stands out, and what it is of."""

    name: str
    value: str
    more: str = ""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The numbers that stand out."""

    template: ClassVar[str] = "figures"
    figures: Sequence[Figure]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with a caption; the first cell of each row names the row.

    Attributes:
        total: the last row, which sums up the others; none where there is nothing to sum.
        is_words: whether cells are read rather than compared.
        summary: folds a long table away under these words; "" shows it.
    """

    template: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    total: Sequence[str] = ()
    note: str = ""
    is_words: bool = False
    summary: str = ""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture, what it is called, and the same numbers as a table."""

    title: str
    svg: Markup
    table: Table


@dataclass(frozen=True, kw_only=True)
class Charts:
    """Charts side by side, as far as there is room."""

    template: ClassVar[str] = "charts"
    charts: Sequence[Chart]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture of pixels.

    Attributes:
        source: a data URI of a PNG file.
        alt: what is in it, for those who cannot see it.
        size: width and height in pixels.
    """

    title: str
    source: str
    alt: str
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures side by side, as far as there is room, below a caption."""

    template: ClassVar[str] = "pictures"
    caption: str
    pictures: Sequence[Picture]


@dataclass(frozen=True, kw_only=True)
class Details:
    """A long text that is folded away."""

    template: ClassVar[str] = "details"
    summary: str
    text: str


Block = Heading | Paragraph | Items | Figures | Table | Charts | Pictures | Details


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page.

    Attributes:
        key: its name in links; unique in a page, of letters and dashes.
    """

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page; sections without a block are left out."""

    title: str
    subtitle: Sequence[str]
    sections: Sequence[Section]
    footer: str


def html_of(page: Page) -> str:
    """The page as one HTML file, which asks nothing of anybody.

    Guarantees:
        - Equal pages give equal texts.
        - Every text is escaped: none can become an element, a link or a script.
        - No script, no request: its content policy allows neither.
    """
    shown = [section for section in page.sections if section.blocks]
    whole = Page(title=page.title, subtitle=page.subtitle, sections=shown, footer=page.footer)
    # The style sheet is ours, and its quotes must stay as they are: the policy names its digest.
    return (
        _environment()
        .get_template("page")
        .render(page=whole, style=Markup(STYLE), policy=content_policy())  # noqa: S704
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=DictLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
