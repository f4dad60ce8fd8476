"""The leaderboard as CSV: one line per figure, so that tables with different columns fit in one file."""

import csv
import io

from empathy_trl.leaderboard.table import Board, Row, Table

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
