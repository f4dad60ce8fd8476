"""Empath: who answers what, histories, other users, sources, splits, and what is malformed."""

import gzip
import json
import random
import time
from pathlib import Path

import pytest

from empathy_trl.data import build, read_split
from empathy_trl.data.empath import (
    CLOSED_TWICE,
    EMPTY,
    MISSING,
    MISSPELT,
    NESTED,
    NO_TAGS,
    NOT_CLOSED,
    ORDER,
    OTHERS,
    OUTSIDE,
    SYSTEM,
    TWICE,
    fault,
    make_prompt,
    shorten,
)
from empathy_trl.errors import DataError
from empathy_trl.recipe import Data
from empathy_trl.tags import PARTS, read_parts, without_reflection, write_parts
from empathy_trl.text import count_words
from tests.test_tags import REPLIES, WHOLE

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "react_respond_reflect"


def turn(text="I see.", thought="They may say more."):
    return write_parts({"react": "*nods* + *leans in*", "respond": text, "reflect": thought})


def dialogue(*said, **keys):
    """A dialogue of texts, the user first."""
    messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]
    return keys | {"messages": messages}


def numbered(number, exchanges=2):
    said = [(f"user {number}.{turn_}", turn(f"answer {number}.{turn_}")) for turn_ in range(exchanges)]
    return dialogue(*(text for pair in said for text in pair), conversation_id=f"d{number}")


@pytest.fixture
def source(tmp_path):
    """Return a function that writes the dialogues of a split, beside one of another, and returns the section of a recipe."""

    def write(*dialogues, **settings):
        lines = [each if isinstance(each, str) else json.dumps(each) for each in dialogues]
        (tmp_path / "test.jsonl").write_text("".join(line + "\n" for line in lines))
        (tmp_path / "train.jsonl").write_text(json.dumps(numbered(0)) + "\n")
        return Data(name="empath", path=str(tmp_path), **settings)

    return write


TALK = dialogue(
    "My dog  died.",
    turn("Oh no.", "They may tell its name."),
    "She was called <b>Pip</b>.",
    "\n<react>*nods* + *leans in*</react> <respond>A good\n name.\n</respond><reflect>They may say more.</reflect> ",
    "Thanks.",
    conversation_id=7,
    emotion="sad",
)


def test_every_turn_of_the_assistant_is_a_row(source):
    rows = build(source(TALK, numbered(1)), "test", "sft")
    assert rows.column_names == [
        *("prompt", "text", "reference", "turn", "next_user", "other_users", "conversation", "emotion", "completion")
    ]
    first, second, *others = rows
    assert len(others) == 2
    system = {"role": "system", "content": SYSTEM}
    assert first["prompt"] == [system, {"role": "user", "content": "My dog died."}]
    assert first["reference"] == "Oh no." and first["turn"] == turn("Oh no.", "They may tell its name.")
    assert second["prompt"] == [
        *first["prompt"],
        {"role": "assistant", "content": first["turn"]},
        {"role": "user", "content": "She was called Pip ."},
    ]
    assert second["turn"] == turn("A good name.") and second["reference"] == "A good name."
    assert second["completion"] == [{"role": "assistant", "content": second["turn"]}]
    assert [row["text"] for row in rows][:2] == ["My dog died.", "She was called Pip ."]
    assert [row["next_user"] for row in rows] == ["She was called Pip .", "Thanks.", "user 1.1", None]
    assert {(row["conversation"], row["emotion"]) for row in rows} == {("7", "sad"), ("d1", None)}


def test_columns_are_the_same_where_they_are_empty(source):
    kinds = [build(source(each), "test", "grpo").features for each in (TALK, dialogue("Hi", turn()))]
    assert kinds[0] == kinds[1] and "completion" not in kinds[0]


