"""RatedReplies: both formats, splits by context, ratings and what is wrong with them."""

import gzip
import json

import pytest

from empathy_trl.data import build, corpus, read_split, targets
from empathy_trl.errors import DataError
from empathy_trl.recipe import Data

TWO = {"empathy": (1, 5), "overall": (0, 10)}
ROWS = [
    {
        "context": ["hi", "my dog died"],
        "response": "I am sorry",
        "ratings": {"empathy": 5, "overall": 9.5},
        "judge": "x",
    },
    {"context": "I won", "response": "ok", "ratings": {"overall": 2, "empathy": 1, "other": "?"}},
]


def section(path, **changes):
    return Data(name="rated_replies", path=str(path), **changes)


def write(path, rows):
    content = "\n".join(map(json.dumps, rows)).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.name.endswith(".gz") else content)
    return path


def write_lists(folder, contexts, responses, ratings):
    folder.mkdir(exist_ok=True)
    for name, content in (("contexts", contexts), ("responses", responses), ("ratings", ratings)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def many(contexts=40, replies=3):
    return [
        {"context": ["hi", f"story {c}"], "response": f"reply {c}.{r}", "ratings": r + 1}
        for r in range(replies)
        for c in range(contexts)
    ]


def as_lists(folder, rows):
    return write_lists(folder, *([row[key] for row in rows] for key in ("context", "response", "ratings")))


def test_the_ratings_of_a_source():
    assert targets(section("./somewhere")) == {"rating": (1, 5)}
    assert targets(section("x", ranges=TWO)) == TWO
    assert len(targets(section("sample"))) == 5
    assert corpus("rated_replies").comparable and not corpus("wassa").comparable


@pytest.mark.parametrize("name", ["train.jsonl", "train.jsonl.gz"])
def test_json_lines_with_named_ratings(tmp_path, name):
    write(tmp_path / name, ROWS)
    write(tmp_path / "valid.jsonl", ROWS[:1])
    rows = build(section(tmp_path, ranges=TWO), "train", "regress")
    assert rows.column_names == ["text", "pair", "labels", "context"]
    assert rows[0] == {"text": "my dog died", "pair": "I am sorry", "labels": [5, 9.5], "context": "hi\nmy dog died"}
    assert rows["labels"][1] == [1, 2] and rows["text"][1] == "I won"
    assert (
        len(read_split(section(tmp_path, ranges=TWO), "valid")[0]) == 1
    )  # as given, though its context is in train too


def test_parallel_lists_in_parts(tmp_path):
    for part in ("train", "val", "test"):
        write_lists(tmp_path / part, [["a", part], "b"], ["yes", "no"], [5, {"rating": 1}])
    for split, part in (("train", "train"), ("valid", "val"), ("test", "test")):
        rows, _ = read_split(section(tmp_path), split)
        assert [(row["text"], row["pair"], row["labels"]) for row in rows] == [(part, "yes", [5.0]), ("b", "no", [1.0])]


def single_sources(folder):
    write(folder / "file.jsonl", many())
    (folder / "alone").mkdir()
    write(folder / "alone" / "scores.jsonl", many())
    as_lists(folder / "lists", many())
    (folder / "published").mkdir()
    as_lists(folder / "published" / "train", many())


@pytest.mark.parametrize("source", ["file.jsonl", "alone", "lists", "published"])
def test_a_single_source_is_split_by_context(tmp_path, source):
    single_sources(tmp_path)
    parts = {split: read_split(section(tmp_path / source), split)[0] for split in ("train", "valid", "test")}
    assert {split: len(rows) for split, rows in parts.items()} == {"train": 96, "valid": 12, "test": 12}
    contexts = [{row["context"] for row in rows} for rows in parts.values()]
    assert sum(map(len, contexts)) == len(set.union(*contexts)) == 40


def test_a_context_is_the_same_however_it_is_written(tmp_path):
    rows = many() + [{"context": ["hi ", f"story  {c}"], "response": "late", "ratings": 1} for c in range(40)]
    write(tmp_path / "f.jsonl", rows)
    contexts = [
        {row["context"] for row in read_split(section(tmp_path), split)[0]} for split in ("train", "valid", "test")
    ]
    assert sum(map(len, contexts)) == 40


def test_long_texts_lose_their_beginning(tmp_path):
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "test.jsonl", ROWS)
    rows, report = read_split(section(tmp_path, ranges=TWO, max_words=2), "train")
    assert (rows[0]["text"], rows[0]["pair"], report.shortened) == ("dog died", "am sorry", 1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ratings": {"empathy": 5}}, r"line 2: missing rating: no overall \(ratings found: empathy\); select the ratings with data\.ranges"),
        ({"ratings": 4}, r"line 2: missing rating: no empathy \(ratings found: rating\)"),
        ({"ratings": None}, r"line 2: missing rating: no empathy"),
        ({"ratings": {"empathy": "4", "overall": 1}}, r"line 2: rating is no number: empathy is '4'; expected a number from 1 to 5"),
        ({"ratings": {"empathy": True, "overall": 1}}, r"rating is no number: empathy is true"),
        ({"ratings": {"empathy": float("nan"), "overall": 1}}, r"rating is no number: empathy is nan"),
        ({"ratings": {"empathy": [4], "overall": 1}}, r"rating is no number: empathy is \[4\]"),
        ({"ratings": {"empathy": 5.5, "overall": 1}}, r"rating out of range: empathy is 5\.5; expected a number from 1 to 5"),
        ({"ratings": {"empathy": 0, "overall": 1}}, r"rating out of range: empathy is 0"),
        ({"ratings": {"empathy": float("inf"), "overall": 1}}, r"rating is no number: empathy is inf"),
        ({"ratings": {"empathy": None, "overall": 1}}, r"missing rating: empathy is null; expected a number from 1 to 5"),
        ({"ratings": {"empathy": 10**400, "overall": 1}}, r"rating out of range: empathy is 10{78}…;"),
        ({"context": []}, r"line 2: empty context: nothing is left of \[\] in context after cleaning"),
        ({"context": [1]}, r"line 2: context is no text: context has \[1\]"),
        ({"response": " "}, r"line 2: empty response: nothing is left of ' ' in response"),
        ({"response": None}, r"line 2: response is no text: response has null"),
    ],
)  # fmt: skip
def test_bad_rows(tmp_path, change, message):
    write(tmp_path / "train.jsonl", [ROWS[0], ROWS[1] | change])
    write(tmp_path / "test.jsonl", ROWS)
    with pytest.raises(DataError, match=message):
        read_split(section(tmp_path, ranges=TWO), "train")
    assert len(read_split(section(tmp_path, ranges=TWO, on_bad_rows="drop"), "train")[0]) == 1


