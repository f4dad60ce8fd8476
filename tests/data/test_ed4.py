"""The ed4 builder: every source, every way a source can be wrong, prompts and warm-start completions."""

import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetNotFoundError

from empathy_trl.data import build, read_split
from empathy_trl.data.ed4 import LABELS, PROMPT, label_shares, make_prompt, rationale
from empathy_trl.errors import DataError, UserError
from empathy_trl.io import on_hub
from empathy_trl.tags import tag_bodies

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "ed_easy_4"
HUB_ID = "facebook/empathetic_dialogues"
GOOD = "text,label\ni won,1\ni lost,0\n"


def make_config(path, **changes):
    defaults = {
        "name": "ed4",
        "path": str(path),
        "revision": None,
        "on_bad_rows": "error",
        "portion": (0.0, 1.0),
        "max_words": 400,
        "builder": None,
    }
    return SimpleNamespace(**defaults | changes)


@pytest.fixture
def folder(tmp_path):
    """Return a function that writes train.csv (text or bytes) and returns its folder."""

    def write(content, name="train.csv"):
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        return tmp_path

    return write


# Good input


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (GOOD, [("i won", "joyful"), ("i lost", "sad")]),
        (b"\xef\xbb\xbf" + GOOD.encode(), [("i won", "joyful"), ("i lost", "sad")]),
        (GOOD.replace("\n", "\r\n"), [("i won", "joyful"), ("i lost", "sad")]),
        (GOOD.rstrip("\n"), [("i won", "joyful"), ("i lost", "sad")]),
        ("\ntext,label\n\ni won,1\n\n\n", [("i won", "joyful")]),
        ("aug_text,label, text ,,\nx,3,i hid,,\n", [("i hid", "afraid")]),
        ('text,label\n"first\nsecond, ""third""",2\n', [('first second, "third"', "angry")]),
        ('text,label\nshe said "no" to me,2\n', [('she said "no" to me', "angry")]),
        ("text,label\na,SAD\nb, Joyful \nc,angry\nd,aFraid\n", list(zip("abcd", LABELS, strict=True))),
        ("text,label\n\U0001f62d\U0001f62d,0\n", [("\U0001f62d\U0001f62d", "sad")]),
        (
            "text,label\n\u05d0\u05e0\u05d9 \u05e9\u05de\u05d7,1\n",
            [("\u05d0\u05e0\u05d9 \u05e9\u05de\u05d7", "joyful")],
        ),
        ("text,label\nmy <answer>sad</answer> dog &amp; i\u200b,1\n", [("my sad dog & i", "joyful")]),
    ],
    ids=[
        "plain",
        "bom",
        "crlf",
        "no-last-newline",
        "blank-lines",
        "other-columns",
        "quoted-newline",
        "inner-quotes",
    ]
    + ["label-words", "emoji", "rtl", "markup"],
)
def test_good_files_are_read(folder, content, expected):
    rows, report = read_split(make_config(folder(content)), "train")
    assert [(row["text"], row["label"]) for row in rows] == expected
    assert (report.read, report.used, report.dropped) == (len(expected), len(expected), {})


@pytest.mark.parametrize(
    ("name", "split"),
    [("train.csv", "train"), ("valid.csv", "valid"), ("validation.csv", "valid"), ("test.csv", "test")],
)
def test_every_split_has_its_file(folder, name, split):
    rows, report = read_split(make_config(folder(GOOD, name)), split)
    assert len(rows) == 2
    assert report.source.endswith(name)


def test_long_texts_lose_their_beginning_and_are_counted(folder):
    words = [f"w{number}" for number in range(5000)]
    path = folder(f"text,label\n{' '.join(words)},1\nshort,0\n")
    rows, report = read_split(make_config(path, max_words=10), "train")
    assert rows[0]["text"].split() == words[-10:]
    assert str(report) == f"{path / 'train.csv'}: 2 read, 0 dropped, 2 used, 1 shortened"


@pytest.mark.parametrize(
    ("portion", "expected"),
    [((0.0, 1.0), range(10)), ((0.0, 0.25), range(2)), ((0.25, 1.0), range(2, 10)), ((0.9, 1.0), [9])],
)
def test_portion_takes_training_rows_in_file_order(folder, portion, expected):
    content = "text,label\n" + "".join(f"row {number},1\n" for number in range(10))
    folder(content, "test.csv")
    config = make_config(folder(content), portion=portion)
    assert [row["text"] for row in read_split(config, "train")[0]] == [f"row {number}" for number in expected]
    assert len(read_split(config, "test")[0]) == 10


