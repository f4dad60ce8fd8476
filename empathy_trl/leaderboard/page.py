"""The leaderboard as one HTML page that needs nothing but itself.

Whatever others wrote is escaped. Should something slip through all the same, the page's own policy lets no script run and no style
apply but the two that it was written with, and nothing be fetched (Content Security Policy Level 3, hashes).
"""

import base64
import hashlib
import html
import re
from pathlib import Path

from empathy_trl.leaderboard.directions import direction
from empathy_trl.leaderboard.markdown_file import arrow, shown_n
from empathy_trl.leaderboard.table import TITLE, Board, Row, Table
from empathy_trl.model_card.escape import one_line

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
    content += [_section(each) for each in board.tables]
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


def _section(each: Table) -> str:
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
