"""The leaderboard in Markdown.

The leaderboard as CSV: one line per figure, so that tables with different columns fit in one file.

The leaderboard as a picture: the main metric of every row with its interval, one panel per table.

The leaderboard as one HTML page that needs nothing but itself.

Whatever others wrote is escaped. Should something slip through all the same, the page's own policy lets no script run and no style
apply but the two that it was written with, and nothing be fetched (Content Security Policy Level 3, hashes).

All files of a leaderboard, and the card of the data set that they are on the Hub.
"""

import base64
import csv
import hashlib
import html
import io
import re
import textwrap
from pathlib import Path

from empathy_trl.evaluation.base import markdown
from empathy_trl.evaluation.metrics.bootstrap import with_interval
from empathy_trl.hub.leaderboard.ranking import direction
from empathy_trl.hub.leaderboard.table import TITLE, Board, Row, Table
from empathy_trl.hub.stage_folder import SPECIAL, one_line
from empathy_trl.io import pyplot, save, write_text


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


COLUMNS = (
    "table", "why_apart", "kind", "data", "source", "revision", "split", "rows", "decoding", "judged_by",
    "metrics_version", "place", "role", "model", "recipe", "stage", "metric", "is_main", "value", "low", "high", "n", "citation",
)  # fmt: skip


def csv_text(board: Board) -> str:
    """Return the file's content, a header and one line per row of a table and metric that has a value.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    target = io.StringIO()
    writer = csv.DictWriter(target, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for table in board.tables:
        for row in table.rows:
            for metric, figure in row.figures.items():
                line = _line(table, row, metric) | {key: figure.get(key) for key in ("value", "low", "high", "n")}
                writer.writerow({key: _harmless(value) for key, value in line.items()})
    return target.getvalue()


def _line(table: Table, row: Row, metric: str) -> dict:
    evaluation = row.entry.evaluation if row.entry else {}
    keys = ("kind", "data", "split", "rows", "decoding", "judged_by", "metrics_version")
    return {key: table.facts[key] for key in keys} | {
        "table": table.label,
        "why_apart": table.why_apart,
        "source": table.data["source"],
        "revision": table.data["revision"],
        "place": row.place,
        "role": row.role,
        "model": row.name,
        "recipe": evaluation.get("recipe"),
        "stage": evaluation.get("stage"),
        "metric": metric,
        "is_main": metric == table.main,
        "citation": row.note,
    }


def _harmless(value):
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


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


HERE = Path(__file__).parent
BAR = 120  # width of the drawing of an interval, in its own units
ROLES = {"model": "", "baseline": "baseline", "published": "published"}


def page(board: Board) -> str:
    """Return the HTML document."""
    style, script = (HERE.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    content = [f"<h1>{TITLE}</h1>", *(f"<p>{_inline(note)}</p>" for note in board.notes)]
    if len(board.tables) > 1:
        links = "".join(f'<li><a href="#{each.anchor}">{_safe(each.label)}</a></li>' for each in board.tables)
        content.append(f'<nav aria-label="Tables"><ol>{links}</ol></nav>')
    content += [_page_section(each) for each in board.tables]
    if board.problems:
        content.append(f"<section><h2>Not used</h2>{_list([one_line(line) for line in board.problems])}</section>")
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',  # or a browser asks the server for one
        f"<title>{TITLE}</title>",
        f"<style>{style}</style>",
    ]
    body = [f"<main>{''.join(content)}</main>", f"<script>{script}</script>"]
    return "\n".join(
        ["<!DOCTYPE html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", *body, "</body>", "</html>", ""]
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _safe(text) -> str:
    return html.escape(str(text))


def _inline(text: str) -> str:
    """Return a note of ours, which is plain Markdown, as HTML: its code is all the mark-up it has."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", _safe(text))


def _breakable(name: str) -> str:
    """Return a name that is broken at its joints first, where its column is narrow."""
    return "<wbr>".join(_safe(part) for part in re.split(r"(?<=[/_-])", name))