# Bad files: one message each


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"train\.csv: the file is empty; expected a header with the columns text, label"),
        ("\n \n".replace(" ", ""), r"train\.csv: the file is empty"),
        ("text,label\n", r"train\.csv: the file has a header but no rows"),
        ("Text,label\na,1\n", r"no column 'text'; did you mean Text\? \(columns found: Text, label\)"),
        (
            "text,lable\na,1\n",
            r"no column 'label'; did you mean lable\? \(columns found: text, lable\)",
        ),
        ("i won,1\ni lost,0\n", r"no column 'text' \(columns found: 'i won', 1\)"),
        ("text;label\na;1\n", r"columns found: 'text;label'\); cells must be separated by commas"),
        ("text,label,text\na,1,b\n", r"2 columns are called 'text'; names must differ"),
        (b"text,label\nok,1\ncaf\xe9,1\n", r"train\.csv, line 3: byte 0xe9 at offset 19 is not UTF-8"),
        (b"\xef\xbb\xbftext,label\r\n\xff,1\r\n", r"line 2: byte 0xff at offset 15 is not UTF-8"),
        (GOOD.encode("utf-16"), r"line 1: byte 0xff at offset 0 is not UTF-8"),
        (b"text,label\na\x00b,1\n", r"train\.csv, line 2: NUL byte at offset 12"),
        ('text,label\nok,1\n"never closed,1\nb,0\n', r"record that starts on line 3: unexpected end of data"),
        ('text,label\n"so" she said,1\n', r"record that starts on line 2: ',' expected after '\"'"),
        (
            "text,label\n" + "a" * 200_000 + ",1\n",
            r"record that starts on line 2: field larger than field limit",
        ),
    ],
    ids=[
        "empty",
        "blank",
        "only-header",
        "case",
        "misspelt",
        "no-header",
        "semicolon",
        "duplicate",
        "latin-1",
    ]
    + ["bom-offset", "utf-16", "nul", "open-quote", "text-after-quote", "huge-cell"],
)
@pytest.mark.parametrize("on_bad_rows", ["error", "drop"])
def test_bad_files_stop_in_either_mode(folder, content, message, on_bad_rows):
    with pytest.raises(DataError, match=message):
        read_split(make_config(folder(content), on_bad_rows=on_bad_rows), "train")


def test_missing_split_lists_the_files_there(folder):
    with pytest.raises(DataError, match=r"has no valid\.csv or validation\.csv \(files found: train\.csv\)"):
        read_split(make_config(folder(GOOD)), "valid")


def test_empty_folder(tmp_path):
    with pytest.raises(DataError, match=r"has no train\.csv \(files found: none\)"):
        read_split(make_config(tmp_path), "train")


@pytest.mark.parametrize("path", ["smaple", "/no/such/folder", "./no/such", "~/no-such-folder-here", "a/b/c"])
def test_missing_folder_names_the_choices(path):
    with pytest.raises(DataError, match=rf"no folder '{path}' here; expected 'sample'.*or a Hub id"):
        read_split(make_config(path), "train")


def test_file_instead_of_folder(folder):
    with pytest.raises(DataError, match=r"train\.csv is a file; give the folder"):
        read_split(make_config(folder(GOOD) / "train.csv"), "train")


def test_portion_without_rows(folder):
    with pytest.raises(DataError, match=r"data\.portion \[0\.0, 0\.3\] of 2 rows leaves no row"):
        read_split(make_config(folder(GOOD), portion=(0.0, 0.3)), "train")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda config: build(config, "dev", "grpo"),
            r"unknown split 'dev' \(choices: train, valid, test\)",
        ),
        (lambda config: build(config, "tests", "grpo"), r"unknown split 'tests'; did you mean test\?"),
        (
            lambda config: build(config, "train", "gpro"),
            r"task 'gpro'; did you mean grpo\? \(choices: sft, grpo, ppo\)",
        ),
        (
            lambda config: build(SimpleNamespace(name="ed5", builder=None), "train", "sft"),
            r"unknown corpus 'ed5'; did you mean ed4",
        ),
    ],
)
def test_unknown_names(folder, call, message):
    with pytest.raises(UserError, match=message):
        call(make_config(folder(GOOD)))


# Bad rows: collected, then raised or dropped

BAD_ROWS = [
    (
        "happy day,happy",
        "unknown label",
        r"'happy' \(choices: 0 or sad, 1 or joyful, 2 or angry, 3 or afraid\)",
    ),
    ("a day,4", "unknown label", "'4'"),
    ("a day,1.0", "unknown label", r"'1\.0'"),
    ("a day,", "unknown label", "''"),
    ("a day,sad\u200b", "unknown label", r"'sad\\u200b'"),
    ("a day", "wrong number of cells", "1 cells, the header has 2: 'a day'"),
    ("so, a day,1", "wrong number of cells", "3 cells, the header has 2: 'so, a day,1'"),
    (",1", "empty text", "nothing is left of '' after cleaning"),
    ("  ,1", "empty text", "nothing is left of '  ' after cleaning"),
    ("<br> &nbsp;\u200b,1", "empty text", r"nothing is left of '<br> &nbsp;\\u200b' after cleaning"),
    ("a day," + "x" * 9000, "unknown label", r"'x{60}…'"),
]


