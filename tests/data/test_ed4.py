"""Ed4: situations with one of four emotions, from files and from the Hub, prompts and warm-start completions."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetNotFoundError

from empathy_trl.data import build, read_split
from empathy_trl.data.ed4 import LABELS, PROMPT, label_shares, make_prompt, rationale
from empathy_trl.errors import DataError, UserError
from empathy_trl.recipe import Data
from empathy_trl.tags import tag_bodies

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "ed_easy_4"
HUB_ID = "facebook/empathetic_dialogues"
GOOD = "text,label\ni won,1\ni lost,0\n"


def section(path, **changes):
    return Data(name="ed4", path=str(path), **changes)


@pytest.fixture
def folder(tmp_path):
    """Return a function that writes train.csv and returns its folder."""

    def write(content):
        (tmp_path / "train.csv").write_text(content)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (GOOD, [("i won", "joyful"), ("i lost", "sad")]),
        ("text,label\na,SAD\nb, Joyful \nc,angry\nd,aFraid\n", list(zip("abcd", LABELS, strict=True))),
        ("text,label\n\U0001f62d\U0001f62d,0\n", [("\U0001f62d\U0001f62d", "sad")]),
        ("text,label\nmy <answer>sad</answer> dog &amp; i\u200b,1\n", [("my sad dog & i", "joyful")]),
        ('text,label\n"first\nsecond, ""third""",2\n', [('first second, "third"', "angry")]),
    ],
    ids=["plain", "label-words", "emoji", "markup", "quoted-newline"],
)
def test_rows(folder, content, expected):
    rows, report = read_split(section(folder(content)), "train")
    assert [(row["text"], row["label"]) for row in rows] == expected
    assert (report.read, report.used, report.dropped) == (len(expected), len(expected), {})


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ("happy day,happy", "unknown label", r"'happy' \(choices: 0 or sad, 1 or joyful, 2 or angry, 3 or afraid\)"),
        ("a day,4", "unknown label", "'4'"),
        ("a day,1.0", "unknown label", r"'1\.0'"),
        ("a day,", "unknown label", "''"),
        ("a day,sad\u200b", "unknown label", r"'sad\\u200b'"),
        ("a day," + "x" * 9000, "unknown label", r"'x{60}…'"),
        (",1", "empty text", "nothing is left of '' after cleaning"),
        ("<br> &nbsp;\u200b,1", "empty text", r"nothing is left of '<br> &nbsp;\\u200b' after cleaning"),
    ],
)
def test_a_bad_row_is_named_with_line_and_value(folder, row, reason, detail):
    path = folder(f'text,label\n"two\nlines",1\n{row}\n')
    message = rf"train\.csv: 1 of 2 rows cannot be used \(1 {reason}\)\n  line 4: {reason}: {detail}"
    with pytest.raises(DataError, match=message):
        read_split(section(path), "train")


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
    rows, report = read_split(section(HUB_ID), "valid")
    assert [(row["text"], row["label"]) for row in rows] == [
        ("rain, again", "sad"),
        ("dark", "afraid"),
        ("sun & sea", "joyful"),
    ]
    assert report.source == f"{HUB_ID} (revision refs/convert/parquet, split validation)"
    read_split(section(HUB_ID, revision="v2"), "valid")
    assert calls == [(HUB_ID, "refs/convert/parquet"), (HUB_ID, "v2")]


@pytest.mark.parametrize(
    ("columns", "split", "message"),
    [
        (UTTERANCES, "train", r"has no table called valid or validation or val or dev \(found: train\)"),
        ({"text": ["a"], "labels": [1]}, "validation", r"no column 'label'; did you mean labels\?"),
        (UTTERANCES | {"context": ["proud"] * 6}, "validation", "no row whose context is one of sad, joyful"),
        (UTTERANCES | {"prompt": ["x"] * 3 + [None] * 3}, "validation", r"row 4: empty text"),
    ],
)
def test_hub_data_of_another_shape(monkeypatch, columns, split, message):
    make_hub(monkeypatch, columns, split)
    with pytest.raises(DataError, match=message):
        read_split(section(HUB_ID), "valid")


@pytest.mark.parametrize(
    "error",
    [ConnectionError("Couldn't reach it"), DatasetNotFoundError("is a gated dataset"), httpx.ConnectError("no route")],
)
def test_unreachable_hub_says_what_to_do(monkeypatch, error):
    def fail(name, revision):
        raise error

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(UserError, match=rf"cannot load '{HUB_ID}'.*{error}\n.*hf auth login.*HF_HOME.*data\.path"):
        read_split(section(HUB_ID), "train")


def test_other_errors_of_the_hub_are_not_swallowed(monkeypatch):
    def fail(name, revision):
        raise ZeroDivisionError

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(ZeroDivisionError):
        read_split(section(HUB_ID), "train")


def test_prompt_is_short_names_the_emotions_and_ends_with_the_situation():
    text = "a {brace} and %s"
    (message,) = make_prompt(text)
    assert message["role"] == "user"
    assert message["content"].splitlines()[-1] == f"Situation: {text}"
    assert len(PROMPT.split()) <= 45
    assert all(label in PROMPT for label in LABELS)
    assert tag_bodies(PROMPT, "answer") == ["emotion"]


def test_build_gives_the_columns_of_each_task(folder):
    config = section(folder(GOOD))
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


def test_reading_rows_imports_no_heavy_library(folder):
    code = (
        "import sys; from types import SimpleNamespace as N; from empathy_trl.data import read_split; "
        f"read_split(N(name='ed4', builder=None, path={str(folder(GOOD))!r}, revision=None, on_bad_rows='error', "
        "portion=(0.0, 1.0), max_words=400), 'train'); "
        "print([name for name in ('datasets', 'pandas', 'torch', 'httpx', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared copy of ed_easy_4 is not here")
def test_ed_easy_4():
    sizes = {split: read_split(section(REAL), split)[1].used for split in ("train", "valid", "test")}
    assert sizes == {"train": 2386, "valid": 358, "test": 328}
    rows, _ = read_split(section(REAL), "test")
    assert Counter(row["label"] for row in rows) == {"sad": 88, "joyful": 83, "angry": 84, "afraid": 73}
    warm = build(section(REAL, portion=(0.0, 0.17)), "train", "sft")
    assert warm[0]["text"] == "i used to scare for darkness"
    reasons = [tag_bodies(row["completion"][0]["content"], "reasoning")[0] for row in warm]
    assert len(set(reasons)) > 0.3 * len(warm)  # the quoted words differ
    assert all(len(reason.split()) == 6 for reason in reasons)
    assert not any(reason.startswith(LABELS) for reason in reasons)
