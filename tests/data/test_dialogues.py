"""Dialogues: roles, the instruction, knowledge, what is cut first, every kind of source, bad rows."""

import gzip
import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from empathy_trl.data import build, read_split
from empathy_trl.data.dialogues import INSTRUCTION, make_prompt
from empathy_trl.errors import DataError
from empathy_trl.recipe import Data
from empathy_trl.text import truncate_turns

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "empathetic_dialogues"
LISTS = {
    "contexts": [["hi", "hello &amp; welcome", "my dog died"], "I won!", [" ", "it rains"]],
    "targets": ["I am sorry.", "Great!", "Oh no."],
    "instructions": ["", "Be brief.", ""],
    "knowledge": ["", "", "It is autumn."],
}
CONVERSATION = {
    "conv_id": "c1",
    "emotion": "sad",
    "utterances": [
        {"speaker": "speaker", "text": "he left"},
        {"speaker": "listener", "text": "who?"},
        {"speaker": "speaker", "text": "my cat"},
        {"speaker": "listener", "text": "oh dear"},
    ],
}


def section(path, **changes):
    return Data(name="dialogues", path=str(path), **changes)


def write_lists(folder, lists=LISTS, part="train"):
    (folder / part).mkdir(exist_ok=True)
    for name, content in lists.items():
        (folder / part / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def write_conversations(folder, rows, name="train.jsonl"):
    content = "\n".join(map(json.dumps, rows)).encode()
    (folder / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    return folder


@pytest.mark.parametrize(
    "turns, roles",
    [(["a"], ["user"]), (["a", "b"], ["assistant", "user"]), (["a", "b", "c"], ["user", "assistant", "user"])],
)
def test_the_last_turn_is_the_users(turns, roles):
    system, *said = make_prompt(turns, "Do.")
    assert system == {"role": "system", "content": "Do."}
    assert [message["role"] for message in said] == roles and [message["content"] for message in said] == turns


def test_columns_of_parallel_lists(tmp_path):
    rows = build(section(write_lists(tmp_path)), "train", "grpo")
    assert rows.column_names == ["prompt", "text", "reference", "emotion"]
    assert rows["text"] == ["my dog died", "I won!", "it rains"] and rows["reference"] == LISTS["targets"]
    assert rows["prompt"][0] == [
        {"role": "system", "content": INSTRUCTION},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello & welcome"},
        {"role": "user", "content": "my dog died"},
    ]
    assert rows["prompt"][1][0]["content"] == "Be brief."
    assert rows["prompt"][2][0]["content"] == f"{INSTRUCTION}\n[KNOWLEDGE] It is autumn."
    warm = build(section(tmp_path), "train", "sft")
    assert warm["completion"][1] == [{"role": "assistant", "content": "Great!"}]
    assert set(rows["emotion"]) == {None} and rows.features["emotion"].dtype == "string"


def test_an_instruction_of_the_recipe_replaces_ours_but_not_a_rows_own(tmp_path):
    rows, _ = read_split(section(write_lists(tmp_path), instruction="Listen."), "train")
    assert [row["instruction"] for row in rows] == ["Listen.", "Be brief.", "Listen."]


def test_instructions_and_knowledge_may_be_missing(tmp_path):
    lists = {name: LISTS[name] for name in ("contexts", "targets")}
    rows, report = read_split(section(write_lists(tmp_path, lists)), "train")
    assert {row["knowledge"] for row in rows} == {""} and report.used == 3


@pytest.mark.parametrize(
    "max_words, expected",
    [
        (9, ["one two", "three four five", "six seven"]),
        (7, ["one two", "three four five", "six seven"]),
        (6, ["three four five", "six seven"]),
        (4, ["six seven"]),
        (1, ["seven"]),
    ],
)
def test_the_oldest_turns_go_first_and_whole(max_words, expected):
    assert truncate_turns(["one two", "three four five", "six seven"], max_words) == expected


def test_a_turn_that_is_too_long_ends_the_context_although_an_older_one_would_fit():
    assert truncate_turns(["a", "b c d e", "f"], 3) == ["f"]


def test_the_instruction_is_never_cut(tmp_path):
    lists = LISTS | {"instructions": ["very long " * 50] * 3}
    rows, report = read_split(section(write_lists(tmp_path, lists), max_words=2), "train")
    assert rows[0]["turns"] == ["dog died"] and len(rows[0]["instruction"].split()) == 100
    assert report.shortened == 1


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_names_of_the_validation_folder(tmp_path, name):
    assert len(read_split(section(write_lists(tmp_path, part=name)), "valid")[0]) == 3


@pytest.mark.parametrize("name", ["test.jsonl", "test.jsonl.gz"])
def test_everything_a_listener_says_is_a_sample(tmp_path, name):
    rows, report = read_split(section(write_conversations(tmp_path, [CONVERSATION], name)), "test")
    assert [(row["turns"], row["reference"], row["emotion"]) for row in rows] == [
        (["he left"], "who?", "sad"),
        (["he left", "who?", "my cat"], "oh dear", "sad"),
    ]
    assert report.read == 2


def test_the_hub(monkeypatch):
    columns = {
        "conv_id": ["c1", "c1", "c2", "c1", "c2"],
        "utterance_idx": [2, 1, 1, 3, 2],
        "context": ["sad", "sad", "proud", "sad", "proud"],
        "prompt": ["p"] * 5,
        "speaker_idx": [7, 3, 9, 3, 4],
        "utterance": ["who_comma_ then?", "he left", "a medal", "my cat", "great"],
    }
    splits = DatasetDict({"validation": Dataset.from_dict(columns)})
    monkeypatch.setattr("datasets.load_dataset", lambda name, revision: splits)
    rows, report = read_split(section("facebook/empathetic_dialogues"), "valid")
    assert [(row["turns"], row["reference"], row["emotion"]) for row in rows] == [
        (["he left"], "who, then?", "sad"),
        (["a medal"], "great", "proud"),
    ]
    assert "split validation" in report.source


@pytest.mark.parametrize(
    "name, entry, message",
    [
        ("contexts", [], r"row 2: empty context: nothing is left of \[\] in contexts\.json after cleaning"),
        ("contexts", ["", " \u200b"], r"row 2: empty context: nothing is left of \['', "),
        ("contexts", "<br>", r"row 2: empty context: nothing is left of '<br>' in contexts\.json"),
        ("contexts", ["a", 3], r"row 2: context is no text: contexts\.json has \['a', 3\]; expected a list of texts"),
        ("contexts", None, r"row 2: context is no text: contexts\.json has null"),
        ("contexts", {"a": 1}, r"row 2: context is no text: contexts\.json has \{'a': 1\}"),
        ("targets", " ", r"row 2: empty target: nothing is left of ' ' in targets\.json"),
        ("targets", 5, r"row 2: target is no text: targets\.json has 5; expected a text"),
        ("instructions", 1, r"row 2: no text: instructions\.json has 1; expected a text, or an empty one for none"),
        ("knowledge", ["k"], r"row 2: no text: knowledge\.json has \['k'\]"),
    ],
)
def test_bad_rows_name_file_and_row(tmp_path, name, entry, message):
    entries = [LISTS[name][0], entry, LISTS[name][2]]
    write_lists(tmp_path, LISTS | {name: entries})
    with pytest.raises(DataError, match=rf"train: 1 of 3 rows cannot be used(.|\n)*{message}"):
        read_split(section(tmp_path), "train")
    rows, report = read_split(section(tmp_path, on_bad_rows="drop"), "train")
    assert len(rows) == 2 and sum(report.dropped.values()) == 1


@pytest.mark.parametrize(
    "lists, message",
    [
        (LISTS | {"targets": ["a", "b"]}, r"train: targets\.json has 2 entries, contexts\.json has 3; entries with the same index"),
        (LISTS | {"knowledge": ["a"] * 4}, r"knowledge\.json has 4 entries, contexts\.json has 3"),
        (LISTS | {"contexts": '{"a": 1}'}, r"contexts\.json: '\{\"a\": 1\}' is not a JSON list"),
        (LISTS | {"contexts": "[1, "}, r"contexts\.json: not JSON: .*; expected one JSON list"),
        (LISTS | {"targets": []}, r"targets\.json: the list is empty"),
        ({"contexts": ["a"]}, r"train has no targets\.json \(files found: contexts\.json\)"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used(tmp_path, lists, message):
    with pytest.raises(DataError, match=message):
        read_split(section(write_lists(tmp_path, lists)), "train")


@pytest.mark.parametrize(
    "row, message",
    [
        ({"utterances": "he left"}, r"line 2: no conversation: utterances has 'he left'; expected a list of \{speaker, text\}"),
        ({"utterances": [{"text": "a"}]}, r"line 2: no conversation: utterances has \[\{'text': 'a'\}\]"),
        ({"emotion": "sad"}, r"line 2: no conversation: utterances has null"),
        ({"utterances": [{"speaker": "speaker", "text": "a"}, {"speaker": "listener", "text": ""}]}, r"line 2, utterance 2: empty target: nothing is left of '' in target"),
        ({"utterances": [{"speaker": "listener", "text": "a"}]}, r"line 2, utterance 1: empty context"),
        ({"utterances": [{"speaker": "speaker", "text": "a"}, {"speaker": "Listener", "text": "b"}]}, r"line 2: unknown speaker: 'Listener' in utterance 2; expected speaker or listener"),
        ({"utterances": [{"speaker": ["speaker"], "text": "a"}]}, r"unknown speaker: \['speaker'\] in utterance 1"),
        ({"emotion": ["sad"], "utterances": CONVERSATION["utterances"][:2]}, r"line 2, utterance 2: no text: emotion has \['sad'\]"),
    ],
)  # fmt: skip
def test_bad_conversations(tmp_path, row, message):
    write_conversations(tmp_path, [CONVERSATION, row])
    with pytest.raises(DataError, match=message):
        read_split(section(tmp_path), "train")
    assert len(read_split(section(tmp_path, on_bad_rows="drop"), "train")[0]) == 2


@pytest.mark.faults
def test_empathetic_dialogues_as_published_from_a_folder(tmp_path):
    header = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags\n"
    turns = [
        ("10", "7", "Bye."),
        ("2", "9", '"Oh no_comma_ really?'),
        ("1", "7", "I fell_comma_ twice."),
        ("x", "9", "?"),
    ]
    lines = [f"c1,{number},sad,steps_comma_ dark,{who},{text},5|5,\n" for number, who, text in turns]
    (tmp_path / "validation.csv").write_text(header + "".join(lines))
    with pytest.raises(
        DataError, match=r"line 5: no place in the conversation: utterance_idx is 'x'; expected a whole"
    ):
        read_split(section(tmp_path), "valid")
    (row,), report = read_split(section(tmp_path, on_bad_rows="drop"), "valid")
    assert (row["turns"], row["reference"], row["emotion"]) == (["I fell, twice."], '"Oh no, really?', "sad")
    assert report.dropped == {"no place in the conversation": 1}


@pytest.mark.faults
@pytest.mark.parametrize("name", ["train.jsonl", "train.json", "train.jsonl.gz", "train.parquet", "saved"])
def test_conversations_in_every_format(tmp_path, name):
    path = tmp_path / name
    if name == "saved":
        DatasetDict({"train": Dataset.from_list([CONVERSATION])}).save_to_disk(path)
    elif name == "train.parquet":
        Dataset.from_list([CONVERSATION]).to_parquet(path)
    else:
        text = "\ufeff" + json.dumps([CONVERSATION] if name == "train.json" else CONVERSATION)
        path.write_bytes(gzip.compress(text.encode(), mtime=0) if name.endswith("gz") else text.encode())
    assert len(read_split(section(path if name == "saved" else tmp_path), "train")[0]) == 2


@pytest.mark.faults
def test_lists_may_be_gzipped(tmp_path):
    write_lists(tmp_path)
    for path in (tmp_path / "train").iterdir():
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path.unlink()
    assert len(read_split(section(tmp_path), "train")[0]) == 3


def test_nobody_listens(tmp_path):
    write_conversations(tmp_path, [CONVERSATION | {"utterances": CONVERSATION["utterances"][:1]}])
    with pytest.raises(DataError, match=r"train\.jsonl: no listener answers in any of 1 conversations"):
        read_split(section(tmp_path), "train")


def test_half_a_character_in_the_name_of_an_emotion_is_left_out(tmp_path):
    write_conversations(tmp_path, [CONVERSATION | {"emotion": "\ud800sad"}])
    assert set(build(section(tmp_path), "train", "grpo")["emotion"]) == {"sad"}


def test_places_that_hold_no_dialogues(tmp_path):
    with pytest.raises(DataError, match=r"has no table called train \(\.csv, .*; found: none\)"):
        read_split(section(tmp_path), "train")
    write_lists(tmp_path)
    with pytest.raises(DataError, match=r"has no folder valid or validation or val or dev \(files found: train\)"):
        read_split(section(tmp_path), "valid")
    write_lists(tmp_path, part="val")
    write_lists(tmp_path, part="valid")
    with pytest.raises(DataError, match="has several folders for the split valid: valid, val; keep one"):
        read_split(section(tmp_path), "valid")


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the shared data are not here")
def test_the_real_empathetic_dialogues():
    sizes = {split: read_split(section(REAL), split)[1].used for split in ("train", "valid", "test")}
    assert sizes == {"train": 40274, "valid": 5732, "test": 5257}
    rows, report = read_split(section(REAL, max_words=30), "test")
    assert max(sum(len(turn.split()) for turn in row["turns"]) for row in rows) <= 30 < report.shortened
    assert len({row["emotion"] for row in rows}) == 32


@pytest.mark.faults
def test_no_turn_gets_the_other_persons_role_or_a_thought(tmp_path):
    lists = {
        "contexts": [["he left", " ", "last May"], ["hi", "<think>a</think>hello", "<br>", "who?", "<think>me"]],
        "targets": ["<think>b</think>oh", "you"],
    }
    rows, _ = read_split(section(write_lists(tmp_path, lists)), "train")
    assert [row["turns"] for row in rows] == [["he left last May"], ["hi", "hello who?", "me"]]
    said = [
        ("speaker", "he left"),
        ("speaker", "last May"),
        ("listener", "<think>who?</think>oh"),
        ("listener", "who?"),
        ("speaker", "me"),
    ]
    utterances = [{"speaker": speaker, "text": text} for speaker, text in [*said, ("listener", "you")]]
    (tmp_path / "more").mkdir()
    rows, _ = read_split(section(write_conversations(tmp_path / "more", [{"utterances": utterances}])), "train")
    assert [(row["turns"], row["reference"]) for row in rows] == [
        (["he left last May"], "oh who?"),
        (["he left last May", "oh who?", "me"], "you"),
    ]


@pytest.mark.faults
@pytest.mark.parametrize(
    "numbers, message",
    [
        (
            [2, 3, 4],
            r"conversation from line 2: broken conversation: its first utterance has utterance_idx 2; expected 1",
        ),
        ([1, 2, 4], r"between utterance_idx 2 and 4, the answer of the other person is missing"),
        ([1, 2, 2, 3], r"utterance_idx 2 is in line 3 and line 4; expected each number once"),
    ],
)
def test_broken_conversations_of_empathetic_dialogues(tmp_path, numbers, message):
    rows = [("c1", number) for number in numbers] + [("c2", 1), ("c2", 2)]
    lines = [f"{conversation},{number},sad,p,{number % 2},text {number}\n" for conversation, number in rows]
    (tmp_path / "train.csv").write_text("conv_id,utterance_idx,context,prompt,speaker_idx,utterance\n" + "".join(lines))
    with pytest.raises(DataError, match=message):
        read_split(section(tmp_path), "train")
    kept, report = read_split(section(tmp_path, on_bad_rows="drop"), "train")
    assert len(kept) == 1 and report.dropped == {"broken conversation": 1}