@pytest.mark.parametrize(("row", "reason", "detail"), BAD_ROWS)
def test_a_bad_row_is_named_with_line_and_value(folder, row, reason, detail):
    path = folder(f'text,label\n"two\nlines",1\n{row}\n')
    message = rf"train\.csv: 1 of 2 rows cannot be used \(1 {reason}\)\n  line 4: {reason}: {detail}"
    with pytest.raises(DataError, match=message):
        read_split(make_config(path), "train")


def test_many_bad_rows_make_one_error_with_the_first_five_in_file_order(folder):
    path = folder("text,label\nok,1\n" + "".join(f"{row}\n" for row, _, _ in BAD_ROWS))
    with pytest.raises(DataError) as caught:
        read_split(make_config(path), "train")
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("11 of 12 rows cannot be used (6 unknown label, 2 wrong number of cells, 3 empty text)")
    assert [line.split(":")[0].strip() for line in lines[1:6]] == [f"line {n}" for n in range(3, 8)]
    assert lines[6:] == ["  and 6 more", "fix them, or leave them out with data.on_bad_rows: drop"]


def test_drop_counts_by_reason_and_warns_once(folder, caplog):
    path = folder("text,label\nok,1\n" + "".join(f"{row}\n" for row, _, _ in BAD_ROWS))
    with caplog.at_level(logging.WARNING):
        rows, report = read_split(make_config(path, on_bad_rows="drop"), "train")
    assert rows == [{"text": "ok", "label": "joyful"}]
    assert report.dropped == {"unknown label": 6, "wrong number of cells": 2, "empty text": 3}
    assert (report.read, report.used) == (12, 1)
    assert len(caplog.records) == 1
    assert "11 of 12 rows cannot be used (6 unknown label, 2 wrong number" in caplog.text
    assert "11 dropped (6 unknown label, 2 wrong number of cells, 3 empty text), 1 used" in str(report)


def test_dropping_every_row_is_an_error(folder):
    with pytest.raises(DataError, match=r"2 of 2 rows cannot be used(.|\n)*no row is left"):
        read_split(make_config(folder("text,label\n,1\na,9\n"), on_bad_rows="drop"), "train")


# The Hub


def make_hub(monkeypatch, columns, split="validation"):
    """Let `load_dataset` return one split made of `columns`; return the list of its calls."""
    calls = []

    def load_dataset(name, revision):
        calls.append((name, revision))
        return DatasetDict({split: Dataset.from_dict(columns)})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return calls


UTTERANCES = {
    "conv_id": ["c1", "c1", "c2", "c3", "c3", "c4"],
    "context": ["sad", "sad", "proud", "afraid", "afraid", "joyful"],
    "prompt": ["rain_comma_ again", "rain_comma_ again", "a medal", "dark", "dark", "sun &amp; sea"],
    "utterance": ["a", "b", "c", "d", "e", "f"],
}


def test_hub_gives_one_row_per_conversation_of_the_four_emotions(monkeypatch):
    calls = make_hub(monkeypatch, UTTERANCES)
    rows, report = read_split(make_config(HUB_ID), "valid")
    assert [(row["text"], row["label"]) for row in rows] == [
        ("rain, again", "sad"),
        ("dark", "afraid"),
        ("sun & sea", "joyful"),
    ]
    assert report.source == f"{HUB_ID} (revision refs/convert/parquet, split validation)"
    read_split(make_config(HUB_ID, revision="v2"), "valid")
    assert calls == [(HUB_ID, "refs/convert/parquet"), (HUB_ID, "v2")]


@pytest.mark.parametrize(
    ("columns", "split", "message"),
    [
        (UTTERANCES, "train", r"no such split \(splits found: train\)"),
        (
            {"text": ["a"], "label": [1]},
            "validation",
            r"no column 'conv_id' \(columns found: text, label\)",
        ),
        (UTTERANCES | {"context": ["proud"] * 6}, "validation", "no row whose context is one of sad, joyful"),
        (UTTERANCES | {"prompt": ["x"] * 3 + [None] * 3}, "validation", r"row 4: empty text"),
    ],
)
def test_hub_data_of_another_shape(monkeypatch, columns, split, message):
    make_hub(monkeypatch, columns, split)
    with pytest.raises(DataError, match=message):
        read_split(make_config(HUB_ID), "valid")


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach it"),
        DatasetNotFoundError("is a gated dataset"),
        httpx.ConnectError("no route"),
    ],
)
def test_unreachable_hub_says_what_to_do(monkeypatch, error):
    def fail(name, revision):
        raise error

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(UserError, match=rf"cannot load '{HUB_ID}'.*{error}\n.*hf auth login.*HF_HOME.*data\.path"):
        read_split(make_config(HUB_ID), "train")


