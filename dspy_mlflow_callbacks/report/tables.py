"""Tables of a report's page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(
    title: str, head: Iterable[str], rows: Iterable[Sequence[str]], *, is_filtered: bool = False, style: str = "numbers"
) -> str:
    """Return a table of texts that are HTML; the first cell of a row is what it is about.

    Args:
        title: What it shows, for who cannot see it.
        head: Of the columns.
        rows: Cells.
        is_filtered: Whether the page's filter is for it.
        style: Its class in the style sheet; empty for none.
    """
    columns = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    mark = (f' class="{style}"' if style else "") + (" data-filtered" if is_filtered else "")
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{title}"><table{mark}><thead><tr>{columns}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )
