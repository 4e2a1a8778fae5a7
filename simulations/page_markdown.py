"""A page as Markdown: the same blocks, for a terminal and for people who read files.

All Markdown that is made of `common.page` blocks is written here.
"""

from collections.abc import Sequence

from common.page.document import (
    Block,
    Details,
    Figures,
    Heading,
    Items,
    Page,
    Paragraph,
    Table,
)


def markdown_of(page: Page) -> str:
    """The page as Markdown, without charts and pictures: numbers stand in tables beside them."""
    parts = [f"# {page.title}", *page.subtitle]
    for section in page.sections:
        texts = [text for block in section.blocks if (text := _text(block))]
        if texts:
            parts += [f"## {section.title}", *texts]
    return "\n\n".join([*parts, page.footer]) + "\n"


def _text(block: Block) -> str:
    match block:
        case Heading(text=text):
            return f"### {text}"
        case Paragraph(text=text):
            return text
        case Items(items=items):
            return "\n".join(f"- {item}" for item in items)
        case Figures(figures=figures):
            return "\n".join(
                f"- {f.name}: **{f.value}**" + (f" ({f.more})" if f.more else "") for f in figures
            )
        case Table():
            return table_text(block)
        case Details(summary=summary, text=text):
            return f"{summary}:\n\n```\n{text}\n```"
        case _:
            return ""


def table_text(table: Table) -> str:
    r"""A table below its caption, above its note; nothing in a cell is taken for Markdown.

    >>> print(table_text(Table(caption="c", head=("a", "b"), rows=[("x|y", "1")])))
    **c**
    <BLANKLINE>
    | a | b |
    |---|---:|
    | x\|y | 1 |
    """
    columns = ["---", *(["---" if table.is_words else "---:"] * (len(table.head) - 1))]
    rows = [*table.rows, *([table.total] if table.total else [])]
    lines = [_row(table.head), f"|{'|'.join(columns)}|", *map(_row, rows)]
    note = ["", _escaped(table.note)] if table.note else []
    return "\n".join([f"**{table.caption}**", "", *lines, *note])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _escaped(text: str) -> str:
    return text.replace("*", "\\*").replace("|", "\\|")
