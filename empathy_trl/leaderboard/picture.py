"""The leaderboard as a picture: the main metric of every row with its interval, one panel per table."""

import textwrap
from pathlib import Path

from empathy_trl.leaderboard.markdown_file import arrow
from empathy_trl.leaderboard.table import Board, Table
from empathy_trl.pictures import pyplot, save

MODEL, REFERENCE = "#4c78a8", "#8a8a8a"


def draw_board(path: Path, board: Board) -> Path:
    """Draw the panels below each other as PNG; rows without the main metric are left out."""
    labels = [[_label(row) for row in _shown(table)] for table in board.tables]
    titles = [textwrap.wrap(table.label, 90) for table in board.tables]
    heights = [
        0.75 + 0.17 * len(title) + 0.3 * sum(label.count("\n") + 1 for label in panel)
        for title, panel in zip(titles, labels, strict=True)
    ]
    figure, axes = pyplot().subplots(
        len(heights), 1, figsize=(9, sum(heights) + 0.5), height_ratios=heights, layout="constrained", squeeze=False
    )
    for panel, table, title, names in zip(axes[:, 0], board.tables, titles, labels, strict=True):
        _draw(panel, table, names)
        panel.set_title(_plain("\n".join(title)), fontsize=10, loc="left")
    figure.suptitle("Bars: 95 % intervals. Grey: reference rows, without a place", fontsize=9)
    return save(figure, path)


def _shown(table: Table) -> list:
    return [row for row in table.rows if table.main in row.figures]


def _label(row) -> str:
    place = "" if row.place is None else f"{row.place}. "
    return _plain("\n".join(textwrap.wrap(f"{place}{row.name}", 44, max_lines=3)))


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # or matplotlib reads formulas in it


def _draw(axes, table: Table, names: list[str]) -> None:
    for height, row in enumerate(_shown(table)):
        figure, colour = row.figures[table.main], MODEL if row.role == "model" else REFERENCE
        if figure.get("low") is not None and figure.get("high") is not None:
            axes.plot([figure["low"], figure["high"]], [height, height], color=colour, linewidth=2)
        marker = {"model": "o", "baseline": "D", "published": "s"}[row.role]
        axes.plot(figure["value"], height, marker, color=colour, markersize=6)
        axes.annotate(
            f"{figure['value']:.3f}", (1.01, height), xycoords=("axes fraction", "data"), va="center", fontsize=9
        )
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.5)  # the best on top
    axes.set_xlabel(f"{next(iter(table.columns.values()))}{arrow(table.main)}", fontsize=9)
    axes.tick_params(axis="x", labelsize=9)
    axes.grid(axis="x", alpha=0.3)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
