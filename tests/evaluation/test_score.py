"""Contexts and responses from every layout, and one error that names the place for whatever is wrong."""

import gzip
import json

import pandas
import pytest
from datasets import Dataset

from empathy_trl.errors import DataError, UserError
from empathy_trl.evaluation.score import Pair, read_pairs
from empathy_trl.rewards.explain import read_completions

MESSAGES = [{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "I lost my job."}]


def lines(*rows):
    return "\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows) + "\n"


@pytest.fixture
def write(tmp_path):
    """Return a function that writes files, name -> content, and returns the first one, or the folder."""

    def write(**files):
        for name, content in files.items():
            path = tmp_path / name.replace("_", ".")
            path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content, encoding="utf-8")
        return tmp_path if "contexts_json" in files or "responses_json" in files else path

    return write


def test_a_file_of_pairs_keeps_contexts_as_they_are(write):
    rows = [
        {"context": "I lost my job.", "response": "Oh no!", "more": 1},
        {"context": ["Hello.", "I lost\u2028my job."], "response": ""},
        {"context": MESSAGES, "response": "Oh."},
    ]
    expected = [Pair(row["context"], row["response"]) for row in rows]
    assert read_pairs(write(in_jsonl="\n" + lines(*rows))) == expected
    assert read_pairs(write(in_jsonl_gz=gzip.compress(lines(*rows).encode(), mtime=0))) == expected


@pytest.mark.faults
def test_messages_as_trl_and_openai_have_them_and_halves_of_characters_are_read(write):
    parts = [{"role": "user", "content": [{"type": "text", "text": "I lost my job."}]}]
    rows = [{"prompt": parts, "completion": [{"role": "assistant", "content": "<think>a</think>Oh."}]}]
    rows += [{"prompt": "Bad day \ud83d", "completion": "Sorry \ude00!"}]
    whole, half = read_pairs(write(in_jsonl="".join(json.dumps(row) + "\n" for row in rows)))
    assert whole == Pair(parts, "<think>a</think>Oh.") and half == Pair("Bad day ", "Sorry !")


def test_a_folder_of_parallel_lists(write):
    folder = write(contexts_json=json.dumps(["a", ["b", "c"]]), responses_json=json.dumps(["x", "y"]))
    assert read_pairs(folder) == [Pair("a", "x"), Pair(["b", "c"], "y")]


def test_predictions_of_an_evaluation(write):
    rows = [
        {"index": 4, "text": "a", "completion": "<answer>x</answer>", "reply": "x", "reference": "z", "reward": None}
    ]
    assert read_pairs(write(predictions_test_jsonl=lines(*rows))) == [Pair("a", "x")]


@pytest.mark.parametrize(
    ("context", "roles"),
    [
        ("a", ["user"]),
        (["a"], ["user"]),
        (["a", "b"], ["assistant", "user"]),
        (["a", "b", "c"], ["user", "assistant", "user"]),
        (MESSAGES, ["assistant", "user"]),
    ],
)
def test_the_last_turn_is_the_one_that_is_replied_to(context, roles):
    messages = Pair(context, "r").messages
    assert [message["role"] for message in messages] == roles
    assert messages == MESSAGES if context is MESSAGES else [m["content"] for m in messages] == list(context)


GOOD = {"context": "a", "response": "x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines(GOOD, {"context": "a"}), r"in\.jsonl, line 2: response is missing; expected a text"),
        (lines(GOOD, {"context": "a", "response": None}), r"in\.jsonl, line 2: response is missing"),
        (lines(GOOD, "", {"context": "a", "response": 7}), r"line 3: response is 7; expected a text"),
        (lines({"prompt": "a", "completion": 7}), r"line 1: completion is 7; expected a text"),
        (lines(GOOD, {"response": "x"}), r"line 2: context is missing"),
        (lines(GOOD, {"context": 5, "response": "x"}), r"line 2: context is 5; expected a text, a list of texts, or"),
        (lines({"context": ["a", MESSAGES[0]], "response": "x"}), r"line 1: context is \['a'"),
        (lines({"context": [{"role": "user"}], "response": "x"}), r"line 1: context is \[\{'role'"),
        (lines({"context": [], "response": "x"}), r"line 1: context is empty"),
        (lines({"context": ["", " "], "response": "x"}), r"line 1: context is empty"),
        (
            lines({"prompt": "a", "response": "x"}),
            r"expected rows with context and response or prompt and completion or text and reply; found prompt",
        ),
    ],
)
def test_bad_rows_are_named_by_their_line(write, content, message):
    with pytest.raises(DataError, match=message):
        read_pairs(write(in_jsonl=content))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"contexts_json": '["a", "b"]', "responses_json": '["x"]'}, "responses.json has 1 entries"),
        ({"contexts_json": '["a", []]', "responses_json": '["x", "y"]'}, "row 2: contexts.json is empty"),
        ({"contexts_json": '["a"]', "responses_json": "[null]"}, "row 1: responses.json is missing"),
        ({"contexts_json": '["a"]', "responses_json": '{"a": "x"}'}, "responses.json: .* is not a JSON list"),
        ({"contexts_json": '["a"]'}, "has no responses.json; expected contexts.json and responses.json"),
    ],
)
def test_bad_folders_are_named_by_file(write, files, message):
    with pytest.raises(UserError, match=message):
        read_pairs(write(**files))


def test_other_files_are_refused_with_the_choices(tmp_path, write):
    with pytest.raises(UserError, match=r"--input: .*nowhere: no such file or folder"):
        read_pairs(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"unknown kind of file; expected a name that ends in \.csv, "):
        read_pairs(write(in_txt="context,response\n"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: expected a table \(\.csv, .*, or a folder with contexts\.json and"):
        read_pairs(tmp_path / "empty")


@pytest.mark.faults
def test_every_format_of_a_table_is_read(tmp_path, write):
    table = Dataset.from_list([GOOD])
    table.save_to_disk(tmp_path / "saved")
    table.to_parquet(tmp_path / "x.parquet")
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), mtime=0))
    csv = write(in_csv='context,response\n"a",x\n')
    for path in (csv, *(tmp_path / name for name in ("saved", "x.parquet", "x.jsonl.gz"))):
        assert read_pairs(path) == [Pair("a", "x")]


@pytest.mark.faults
@pytest.mark.parametrize(
    "cells",
    [
        ("['Hi.', 'I lost my job.']", "Oh."),
        ('["I lost my job."]', "Oh."),
        ("bad day", "[{'role': 'assistant', 'content': 'Oh.'}]"),
        ("[{'content': 'Hi.', 'role': 'user'}\n {'content': 'Bye.', 'role': 'user'}]", "Oh."),  # by datasets
    ],
)
def test_a_list_that_csv_made_a_text_is_not_taken_for_what_somebody_said(tmp_path, cells):
    path = tmp_path / "in.csv"
    pandas.DataFrame([("[sighs] a bad day", "Oh [hugs]."), cells], columns=["prompt", "completion"]).to_csv(
        path, index=False
    )
    for read in (read_pairs, read_completions):
        with pytest.raises(
            UserError, match=r"line 3: list in a cell of text: (prompt|completion) has .*JSON Lines or parquet"
        ):
            read(path)