def test_the_instruction_says_the_format_that_is_rewarded():
    example = SYSTEM.splitlines()[-3:]
    assert list(read_parts("\n".join(example))) == list(PARTS)
    assert make_prompt([], "Hi", "Be kind.")[0] == {"role": "system", "content": "Be kind."}


def test_an_instruction_of_the_recipe_replaces_ours(source):
    rows = build(source(TALK, instruction="Be kind."), "test", "ppo")
    assert {row["prompt"][0]["content"] for row in rows} == {"Be kind."}


def test_reflections_may_be_dropped_from_the_history_only(source):
    kept, dropped = (build(source(TALK, reflections=each), "test", "grpo") for each in ("keep", "drop"))
    assert kept[1]["prompt"][2]["content"] == kept[0]["turn"]
    assert dropped[1]["prompt"][2]["content"] == without_reflection(kept[0]["turn"]) != kept[0]["turn"]
    assert dropped["turn"] == kept["turn"]


HISTORY = [("a b", "c d e"), ("f", "g h")]


@pytest.mark.parametrize(
    "limit, kept, text",
    [
        (100, HISTORY, "i j"),
        (10, HISTORY, "i j"),
        (9, HISTORY[1:], "i j"),
        (5, HISTORY[1:], "i j"),
        (4, [], "i j"),
        (2, [], "i j"),
        (1, [], "j"),
    ],
)
def test_the_oldest_exchanges_go_whole_and_the_last_turn_loses_its_beginning(limit, kept, text):
    assert shorten(HISTORY, "i j", limit) == (kept, text)


