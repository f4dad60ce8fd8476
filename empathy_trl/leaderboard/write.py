"""All files of a leaderboard, and the card of the data set that they are on the Hub."""

from pathlib import Path

from empathy_trl.files import write_text
from empathy_trl.leaderboard.csv_file import csv_text
from empathy_trl.leaderboard.markdown_file import markdown_text
from empathy_trl.leaderboard.page import page
from empathy_trl.leaderboard.picture import draw_board
from empathy_trl.leaderboard.table import Board

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
