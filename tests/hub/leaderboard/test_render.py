"""Markdown, CSV, page and image of one leaderboard; names that would be mark-up are text in all of them."""

import csv
import io
import re
from html.parser import HTMLParser

import pytest

from empathy_trl.hub.leaderboard.entries import Published
from empathy_trl.hub.leaderboard.render import COLUMNS, csv_text, markdown_text, page, write_board, write_card
from empathy_trl.hub.leaderboard.table import build_board
from tests.browser import chromium
from tests.evaluation.test_plots import png_size
from tests.hub.leaderboard.results import entry, figure, found
from tests.hub.leaderboard.test_table import BASELINES, FIGURE

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
    assert rows[0] == ["rank", "model", "accuracy ↑", "n", "macro-F1 ↑", "invalid answers ↓", "words of reasoning"]
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
    assert [(row["rank"], row["model"], row["metric"], row["is_main"], row["value"], row["low"]) for row in models] == [
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


def test_csv_of_hostile_names_reads_back():
    assert HOSTILE in {row["model"] for row in csv.DictReader(io.StringIO(csv_text(board(name=HOSTILE))))}


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def test_page_of_hostile_names_has_no_mark_up_but_ours():
    tags = Tags(page(board(name=HOSTILE))).tags
    assert [tag for tag, _ in tags] == [tag for tag, _ in Tags(page(board())).tags]
    attributes = {name for _, of_tag in tags for name in of_tag}
    assert not attributes & {"src", "style"} and not any(name.startswith("on") for name in attributes)


def test_page_has_heads_for_rows_and_columns_and_nothing_from_outside():
    tags = Tags(page(board())).tags
    heads = [attributes for tag, attributes in tags if tag == "th"]
    assert [head["scope"] for head in heads].count("col") == 14 and [head["scope"] for head in heads].count("row") == 6
    assert heads[0]["aria-sort"] == "ascending"
    links = {attributes["href"] for _, attributes in tags if "href" in attributes}
    assert links == {"#table-1", "#table-2", "https://example.org"}  # the last one only when clicked


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


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(params=[1280, 390], ids=["desktop", "phone"])
def opened(request, browser, tmp_path):
    """A page in a browser: hostile and endless names, two tables, and a column that has no value in some rows."""
    metrics = {"accuracy": figure(0.5), "mean_reasoning_words": figure(30), "invalid_share": figure(0.2)}
    more = {"accuracy": figure(0.4), "mean_reasoning_words": figure(4), "invalid_share": figure(0.1)}
    entries = [
        entry(HOSTILE, metrics=metrics, baselines=BASELINES),
        entry("user/" + "very_long_name" * 12, metrics=more),
        entry("user/first", 0.9),
        entry("x", metrics_version=2, data={"decoding": HOSTILE, "name": HOSTILE}, kind="labels"),
    ]
    published = [Published(**FIGURE), Published(**FIGURE | {"rows": None, "name": "w" * 200})]
    address = write_board(build_board(found(*entries), published), tmp_path)["page"].as_uri()
    context = browser.new_context(viewport={"width": request.param, "height": 844})
    opened = context.new_page()
    opened.requested, opened.errors = [], []
    opened.on("request", lambda each: opened.requested.append(each.url))
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.goto(address)
    yield opened
    assert opened.requested == [address] and opened.errors == [] and opened.evaluate("window.hacked") is None
    context.close()


def column(opened, number):
    """The first word of each cell of a column of the first table, from top to bottom."""
    rows = opened.locator("tbody >> nth=0 >> tr")
    return [rows.nth(row).locator(f":nth-child({number})").first.inner_text().split()[0] for row in range(rows.count())]


def sort_by(opened, text):
    """Click on the head of a column of the first table; return the head that the page says it is sorted by, and how."""
    opened.locator("thead >> nth=0").get_by_role("button", name=text).click()
    head = opened.locator("thead >> nth=0 >> th[aria-sort]")
    return head.inner_text(), head.get_attribute("aria-sort")


def test_the_page_never_scrolls_sideways_and_its_tables_do(opened):
    opened.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert opened.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    frame, name = opened.locator(".scroll").first, opened.locator("tbody .name").first
    frame.evaluate("frame => frame.scrollLeft = frame.scrollWidth")
    assert name.bounding_box()["x"] >= frame.bounding_box()["x"]  # the names stay in sight
    assert name.bounding_box()["width"] < 0.5 * frame.bounding_box()["width"]


def test_a_click_sorts_and_a_second_one_turns_it_round(opened):
    before = column(opened, 2)
    assert sort_by(opened, "words of reasoning") == ("words of reasoning", "descending")
    assert column(opened, 7) == ["30.000", "4.000", "–", "–", "–", "–"]
    assert sort_by(opened, "words of reasoning") == ("words of reasoning", "ascending")
    assert column(opened, 7) == ["4.000", "30.000", "–", "–", "–", "–"]
    assert sort_by(opened, "invalid answers") == ("invalid answers ↓", "ascending")  # fewer are better
    assert column(opened, 6)[0] == "0.100"
    sort_by(opened, "model")
    assert [name[:6] for name in column(opened, 2)] == ["<scrip", "BERT", "majori", "TF-IDF", "user/f", "user/v"]
    sort_by(opened, "rank")
    assert column(opened, 2) == before