def test_prompts_have_so_many_words_and_begin_with_the_user(source):
    long = numbered(1, exchanges=6)
    config = source(long, max_words=25)
    _, report = read_split(config, "test")
    assert report.shortened == 4 and report.used == 6
    for row in build(config, "test", "grpo"):
        roles = [message["role"] for message in row["prompt"]]
        assert roles == ["system", *["user", "assistant"] * (len(roles) // 2 - 1), "user"]
        assert sum(count_words(message["content"]) for message in row["prompt"][1:]) <= 25
        assert row["prompt"][-1]["content"] == row["text"]


def test_a_turn_of_100_kilobytes(source):
    rows = build(source(dialogue("word " * 20_000 + "end", turn("long " * 20_000), "Next", turn())), "test", "grpo")
    assert len(rows[0]["text"].split()) == 400 and rows[0]["text"].endswith("word end")
    assert len(rows[0]["reference"].split()) == 20_000
    assert [message["role"] for message in rows[1]["prompt"]] == ["system", "user"]


def test_other_users_are_of_other_dialogues_and_drawn_once_and_for_all(source):
    many = [numbered(number) for number in range(8)]
    rows = build(source(*many), "test", "grpo")
    for row in rows:
        others = row["other_users"]
        speakers = {text.split(".")[0] for text in others}
        assert len(others) == len(speakers) == OTHERS
        assert f"user {row['conversation'][1:]}" not in speakers
    assert len({tuple(row["other_users"]) for row in rows}) > 10
    again = build(source(*many, max_words=3, reflections="drop"), "test", "sft")
    assert again["other_users"] == rows["other_users"]


def test_other_users_never_say_what_the_user_says_next(source):
    same = [dialogue("Hi", turn(), "Yes", turn(), conversation_id=str(number)) for number in range(6)]
    rows = build(source(*same, dialogue("Yes", turn(), "Yes", turn(), conversation_id="only yes")), "test", "grpo")
    assert [row["other_users"] for row in rows if row["next_user"] == "Yes"] == [["Hi"] * 4] * 7


@pytest.mark.parametrize("dialogues, others", [(1, 0), (2, 1), (4, 3), (5, 4)])
def test_where_there_are_fewer_dialogues_there_are_fewer_other_users(source, dialogues, others):
    config = source(*(numbered(number) for number in range(dialogues)))
    assert {len(each) for each in build(config, "test", "grpo")["other_users"]} == {others}
    alone = read_split(config, "test")[1].notes.get("turns without other users", 0)
    assert alone == (0 if others else 2)


def test_two_rows_of_one_conversation_are_no_others(source):
    rows = build(source(numbered(1), numbered(1)), "test", "grpo")
    assert rows["other_users"] == [[]] * 4


def test_a_dialogue_without_an_id_is_named_by_its_row(source):
    rows = build(
        source(numbered(1), dialogue("Hi", turn()), dialogue("Ho", turn(), conversation_id=" ")), "test", "grpo"
    )
    assert rows["conversation"] == ["d1", "d1", "line 2", "line 3"]


def test_what_is_left_out_is_counted(source):
    with_system = dialogue("Hi", turn())
    with_system["messages"].insert(0, {"role": "system", "content": "Be somebody else."})
    config = source(with_system, dialogue("Anyone?"))
    _, report = read_split(config, "test")
    assert report.notes == {"dialogues": 2, "system messages left out": 1, "dialogues without an answer": 1}
    assert build(config, "test", "grpo")[0]["prompt"][0]["content"] == SYSTEM


def test_nobody_answers(source):
    with pytest.raises(DataError, match=r"test\.jsonl: the assistant answers in none of 2 dialogues"):
        read_split(source(dialogue("Hi"), dialogue("Ho")), "test")


def roles(*names):
    return {"messages": [{"role": name, "content": "text"} for name in names]}


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"messages": None}, "line 2: no messages: messages is null"),
        ({"messages": []}, r"line 2: no messages: messages is \[\]"),
        ({"conversation_id": "x"}, "line 2: no messages: messages is null"),
        ({"messages": ["Hi"]}, "line 2: no message: message 1 is 'Hi'; expected {role, content}"),
        ({"messages": [{"role": "user"}]}, "line 2: no message: message 1 is {'role': 'user'}; expected"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, r"line 2: no text: content of message 1 is \['Hi'\]"),
        (dialogue("Hi", " \n"), r"line 2: empty text: content of message 2 is ' \\n'"),
        (dialogue("\0<b> </b>", turn()), r"line 2: empty text: nothing is left of '\\x00<b> </b>' in message 1"),
        (roles("user", "bot"), "line 2: unknown role: role of message 2 is 'bot'; expected user or assistant"),
        (roles("user", None), "line 2: unknown role: role of message 2 is null"),
        (roles("assistant"), "line 2: the assistant begins: message 1 is of the assistant; expected the user"),
        (roles("user", "user"), "line 2: two turns of one role: message 2 is of the user; expected the assistant"),
        (roles("system"), "line 2: no messages: no turn follows the system message"),
        (roles("user", "system"), "line 2: system message in the middle: message 2;"),
        (roles("system", "system", "user"), "line 2: system message in the middle: message 2;"),
        (dialogue("Hi", conversation_id=[1]), r"line 2: no id: conversation_id is \[1\]; expected a text or a whole"),
        (dialogue("Hi", emotion=3), "line 2: no text: emotion has 3; expected a text"),
        ("[1, 2]", r"line 2: not a JSON object: \[1, 2\]"),
        ("{", "line 2: not JSON: "),
    ],
)
def test_a_malformed_dialogue_is_bad_as_a_whole(source, bad, message):
    config = source(TALK, bad)
    with pytest.raises(DataError, match=rf"test\.jsonl: 1 of 3 rows cannot be used .*\n  {message}"):
        build(config, "test", "grpo")
    rows, report = read_split(config.model_copy(update={"on_bad_rows": "drop"}), "test")
    assert len(rows) == 2 and sum(report.dropped.values()) == 1


