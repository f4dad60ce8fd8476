"""What is wrong with a reply in three parts, by name."""

import random
import time

import pytest

from empathy_trl.data import empath as turn_faults
from empathy_trl.data.empath import fault
from empathy_trl.tags import read_parts
from tests.test_tags_parts import REPLIES, WHOLE

FAULTS = [
    ("", turn_faults.NO_TAGS, "''", "nothing at all"),
    ("Hello <b>you</b>", turn_faults.NO_TAGS, "'Hello <b>you</b>'", "other tags are text"),
    (WHOLE.split("\n", 1)[1], turn_faults.MISSING, "no <react>", "the first part"),
    (WHOLE.rsplit("\n", 1)[0], turn_faults.MISSING, "no <reflect>", "the last part"),
    (WHOLE.replace("<respond>", ""), turn_faults.MISSING, "no <respond> before </respond>", "only the opening tag"),
    (WHOLE.replace("</react>", ""), turn_faults.NOT_CLOSED, "no </react>", "the first part"),
    (WHOLE.replace("</reflect>", ""), turn_faults.NOT_CLOSED, "no </reflect>", "cut at the end"),
    (WHOLE.replace("</react>", "<react>"), turn_faults.TWICE, "<react> stands 2 times", "a slash forgotten"),
    (f"{WHOLE}\n{WHOLE}", turn_faults.TWICE, "<react> stands 2 times", "two replies in one"),
    (f"{WHOLE}</respond>", turn_faults.CLOSED_TWICE, "</respond> stands 2 times", "closed again"),
    (
        "<react>*a*<respond>b</respond></react><reflect>c</reflect>",
        turn_faults.NESTED,
        "<respond> inside <react>",
        "one in another",
    ),
    (
        "<react>*a*<respond>b</react></respond><reflect>c</reflect>",
        turn_faults.NESTED,
        "<respond> inside <react>",
        "overlapping",
    ),
    (
        "\n".join(reversed(WHOLE.split("\n"))),
        turn_faults.ORDER,
        "reflect, respond, react; expected react, respond, reflect",
        "backwards",
    ),
    (
        WHOLE.replace("<react>", "<x>").replace("</react>", "<react>").replace("<x>", "</react>"),
        turn_faults.ORDER,
        "</react> before <react>",
        "closed before it is opened",
    ),
    (f"Well.{WHOLE}", turn_faults.OUTSIDE, "'Well.'", "before"),
    (WHOLE.replace("\n<respond>", " and \n<respond>"), turn_faults.OUTSIDE, "'and'", "between"),
    (f"{WHOLE} \x1b[31m", turn_faults.OUTSIDE, r"'\x1b[31m'", "behind, shown escaped"),
    (WHOLE.replace("Hello.", " \n"), turn_faults.EMPTY, "nothing in <respond>", "white space is nothing"),
    (WHOLE.replace("<react>", "<React>"), turn_faults.MISSPELT, "'<React>' for <react>", "upper case"),
    (
        WHOLE.replace("<react>", "< react >").replace("</reflect>", "</ REFLECT\n>"),
        turn_faults.MISSPELT,
        r"'< react >' for <react>, '</ REFLECT\n>' for </reflect>",
        "all that are misspelt",
    ),
    (WHOLE.replace("<react>", "<REACT>")[:-1], turn_faults.NOT_CLOSED, "no </reflect>", "spelling is the lesser fault"),
    (WHOLE.replace("<respond>", "<reſpond>"), turn_faults.MISSING, "no <respond> before </respond>", "no letter s"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reason", "detail", "why"), FAULTS)
def test_a_fault_has_a_name_and_says_where(text, reason, detail, why):
    assert fault(text) == (reason, detail), why


@pytest.mark.parametrize("text", [text for text, *_ in [*REPLIES, *FAULTS]])
def test_what_has_no_fault_is_what_can_be_read(text):
    assert (fault(text) is None) == (read_parts(text) is not None)


PIECES = [*(f"<{slash}{part}>" for part in ("react", "respond", "reflect") for slash in ("", "/")),
          "< React >", "</REFLECT>", "<b>", "words", " ", "\n", "\x1c"]  # fmt: skip


def scrambled(source):
    """A reply with some of its pieces changed or exchanged."""
    pieces = ["<react>", "a", "</react>", " ", "<respond>", "b", "</respond>", "\n", "<reflect>", "c", "</reflect>"]
    for _ in range(source.randrange(4)):
        pieces[source.randrange(len(pieces))] = source.choice(PIECES)
    if source.random() < 0.3:
        i, j = source.sample(range(len(pieces)), 2)
        pieces[i], pieces[j] = pieces[j], pieces[i]
    return "".join(pieces)


def test_of_any_text_either_the_parts_or_a_fault_can_be_told():
    source = random.Random(0)
    kinds = set()
    for _ in range(5000):
        text = scrambled(source)
        found = fault(text)
        kinds.add(found and found[0])
        assert (found is None) == (read_parts(text) is not None), text
    assert len(kinds) == 10  # all but a reply without any tags


@pytest.mark.parametrize(
    "text",
    [
        WHOLE.replace("\n", "") * 1200 + "x",
        "<" + " " * 100_000 + "react",
        "< " * 50_000,
        WHOLE.replace("Hello.", "Hello. " * 15_000),
        WHOLE.replace("\n", " " * 30_000) + "x",
    ],
    ids=["many tags", "spaces", "many openings", "long", "spaces between"],
)
def test_100_kilobytes_take_no_time(text):
    start = time.perf_counter()
    assert (fault(text) is None) == (read_parts(text) is not None)
    assert time.perf_counter() - start < 2  # milliseconds; a pattern that goes back and forth would take minutes
