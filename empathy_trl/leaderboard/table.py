"""What a leaderboard shows, in no format yet: tables of rows, with what is said of them."""

from dataclasses import dataclass, field

from empathy_trl.leaderboard.directions import direction
from empathy_trl.leaderboard.entries import Entry

TITLE = "Leaderboard"


@dataclass
class Row:
    """One line of a table.

    Attributes:
        role: "model", "baseline" or "published".
        name: what a reader calls it.
        figures: metric -> `{"value", "low", "high", "n"}`; the last three may lack or be None.
        place: from 1; None for a reference row.
        note: a citation or the like, else "".
        url: of the source, else None.
        entry: of a model.
    """

    role: str
    name: str
    figures: dict[str, dict]
    place: int | None = None
    note: str = ""
    url: str | None = None
    entry: Entry | None = None


@dataclass
class Table:
    """What stands in one table: comparable results.

    Attributes:
        anchor: a name for links, unlike all others.
        heading: what was measured on what.
        why_apart: from which table of the same kind and data it stands apart, and why; "" for the first.
        headline: who is first.
        columns: metric -> heading; the first decides the place.
        rows: the best first.
        apart: published figures that may not stand in the table, one line each.
        notes: what a reader has to know, in Markdown, with code in backticks and nothing else.
        facts: as in `groups`.
        data: of the evaluations, with `source`, `revision`, `n`.
        label: the heading or, where another table has the same one, with what tells them apart.
    """

    anchor: str
    heading: str
    why_apart: str
    headline: str
    columns: dict[str, str]
    rows: list[Row]
    apart: list[str]
    notes: list[str]
    facts: dict
    data: dict = field(default_factory=dict)
    label: str = ""

    @property
    def main(self) -> str:
        """The metric that decides the place."""
        return next(iter(self.columns))


@dataclass
class Board:
    """All tables, and what to know of all of them."""

    tables: list[Table]
    notes: list[str]
    problems: list[str]


def by_value(metric: str):
    """Return a key that sorts rows by a metric, the best first, then by name; rows without a value come last."""
    sign = direction(metric) or 1
    return lambda row: (
        (0, -sign * row.figures[metric]["value"], row.name) if metric in row.figures else (1, 0, row.name)
    )
