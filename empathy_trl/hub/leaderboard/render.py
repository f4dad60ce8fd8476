"""A leaderboard as files: Markdown, CSV, an HTML page, a PNG, and the card of the published data set.

The CSV has one line per value, so that tables with different columns fit in one file. The page (`page.html.jinja`)
needs no other file. The image has one panel per table: the main metric of every row with its interval.

Names in a leaderboard come from other people's results, so each format escapes them.
"""

import csv
import io
import re
import textwrap
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from empathy_trl.evaluation.base import markdown
from empathy_trl.evaluation.metrics.bootstrap import with_interval
from empathy_trl.evaluation.plots import pyplot, save
from empathy_trl.hub.leaderboard.ranking import direction
from empathy_trl.hub.leaderboard.table import TITLE, Board, Row, Table
from empathy_trl.hub.stage_folder import one_line
from empathy_trl.io import write_text
from empathy_trl.text import in_markdown

PAGE = Path(__file__).with_name("page.html.jinja")
NAMES = {"table": "leaderboard.md", "csv": "leaderboard.csv", "page": "leaderboard.html", "plot": "leaderboard.png"}
CARD_FILE = "README.md"
# of the Hub's cards of data sets; `configs` says which file the viewer shows
FRONT_MATTER = """\
---
pretty_name: empathy-trl leaderboard
tags:
- empathy-trl
- leaderboard
configs:
- config_name: default
  data_files: leaderboard.csv
---

"""
FILES_NOTE = (
    "`leaderboard.csv` has one line per table, row and metric. `leaderboard.html` is a page with sortable tables: download it to "
    "open it."
)
COLUMNS = (
    "table", "why_apart", "kind", "data", "source", "revision", "split", "rows", "decoding", "judged_by",
    "metrics_version", "rank", "role", "model", "recipe", "stage", "metric", "is_main", "value", "low", "high", "n", "citation",
    "sd", "seeds",
)  # fmt: skip
MODEL_COLOUR, REFERENCE_COLOUR = "#4c78a8", "#8a8a8a"


def write_board(board: Board, folder: Path) -> dict[str, Path]:
    """Write the four files into a folder, which is created if it is missing; return what each is -> its path."""
    paths = {what: folder / name for what, name in NAMES.items()}
    draw_board(paths["plot"], board)
    write_text(paths["table"], markdown_text(board, NAMES["plot"]))
    write_text(paths["csv"], csv_text(board))
    write_text(paths["page"], page(board))
    return paths


def write_card(board: Board, folder: Path) -> list[str]:
    """Write the card of the data set beside the other files; return the names of all files of the data set."""
    heading, _, rest = markdown_text(board, NAMES["plot"]).partition("\n\n")
    write_text(folder / CARD_FILE, f"{FRONT_MATTER}{heading}\n\n{FILES_NOTE}\n\n{rest}")
    return [CARD_FILE, *NAMES.values()]


# ---- one figure ----


def arrow(metric: str) -> str:
    """Return which way a metric gets better: " ↑", " ↓" or nothing."""
    return {1: " ↑", -1: " ↓", 0: ""}[direction(metric)]


def cell(figure: dict | None) -> str:
    """Return a figure with its interval, where it has one; "–" where there is none."""
    if figure is None:
        return "–"
    return with_interval({"low": None, "high": None} | figure)


def shown_n(row: Row, metric: str) -> str:
    """Return how many rows the main figure is of."""
    n = row.figures.get(metric, {}).get("n")
    return "–" if n is None else str(n)


# ---- Markdown ----


def markdown_text(board: Board, picture: str | None = None) -> str:
    """Return the whole page; `picture` is the name of the PNG beside it."""
    parts = [f"# {TITLE}", *board.notes]
    if len(board.tables) > 1:
        parts.append("\n".join(f"{n}. {in_markdown(each.label)}" for n, each in enumerate(board.tables, start=1)))
    if picture:
        parts.append(f"![Main metric of every model with its 95 % interval]({picture})")
    for each in board.tables:
        parts += _section(each)
    if board.problems:
        parts += ["## Not used", "\n".join(f"- {in_markdown(one_line(line))}" for line in board.problems)]
    return "\n\n".join(parts) + "\n"


