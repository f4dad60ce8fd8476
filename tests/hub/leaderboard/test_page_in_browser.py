"""The page in a real browser, at the width of a desktop and of a phone."""

import pytest

from empathy_trl.hub.leaderboard.entries import Published
from empathy_trl.hub.leaderboard.render import write_board
from empathy_trl.hub.leaderboard.table import build_board
from tests.browser import chromium
from tests.hub.leaderboard.results import entry, figure, found
from tests.hub.leaderboard.test_board import BASELINES, FIGURE
from tests.hub.leaderboard.test_board_formats import HOSTILE

SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A board with hostile and endless names, two tables, and a column that has no value in some rows."""
    words = {"accuracy": figure(0.5), "mean_reasoning_words": figure(30), "invalid_share": figure(0.2)}
    more = {"accuracy": figure(0.4), "mean_reasoning_words": figure(4), "invalid_share": figure(0.1)}
    entries = [
        entry(HOSTILE, metrics=words, baselines=BASELINES),
        entry("user/" + "very_long_name" * 12, metrics=more),
        entry("user/first", 0.9),
        entry("x", metrics_version=2, data={"decoding": HOSTILE, "name": HOSTILE}, kind="labels"),
    ]
    board = build_board(found(*entries), [Published(**FIGURE), Published(**FIGURE | {"rows": None, "name": "w" * 200})])
    return write_board(board, tmp_path_factory.mktemp("board"))["page"].as_uri()


@pytest.fixture(params=SIZES, ids=list(SIZES))
def page(request, browser, address):
    context = browser.new_context(viewport=SIZES[request.param])
    opened = context.new_page()
    opened.requested, opened.wrong = [], []
    opened.on("request", lambda each: opened.requested.append(each.url))
    opened.on("console", lambda message: opened.wrong.append(message.text))
    opened.on("pageerror", lambda error: opened.wrong.append(str(error)))
    opened.goto(address)
    yield opened
    context.close()


def column(page, number):
    """The texts of a column of the first table, from top to bottom."""
    return [
        page.locator(f"tbody >> nth=0 >> tr:nth-child({row}) > :nth-child({number})").inner_text().split()[0:1]
        for row in range(1, 1 + page.locator("tbody >> nth=0 >> tr").count())
    ]


def head(page, text):
    return page.locator("thead >> nth=0").get_by_role("button", name=text)


def sorted_by(page):
    heads = page.locator("thead >> nth=0 >> th[aria-sort]")
    assert heads.count() == 1
    return heads.inner_text(), heads.get_attribute("aria-sort")


def test_nothing_but_the_page_is_fetched_and_nothing_hostile_runs(page, address):
    page.wait_for_timeout(200)
    assert [url for url in page.requested if not url.startswith("data:")] == [address] and page.wrong == []
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0 and page.locator("body script").count() == 1
    assert HOSTILE in page.locator("tbody").first.inner_text()


def test_a_script_that_slipped_through_would_not_run(page):
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 3'}))"
    )
    assert page.evaluate("window.hacked") is None and "Content Security Policy" in page.wrong[0]


def test_the_page_never_scrolls_sideways(page):
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    # the table does, in its frame, and the names stay in sight
    frame, name = page.locator(".scroll").first, page.locator("tbody .name").first
    frame.evaluate("frame => frame.scrollLeft = frame.scrollWidth")
    assert name.bounding_box()["x"] >= frame.bounding_box()["x"]
    assert name.bounding_box()["width"] < 0.5 * frame.bounding_box()["width"]


def test_a_click_sorts_and_a_second_one_turns_it_round(page):
    before = column(page, 2)
    assert sorted_by(page) == ("place", "ascending")
    head(page, "words of reasoning").click()
    assert sorted_by(page) == ("words of reasoning", "descending")
    assert column(page, 7) == [["30.000"], ["4.000"], ["–"], ["–"], ["–"], ["–"]]
    head(page, "words of reasoning").click()
    assert sorted_by(page) == ("words of reasoning", "ascending")
    assert column(page, 7) == [["4.000"], ["30.000"], ["–"], ["–"], ["–"], ["–"]]
    head(page, "invalid answers").click()  # fewer are better
    assert sorted_by(page) == ("invalid answers ↓", "ascending") and column(page, 6)[0] == ["0.100"]
    head(page, "model").click()
    beginnings = [each[0][:6] for each in column(page, 2)]
    assert beginnings == ["<scrip", "BERT", "majori", "TF-IDF", "user/f", "user/v"]
    head(page, "place").click()
    assert column(page, 2) == before


def test_keys_sort(page):
    head(page, "accuracy").focus()
    page.keyboard.press("Enter")
    assert sorted_by(page) == ("accuracy ↑", "descending")
    page.keyboard.press("Space")
    assert sorted_by(page) == ("accuracy ↑", "ascending") and column(page, 3)[0] == ["0.250"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(page, scheme):
    page.emulate_media(color_scheme=scheme)
    colours = page.evaluate(
        """() => [...document.querySelectorAll('p, td, th, .interval, .tag, .none, li, a, summary, button')].map(each => {
            let behind = each
            while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)' && behind.parentElement) behind = behind.parentElement
            return [getComputedStyle(each).color, getComputedStyle(behind).backgroundColor]
        })"""
    )
    for text, behind in {tuple(each) for each in colours}:
        assert contrast(text, behind) >= 4.5, (text, behind)  # WCAG 2.2, 1.4.3


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours as a browser writes them (WCAG 2.2)."""

    def luminance(colour):
        shares = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)
