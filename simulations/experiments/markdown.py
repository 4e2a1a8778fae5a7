"""A page as Markdown: the same blocks, for a terminal and for people who read files."""

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
            return _table(block)
        case Details(summary=summary, text=text):
            return f"{summary}:\n\n```\n{text}\n```"
        case _:
            return ""


def _table(table: Table) -> str:
    columns = ["---", *(["---" if table.is_words else "---:"] * (len(table.head) - 1))]
    rows = [table.head, columns, *table.rows, *([table.total] if table.total else [])]
    lines = [_row(row) for row in rows]
    note = ["", table.note] if table.note else []
    return "\n".join([f"**{table.caption}**", "", *lines, *note])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
