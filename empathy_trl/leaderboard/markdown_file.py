"""The leaderboard in Markdown."""

from empathy_trl.evaluation.intervals import with_interval
from empathy_trl.evaluation.tables import markdown
from empathy_trl.leaderboard.directions import direction
from empathy_trl.leaderboard.table import TITLE, Board, Row, Table
from empathy_trl.model_card.escape import SPECIAL, one_line


def markdown_text(board: Board, picture: str | None = None) -> str:
    """Return the whole page; `picture` is the name of the PNG beside it."""
    parts = [f"# {TITLE}", *board.notes]
    if len(board.tables) > 1:
        parts.append("\n".join(f"{n}. {escape(each.label)}" for n, each in enumerate(board.tables, start=1)))
    if picture:
        parts.append(f"![Main metric of every model with its 95 % interval]({picture})")
    for each in board.tables:
        parts += _section(each)
    if board.problems:
        parts += ["## Not used", "\n".join(f"- {escape(one_line(line))}" for line in board.problems)]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, on one line: names are written by others."""
    return SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))


def arrow(metric: str) -> str:
    """Return which way a metric gets better: " ↑", " ↓" or nothing."""
    return {1: " ↑", -1: " ↓", 0: ""}[direction(metric)]


def cell(figure: dict | None) -> str:
    """Return a figure with its interval, where it has one; "–" where there is none."""
    if figure is None:
        return "–"
    return (
        f"{figure['value']:.3f}" if figure.get("low") is None or figure.get("high") is None else with_interval(figure)
    )


def shown_n(row: Row, metric: str) -> str:
    """Return how many rows the main figure is of."""
    n = row.figures.get(metric, {}).get("n")
    return "–" if n is None else str(n)


def _section(each: Table) -> list[str]:
    parts = [f"## {escape(each.heading)}"]
    if each.why_apart:
        parts.append(f"Stands {escape(each.why_apart)}.")
    parts.append(f"**{escape(each.headline)}**")
    headings = [f"{escape(heading)}{arrow(name)}" for name, heading in each.columns.items()]
    rows = [["place", "model", headings[0], "n", *headings[1:]]]
    for row in each.rows:
        first, *others = (cell(row.figures.get(name)) for name in each.columns)
        name = escape(row.name) if row.role == "model" else f"*{escape(row.name)}*"
        rows.append(["" if row.place is None else row.place, name, first, shown_n(row, each.main), *others])
    parts.append(markdown(rows))
    sources = [
        f"- *{escape(row.name)}*: {escape(row.note)}{f' <{row.url}>' if row.url else ''}"
        for row in each.rows
        if row.note
    ]
    if sources:
        parts.append("\n".join(["Sources of published figures:\n", *sources]))
    if each.apart:
        parts.append(
            "\n".join(
                ["Published, and not comparable with this table:\n", *(f"- {escape(line)}" for line in each.apart)]
            )
        )
    if each.facts["decoding"]:
        parts.append(f"Decoding: {escape(each.facts['decoding'])}.")
    return [*parts, *each.notes]