@pytest.mark.parametrize(
    "malformed, message",
    [
        ("Just words", "no tags: 'Just words'"),
        (turn().replace("</reflect>", ""), "tag not closed: no </reflect>"),
        (turn().replace("<react>", "<React >"), "upper case or spaces in a tag: '<React >' for <react>"),
        (turn("<react>*nods*</react>"), "tag opened twice: <react> stands 2 times"),
        (turn("<b></b>"), "empty part: nothing is left of <respond> after cleaning"),
    ],
)
def test_a_malformed_turn_is_a_bad_row_and_what_follows_it_is_not_used(source, malformed, message):
    config = source(dialogue("a", turn(), "b", malformed, "c", turn(), "d", malformed, "e", turn()), numbered(1))
    with pytest.raises(DataError, match=rf"2 of 5 rows .*\n  line 1, turn 2: {message}\n  line 1, turn 4: "):
        build(config, "test", "sft")
    rows, report = read_split(config.model_copy(update={"on_bad_rows": "drop"}), "test")
    assert [row["text"] for row in rows] == ["a", "user 1.0", "user 1.1"]
    assert rows[0]["next_user"] == "b"
    assert report.dropped == {message.split(":")[0]: 2} and report.notes["turns after a malformed one"] == 2


def test_tags_that_a_user_types_are_not_taken_for_the_assistants(source):
    rows = build(
        source(dialogue("<respond>I am you</respond> &lt;react&gt;", turn("&lt;reflect&gt; yes"))), "test", "sft"
    )
    assert rows[0]["text"] == "I am you" and read_parts(rows[0]["turn"])["respond"] == "yes"


MANY = [numbered(number) for number in range(40)]


def parts_of(config):
    return {split: set(build(config, split, "grpo")["conversation"]) for split in ("train", "valid", "test")}


def test_one_file_is_split_by_conversation_also_in_its_folder(tmp_path):
    (tmp_path / "README.md").write_text("About them.")
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(each) + "\n" for each in MANY))
    alone = parts_of(Data(name="empath", path=str(tmp_path / "talks.jsonl")))
    assert {split: len(found) for split, found in alone.items()} == {"train": 32, "valid": 4, "test": 4}
    assert len(set.union(*alone.values())) == 40
    assert parts_of(Data(name="empath", path=str(tmp_path))) == alone


def test_rows_of_one_conversation_stay_together(tmp_path):
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(each) + "\n" for each in MANY + MANY))
    found = parts_of(Data(name="empath", path=str(tmp_path)))
    assert not found["train"] & found["valid"] and not found["train"] & found["test"]


def test_files_of_the_splits_are_used(source, tmp_path):
    config = source(TALK)
    with gzip.open(tmp_path / "validation.jsonl.gz", "wt") as file:
        file.write(json.dumps(numbered(5)))
    assert parts_of(config) == {"train": {"d0"}, "valid": {"d5"}, "test": {"7"}}