def _list(lines: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{_safe(line)}</li>' for line in lines)}</ul>"


def _page_section(each: Table) -> str:
    parts = [f'<h2 id="{each.anchor}">{_safe(each.heading)}</h2>']
    if each.why_apart:
        parts.append(f'<p class="apart">Stands {_safe(each.why_apart)}.</p>')
    parts.append(f'<p class="headline">{_safe(each.headline)}</p>')
    parts.append(f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{each.anchor}">{_table(each)}</div>')
    cited = [row for row in each.rows if row.note]
    if cited:
        parts.append(f"<h3>Sources of published figures</h3><ul>{''.join(map(_source, cited))}</ul>")
    if each.apart:
        title = f"Published, and not comparable with this table ({len(each.apart)})"
        parts.append(f"<details><summary>{title}</summary>{_list(each.apart)}</details>")
    if each.facts["decoding"]:
        parts.append(f'<p class="note">Decoding: {_safe(each.facts["decoding"])}.</p>')
    parts += [f'<p class="note">{_inline(note)}</p>' for note in each.notes]
    return f"<section>{''.join(parts)}</section>"


def _source(row: Row) -> str:
    link = f' <a href="{_safe(row.url)}" rel="noreferrer">{_safe(row.url)}</a>' if row.url else ""
    return f"<li>{_safe(row.name)}: {_safe(row.note)}{link}</li>"


def _table(each: Table) -> str:
    first, *others = each.columns.items()
    heads = [
        _head("place", "ascending", sorted_now=True),
        _head("model", "ascending", "name"),
        _metric_head(*first),
        _head("n", "descending"),
        *(_metric_head(*column) for column in others),
    ]
    scale = _scale(each)
    rows = "".join(_row(each, number, row, scale) for number, row in enumerate(each.rows))
    return f"<table><thead><tr>{''.join(heads)}</tr></thead><tbody>{rows}</tbody></table>"


def _metric_head(metric: str, heading: str) -> str:
    return _head(heading + arrow(metric), "ascending" if direction(metric) < 0 else "descending")


def _head(text: str, first: str, name: str = "", sorted_now: bool = False) -> str:
    """Return the head of a column: a button that sorts by it, `first` ascending or descending."""
    now = ' aria-sort="ascending"' if sorted_now else ""
    kind = f' class="{name}"' if name else ""
    return f'<th scope="col" data-first="{first}"{now}{kind}><button type="button">{_safe(text)}</button></th>'


def _row(each: Table, number: int, row: Row, scale: tuple[float, float]) -> str:
    main, *others = each.columns
    tag = f' <span class="tag">{ROLES[row.role]}</span>' if ROLES[row.role] else ""
    n = shown_n(row, main)
    cells = [
        # sorting by the place brings back the order of the page, reference rows included
        f'<td class="place" data-value="{number}">{"" if row.place is None else row.place}</td>',
        f'<th scope="row" class="name" data-value="{_safe(row.name)}">{_breakable(row.name)}{tag}</th>',
        _cell(row.figures.get(main), scale),
        f'<td data-value="{"" if n == "–" else n}">{n}</td>',
        *(_cell(row.figures.get(metric)) for metric in others),
    ]
    return f'<tr class="{row.role}">{"".join(cells)}</tr>'


def _cell(figure: dict | None, scale: tuple[float, float] | None = None) -> str:
    if figure is None:
        return '<td data-value=""><span class="none">–</span></td>'
    ends = [figure.get(key) for key in ("low", "high")]
    interval = "" if None in ends else f' <span class="interval">[{ends[0]:.3f}, {ends[1]:.3f}]</span>'
    drawing = _drawing(figure, scale) if scale else ""
    return (
        f'<td data-value="{figure["value"]!r}"><span class="value">{figure["value"]:.3f}</span>{interval}{drawing}</td>'
    )


def _scale(each: Table) -> tuple[float, float]:
    """Return the ends of the drawings of a table's intervals."""
    figures = [row.figures[each.main] for row in each.rows if each.main in row.figures]
    ends = [figure[key] for figure in figures for key in ("value", "low", "high") if figure.get(key) is not None]
    return min(ends), max(ends)


def _drawing(figure: dict, scale: tuple[float, float]) -> str:
    """Return a small drawing of the figure and its interval; for screen readers the numbers beside it say the same."""
    low, high = scale
    place = lambda value: 4 + (BAR - 8) * ((value - low) / (high - low) if high > low else 0.5)
    line = ""
    if figure.get("low") is not None and figure.get("high") is not None:
        line = f'<line x1="{place(figure["low"]):.1f}" x2="{place(figure["high"]):.1f}" y1="5" y2="5"/>'
    dot = f'<circle cx="{place(figure["value"]):.1f}" cy="5" r="3.5"/>'
    return f'<svg viewBox="0 0 {BAR} 10" width="{BAR}" height="10" aria-hidden="true">{line}{dot}</svg>'


NAMES = {"table": "leaderboard.md", "csv": "leaderboard.csv", "page": "leaderboard.html", "plot": "leaderboard.png"}
CARD = "README.md"
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
    "`leaderboard.csv` has one line per table, row and metric; `leaderboard.html` is the page with sortable tables, to be "
    "downloaded and opened."
)


def write_board(board: Board, folder: Path) -> dict[str, Path]:
    """Write the four files into a folder, which is made when missing; returns what each is -> its path."""
    paths = {what: folder / name for what, name in NAMES.items()}
    draw_board(paths["plot"], board)
    write_text(paths["table"], markdown_text(board, NAMES["plot"]))
    write_text(paths["csv"], csv_text(board))
    write_text(paths["page"], page(board))
    return paths


def write_card(board: Board, folder: Path) -> list[str]:
    """Write the card of the data set beside the other files; returns the names of all files that make it up."""
    heading, _, rest = markdown_text(board, NAMES["plot"]).partition("\n\n")
    write_text(folder / CARD, f"{FRONT_MATTER}{heading}\n\n{FILES_NOTE}\n\n{rest}")
    return [CARD, *NAMES.values()]
