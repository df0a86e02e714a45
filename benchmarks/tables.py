"""From measured figures to Markdown: what the tables of all parts share."""

from __future__ import annotations

import statistics


def table(head, rows):
    """Return the lines of a table: the first column is text, the others are set right."""
    rule = ("---", *("---:" for _ in head[1:]))
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def number(value, digits):
    return "" if value is None else f"{value:,.{digits}f}"


def percent(value, digits=1):
    return "" if value is None else f"{value:.{digits}%}"


def between(values, digits):
    """Return the lowest and the highest of *values*."""
    return " to ".join(number(bound(values), digits) for bound in (min, max))


def stored(row):
    """Return the cells that say how many spans the stored traces have, and how many traces are stored."""
    kept = "" if row["stored"] is None else f"{row['stored']:,} of {row['executed']:,}"
    return ", ".join(map(str, row["spans"])), kept


def worst(contestant, figures, key):
    """Return the least of a figure over rounds; None where *contestant* stores nothing."""
    return min(each[key] for each in figures) if contestant.keeps else None


def storage(contestant, figures):
    """Return what is stored in the worst of the rounds; None where *contestant* stores nothing."""
    return {
        "spans": sorted({spans for each in figures for spans in each["spans"]}),
        "executed": figures[0]["executed"],
        "stored": worst(contestant, figures, "stored"),
        "whole": worst(contestant, figures, "whole"),
    }


def counted(rounds):
    """Return how many rounds there were."""
    return max(map(len, rounds.values()))


def median(figures, key):
    """Return the median of a figure over rounds; None where a round has none."""
    values = [each[key] for each in figures]
    return None if None in values else statistics.median(values)


def over(value, base):
    return None if value is None or not base else value / base


def beside(figures, base, key, compare):
    """Return the median over rounds of what *compare* makes of a figure and that of *base* in the same round.

    Returns None without a base.
    """
    if base is None:
        return None
    return statistics.median(compare(own[key], other[key]) for own, other in zip(figures, base, strict=True))