def test_a_byte_order_mark_and_escaped_control_characters_are_left_out(source, tmp_path):
    config = source()
    said = dialogue("Hi\0 you\u200b", turn("It is\x07 fine.\ud800"))
    (tmp_path / "test.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(said).encode() + b"\r\n")
    (row,) = build(config, "test", "grpo")
    assert (row["text"], row["reference"]) == ("Hi you", "It is fine.")


@pytest.mark.parametrize("several", [False, True])
def test_the_hub(monkeypatch, several):
    from datasets import Dataset, DatasetDict

    rows = [{"messages": [{"role": "system", "content": "x"}, *each["messages"]]} for each in MANY]
    splits = {"train": Dataset.from_list(rows)}
    if several:
        splits |= {"validation": Dataset.from_list(rows[:3]), "test": Dataset.from_list(rows[:2])}
    monkeypatch.setattr("datasets.load_dataset", lambda path, revision: DatasetDict(splits))
    config = Data(name="empath", path="someone/talks")
    found = [read_split(config, split)[1] for split in ("train", "valid", "test")]
    assert [report.notes["dialogues"] for report in found] == ([40, 3, 2] if several else [32, 4, 4])
    assert all(report.notes["system messages left out"] == report.notes["dialogues"] for report in found)
    assert build(config, "test", "sft")["conversation"][:2] == ["row 1"] * 2 or not several
    assert found[0].source.startswith("someone/talks (revision refs/convert/parquet, split train)")


# Faults of a turn, by name

FAULTS = [
    ("", NO_TAGS, "''", "nothing at all"),
    ("Hello <b>you</b>", NO_TAGS, "'Hello <b>you</b>'", "other tags are text"),
    (WHOLE.split("\n", 1)[1], MISSING, "no <react>", "the first part"),
    (WHOLE.rsplit("\n", 1)[0], MISSING, "no <reflect>", "the last part"),
    (WHOLE.replace("<respond>", ""), MISSING, "no <respond> before </respond>", "only the opening tag"),
    (WHOLE.replace("</react>", ""), NOT_CLOSED, "no </react>", "the first part"),
    (WHOLE.replace("</reflect>", ""), NOT_CLOSED, "no </reflect>", "cut at the end"),
    (WHOLE.replace("</react>", "<react>"), TWICE, "<react> stands 2 times", "a slash forgotten"),
    (f"{WHOLE}\n{WHOLE}", TWICE, "<react> stands 2 times", "two replies in one"),
    (f"{WHOLE}</respond>", CLOSED_TWICE, "</respond> stands 2 times", "closed again"),
    (
        "<react>*a*<respond>b</respond></react><reflect>c</reflect>",
        NESTED,
        "<respond> inside <react>",
        "one in another",
    ),
    (
        "<react>*a*<respond>b</react></respond><reflect>c</reflect>",
        NESTED,
        "<respond> inside <react>",
        "overlapping",
    ),
    (
        "\n".join(reversed(WHOLE.split("\n"))),
        ORDER,
        "reflect, respond, react; expected react, respond, reflect",
        "backwards",
    ),
    (
        WHOLE.replace("<react>", "<x>").replace("</react>", "<react>").replace("<x>", "</react>"),
        ORDER,
        "</react> before <react>",
        "closed before it is opened",
    ),
    (f"Well.{WHOLE}", OUTSIDE, "'Well.'", "before"),
    (WHOLE.replace("\n<respond>", " and \n<respond>"), OUTSIDE, "'and'", "between"),
    (f"{WHOLE} \x1b[31m", OUTSIDE, r"'\x1b[31m'", "behind, shown escaped"),
    (WHOLE.replace("Hello.", " \n"), EMPTY, "nothing in <respond>", "white space is nothing"),
    (WHOLE.replace("<react>", "<React>"), MISSPELT, "'<React>' for <react>", "upper case"),
    (
        WHOLE.replace("<react>", "< react >").replace("</reflect>", "</ REFLECT\n>"),
        MISSPELT,
        r"'< react >' for <react>, '</ REFLECT\n>' for </reflect>",
        "all that are misspelt",
    ),
    (WHOLE.replace("<react>", "<REACT>")[:-1], NOT_CLOSED, "no </reflect>", "spelling is the lesser fault"),
    (WHOLE.replace("<respond>", "<reſpond>"), MISSING, "no <respond> before </respond>", "no letter s"),
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


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared data are not here")
@pytest.mark.parametrize("path", [REAL / "dialogues.jsonl", REAL])
def test_the_real_dialogues(path):
    found = {split: read_split(Data(name="empath", path=str(path)), split) for split in ("train", "valid", "test")}
    assert [report.notes["dialogues"] for _, report in found.values()] == [8, 1, 1]
    assert sum(len(rows) for rows, _ in found.values()) == 127
    assert not any(report.dropped for _, report in found.values())
    rows = [row for rows, _ in found.values() for row in rows]
    assert sum(row["next_user"] is None for row in rows) == 10
    assert all(row["turn"].endswith("</reflect>") and row["reference"] in row["turn"] for row in rows)
    assert {len(row["other_users"]) for row in found["train"][0]} == {OTHERS}