def test_other_errors_of_the_hub_are_not_swallowed(monkeypatch):
    def fail(name, revision):
        raise ZeroDivisionError

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(ZeroDivisionError):
        read_split(make_config(HUB_ID), "train")


def test_a_local_folder_wins_over_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert on_hub("data/mine", needs_owner=True)
    (tmp_path / "data" / "mine").mkdir(parents=True)
    assert not on_hub("data/mine", needs_owner=True)
    assert not on_hub("sample", needs_owner=True)


# Prompts and warm start


def test_prompt_is_short_names_the_emotions_and_ends_with_the_situation():
    text = "a {brace} and %s"
    (message,) = make_prompt(text)
    assert message["role"] == "user"
    assert message["content"].splitlines()[-1] == f"Situation: {text}"
    assert len(PROMPT.split()) <= 45
    assert all(label in PROMPT for label in LABELS)
    assert tag_bodies(PROMPT, "answer") == ["emotion"]


def test_build_gives_the_columns_of_each_task(folder):
    config = make_config(folder(GOOD))
    grpo, sft = build(config, "train", "grpo"), build(config, "train", "sft")
    assert grpo.column_names == ["prompt", "text", "label"]
    assert grpo[0] == {"prompt": make_prompt("i won"), "text": "i won", "label": "joyful"}
    assert sft.column_names == ["prompt", "text", "label", "completion"]
    (message,) = sft[0]["completion"]
    assert message["role"] == "assistant"
    (reasoning,) = tag_bodies(message["content"], "reasoning")
    assert message["content"] == f"<reasoning>{reasoning}</reasoning><answer>joyful</answer>"


def test_rationale_quotes_the_word_that_goes_with_the_label():
    rows = [
        {"text": "the dog died", "label": "sad"},
        {"text": "the cat died", "label": "sad"},
        {"text": "the prize was won", "label": "joyful"},
        {"text": "the match was won", "label": "joyful"},
    ]
    shares = label_shares(rows)
    # 2 of 2 rows, with 5 imaginary rows of which half are sad.
    assert shares["died", "sad"] == pytest.approx((2 + 2.5) / (2 + 5))
    assert shares["the", "sad"] == pytest.approx(0.5)
    assert ("died", "joyful") not in shares
    assert rationale("The dog, the CAT - died!", "sad", shares) == "The telling word here is died."
    assert rationale("The dog was lost", "joyful", shares) == "The telling word here is was."
    assert rationale("Nobody knows why", "sad", shares) == "The telling word here is nobody."


@pytest.mark.parametrize("text", ["\U0001f62d", "no", "12 34", "x" * 5000, "a b", "don't we, mother-in-law", "</ans"])
def test_rationale_of_odd_texts_stays_short(text):
    sentence = rationale(text, "sad", {})
    assert len(sentence.split()) == 6
    assert len(sentence) < 60
    assert tag_bodies(f"<reasoning>{sentence}</reasoning>", "reasoning") == [sentence]


def test_importing_the_package_and_reading_rows_imports_no_heavy_library(folder):
    code = (
        "import sys; from types import SimpleNamespace as N; from empathy_trl.data import read_split; "
        f"read_split(N(**{vars(make_config(folder(GOOD)))!r}), 'train'); "
        "print([name for name in ('datasets', 'pandas', 'torch', 'httpx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The real files


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared copy of ed_easy_4 is not here")
def test_ed_easy_4():
    sizes = {split: read_split(make_config(REAL), split)[1].used for split in ("train", "valid", "test")}
    assert sizes == {"train": 2386, "valid": 358, "test": 328}
    rows, _ = read_split(make_config(REAL), "test")
    assert Counter(row["label"] for row in rows) == {"sad": 88, "joyful": 83, "angry": 84, "afraid": 73}
    warm = build(make_config(REAL, portion=(0.0, 0.17)), "train", "sft")
    assert warm[0]["text"] == "i used to scare for darkness"
    reasons = [tag_bodies(row["completion"][0]["content"], "reasoning")[0] for row in warm]
    assert len(set(reasons)) > 0.3 * len(warm)  # the quoted words differ
    assert all(len(reason.split()) == 6 for reason in reasons)
    assert not any(reason.startswith(LABELS) for reason in reasons)