def _section(table: Table) -> list[str]:
    parts = [f"## {in_markdown(table.heading)}"]
    if table.why_apart:
        parts.append(f"Stands {in_markdown(table.why_apart)}.")
    parts.append(f"**{in_markdown(table.headline)}**")
    headings = [f"{in_markdown(heading)}{arrow(name)}" for name, heading in table.columns.items()]
    rows = [["rank", "model", headings[0], "n", *headings[1:]]]
    for row in table.rows:
        first, *others = (cell(row.figures.get(name)) for name in table.columns)
        name = in_markdown(row.name) if row.role == "model" else f"*{in_markdown(row.name)}*"
        rows.append(["" if row.rank is None else row.rank, name, first, shown_n(row, table.main), *others])
    parts.append(markdown(rows))
    sources = [
        f"- *{in_markdown(row.name)}*: {in_markdown(row.note)}{f' <{row.url}>' if row.url else ''}"
        for row in table.rows
        if row.note
    ]
    if sources:
        parts.append("\n".join(["Sources of published figures:\n", *sources]))
    if table.apart:
        parts.append(
            "\n".join(
                [
                    "Published, and not comparable with this table:\n",
                    *(f"- {in_markdown(line)}" for line in table.apart),
                ]
            )
        )
    if table.facts["decoding"]:
        parts.append(f"Decoding: {in_markdown(table.facts['decoding'])}.")
    return [*parts, *table.notes]


# ---- CSV ----


def csv_text(board: Board) -> str:
    """Return the file's content: a header, and one line for each figure of each row of a table."""
    target = io.StringIO()
    writer = csv.DictWriter(target, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for table in board.tables:
        for row in table.rows:
            for metric, figure in row.figures.items():
                writer.writerow(
                    _line(table, row, metric) | {key: figure.get(key) for key in ("value", "low", "high", "n", "sd")}
                )
    return target.getvalue()


def _line(table: Table, row: Row, metric: str) -> dict:
    evaluation = row.entry.evaluation if row.entry else {}
    keys = ("kind", "data", "split", "rows", "decoding", "judged_by", "metrics_version")
    return {key: table.facts[key] for key in keys} | {
        "table": table.label,
        "why_apart": table.why_apart,
        "source": table.data["source"],
        "revision": table.data["revision"],
        "rank": row.rank,
        "role": row.role,
        "model": row.name,
        "recipe": evaluation.get("recipe"),
        "stage": evaluation.get("stage"),
        "metric": metric,
        "is_main": metric == table.main,
        "citation": row.note,
        "seeds": " ".join(map(str, evaluation.get("seeds", ()))),
    }


# ---- HTML ----


def page(board: Board) -> str:
    """Return the HTML document."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(PAGE.read_text(encoding="utf-8"))
    functions = {
        "cell": cell,
        "arrow": arrow,
        "direction": direction,
        "shown_n": shown_n,
        "one_line": one_line,
        "inline": _inline,
    }
    return template.render(title=TITLE, board=board, **functions) + "\n"


def _inline(note: str) -> Markup:
    """Return a note of ours as HTML; code in backticks is its only Markdown."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(note))))


# ---- PNG ----


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
    figure.suptitle("Bars: 95 % intervals. Grey: reference rows, without a rank", fontsize=9)
    return save(figure, path)


def _shown(table: Table) -> list:
    return [row for row in table.rows if table.main in row.figures]


def _label(row) -> str:
    rank = "" if row.rank is None else f"{row.rank}. "
    return _plain("\n".join(textwrap.wrap(f"{rank}{row.name}", 44, max_lines=3)))


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # or matplotlib reads formulas in it


def _draw(axes, table: Table, names: list[str]) -> None:
    for height, row in enumerate(_shown(table)):
        figure, colour = row.figures[table.main], MODEL_COLOUR if row.role == "model" else REFERENCE_COLOUR
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
