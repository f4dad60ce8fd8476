"""Markdown, CSV, page and picture of one board; names that would be mark-up are text in all of them."""

import csv
import io
import re
from html.parser import HTMLParser

import pytest

from empathy_trl.hub.leaderboard.entries import Published
from empathy_trl.hub.leaderboard.render import COLUMNS, csv_text, markdown_text, page, write_board, write_card
from empathy_trl.hub.leaderboard.table import build_board
from tests.evaluation.test_evaluation_files import png_size
from tests.hub.leaderboard.results import entry, figure, found
from tests.hub.leaderboard.test_board import BASELINES, FIGURE

HOSTILE = "<script>window.hacked = 1</script>|`$x_{1}$`<img src=x onerror='window.hacked=2'>\"&[a](http://example.org)"
CELL = re.compile(r"(?<!\\)\|")


def board(*more, name="user/model"):
    metrics = {"accuracy": figure(0.5), "invalid_share": {"value": 0.1, "low": None, "high": None, "n": None}}
    entries = [
        entry(name, metrics=metrics, baselines=BASELINES),
        entry("b", 0.9),
        entry("c", metrics_version=2, data={"decoding": name}),
    ]
    return build_board(found(*entries, *more), [Published(**FIGURE)])


def test_markdown():
    text = markdown_text(board(), "plot.png")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == ["place", "model", "accuracy ↑", "n", "macro-F1 ↑", "invalid answers ↓", "words of reasoning"]
    assert rows[1] == ["1", "b", "0.900 [0.850, 0.950]", "200", "–", "–", "–"]
    assert rows[2] == ["", "*BERT*", "0.800", "200", "–", "–", "–"]
    assert rows[4] == ["2", "user/model", "0.500 [0.450, 0.550]", "200", "–", "0.100", "–"]
    assert "- *BERT*: Ann 2020; one seed <https://example.org>" in text
    assert "![Main metric" in text and "(plot.png)" in text
    assert "Stands apart from table 1: metrics version 2, not 1; other decoding: user/model." in text


def test_markdown_of_hostile_names():
    text = markdown_text(board(name=HOSTILE + "\n# Heading"))
    assert (
        not re.search(r"(?<!\\)<(script|img)", text)
        and not re.search(r"(?<!\\)\[a", text)
        and "\n# Heading" not in text
    )
    (row,) = [line for line in text.splitlines() if line.startswith("| 2 |")]
    assert len(CELL.split(row)) == 9


def test_csv_has_a_line_per_figure():
    rows = list(csv.DictReader(io.StringIO(csv_text(board()))))
    assert tuple(rows[0]) == COLUMNS
    models = [row for row in rows if row["role"] == "model"]
    assert [
        (row["place"], row["model"], row["metric"], row["is_main"], row["value"], row["low"]) for row in models
    ] == [
        ("1", "b", "accuracy", "True", "0.9", "0.85"),
        ("2", "user/model", "accuracy", "True", "0.5", "0.45"),
        ("2", "user/model", "invalid_share", "False", "0.1", ""),
        ("1", "c", "accuracy", "True", "0.5", "0.45"),
    ]
    assert [row["citation"] for row in rows if row["role"] == "published"] == ["Ann 2020; one seed"]
    assert {row["why_apart"] for row in rows} == {
        "",
        "apart from table 1: metrics version 2, not 1; other decoding: user/model",
    }


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@x"])
def test_csv_holds_no_formula(name):
    assert f"'{name}" in {row["model"] for row in csv.DictReader(io.StringIO(csv_text(board(name=name))))}


def test_csv_of_hostile_names_reads_back():
    assert HOSTILE in {row["model"] for row in csv.DictReader(io.StringIO(csv_text(board(name=HOSTILE))))}


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def _without_breaks(tags):
    return [tag for tag, _ in tags if tag != "wbr"]


def test_page_of_hostile_names_has_no_mark_up_but_ours():
    tags = Tags(page(board(name=HOSTILE))).tags
    assert _without_breaks(tags) == _without_breaks(Tags(page(board())).tags)
    assert not [
        name for _, attributes in tags for name in attributes if name.startswith("on") or name in ("src", "style")
    ]


def test_page_has_heads_for_rows_and_columns_and_nothing_from_outside():
    tags = Tags(page(board())).tags
    heads = [attributes["scope"] for tag, attributes in tags if tag == "th"]
    assert heads.count("col") == 14 and heads.count("row") == 6
    assert next(attributes.get("aria-sort") for tag, attributes in tags if tag == "th") == "ascending"
    links = [attributes["href"] for tag, attributes in tags if "href" in attributes]
    assert set(links) == {"data:,", "#table-1", "#table-2", "https://example.org"}  # the last one: only when clicked
    policy = next(attributes["content"] for tag, attributes in tags if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy


def test_all_files_are_written_and_the_picture_shows_every_row(tmp_path):
    paths = write_board(board(name=HOSTILE), tmp_path / "new")
    assert {what: path.name for what, path in paths.items()} == {
        "table": "leaderboard.md", "csv": "leaderboard.csv", "page": "leaderboard.html", "plot": "leaderboard.png",
    }  # fmt: skip
    before = png_size(paths["plot"])
    write_board(board(*(entry(str(number)) for number in range(9)), name=HOSTILE), tmp_path / "new")
    assert png_size(paths["plot"])[1] > before[1] + 300


def test_same_results_give_the_same_files(tmp_path):
    first, second = ([path.read_bytes() for path in write_board(board(), tmp_path / name).values()] for name in "ab")
    assert first == second


def test_card_of_the_data_set(tmp_path):
    from huggingface_hub import DatasetCard

    write_board(board(), tmp_path)
    files = write_card(board(), tmp_path)
    assert all((tmp_path / name).is_file() for name in files) and len(files) == 5
    card = DatasetCard.load(tmp_path / "README.md")
    assert card.data.to_dict()["configs"] == [{"config_name": "default", "data_files": "leaderboard.csv"}]
    assert "empathy-trl" in card.data.tags and "# Leaderboard" in card.text and "(leaderboard.png)" in card.text