def test_bad_rows_of_a_single_source_are_reported_too(tmp_path):
    write(tmp_path / "scores.jsonl", many() + [{"context": 3, "response": "r", "ratings": 1}] * 30)
    with pytest.raises(DataError, match=r"context is no text: context has 3"):
        read_split(section(tmp_path), "train")


@pytest.mark.parametrize(
    "lists, message",
    [
        ((["a", "b"], ["r"], [1, 2]), r"responses\.json has 1 entries, contexts\.json has 2"),
        ((["a", "b"], ["r", "s"], [1]), r"ratings\.json has 1 entries, contexts\.json has 2"),
        ((["a"], ["r"], {"rating": 1}), r"ratings\.json: .* is not a JSON list"),
    ],
)
def test_lists_that_do_not_fit(tmp_path, lists, message):
    with pytest.raises(DataError, match=message):
        read_split(section(write_lists(tmp_path / "lists", *lists)), "train")


def test_places_that_hold_no_ratings(tmp_path):
    with pytest.raises(DataError, match=r"has no rated replies \(files found: none\); expected a folder with contexts"):
        read_split(section(tmp_path), "train")
    write(tmp_path / "x.jsonl", [{"context": "a", "reply": "b", "ratings": 1}])
    with pytest.raises(DataError, match=r"no column 'response'.*\(columns found: context, reply, ratings\)"):
        read_split(section(tmp_path), "train")
