"""recipes/explain.py: a table for a recipe and a file, and one line for whatever is wrong."""

import csv
import gzip
import json
from pathlib import Path

import pytest
from datasets import Dataset

from tests.recipes.scripts import script

main = script("explain")

RECIPE = """\
# A recipe for tests.
data: {name: ed4}
stages:
  first:
    task: sft
    model: {name_or_path: tiny/model}
  second:
    task: grpo
    model: {name_or_path: "stage:first"}
    rewards:
      emotion_accuracy: {weight: {start: 0.0, end: 2.0, until: 0.5}}
      sentence_end: {weight: 0.5, reply_tags: []}
"""
ROWS = [
    {"prompt": "p", "completion": "<answer>sad</answer>.", "label": "sad"},
    {"prompt": [{"role": "user", "content": "q"}], "completion": "oh\u2028no", "label": None},
]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE)
    Path("rows.jsonl").write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n")
    return tmp_path


def run(*arguments, completions="rows.jsonl"):
    return main(["--recipe", "small.yaml", "--completions", completions, *arguments])


def test_table_on_the_screen(workplace, capsys):
    assert run("--progress", "0.25") == 0
    assert capsys.readouterr().out.rstrip().split("\n") == [
        "        emotion_accuracy  sentence_end  total  completion",
        "weight             1.000         0.500",
        "1                  1.000         1.000  1.500  <answer>sad</answer>.",
        "2                   none         0.000  0.000  oh no",
        "mean               1.000         0.500  0.750  of 2 completions",
        "invalid_share: 0.500",
    ]


def test_overrides_and_csv(workplace, capsys):
    overrides = ["--stages.second.rewards.sentence_end", "null", "--stages.second.rewards.emotion_accuracy.weight=3"]
    assert run("--stage", "second", "--csv", "deep/table.csv", *overrides) == 0
    assert "written to deep/table.csv" in capsys.readouterr().out
    with open("deep/table.csv", encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"prompt": "p", "completion": "<answer>sad</answer>.", "emotion_accuracy": "1.0", "total": "3.0"},
            {"prompt": "q", "completion": "oh\u2028no", "emotion_accuracy": "", "total": ""},
        ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "p", "completion": "c"}\n\n{"prompt": }\n', "bad.jsonl, line 3: not JSON"),
        ('\n{"prompt": "p"}\n', "bad.jsonl, line 2: has no `completion` (keys: prompt)"),
        ("{}", "bad.jsonl, line 1: has no `prompt` (keys: none)"),
        ("[1]", "bad.jsonl: no row is a JSON object; row 1: 1"),
        ('{"prompt": 3, "completion": "c"}', "line 1: `prompt` is neither a text nor a list of messages"),
        ('{"prompt": "p", "completion": null}', "line 1: `completion` is neither a text nor"),
        ('{"prompt": "p", "completion": [{"content": "c"}]}', "line 1: `completion` is neither"),
        ('{"prompt": "p", "completion": "c", "prompts": 1}', "line 1: a column cannot be called `prompts`"),
        ('{"prompt": "p", "completion": "c", "label": "sad"}\n{"prompt": "p", "completion": "c"}', "bad.jsonl, line 2: has no `label`, unlike the first row; null says"),
        ('{"prompt": "p", "completion": "c"}\n{"prompt": "p", "completion": "c", "label": "sad"}', "bad.jsonl, line 2: has a `label`, unlike the first row"),
        ("\n", "bad.jsonl: the file is empty; expected one JSON object"),
        ('{"prompt": "p", "completion": "c"}', "rewards.emotion_accuracy: needs a column `label` in the data"),
    ],
)  # fmt: skip
def test_bad_files(workplace, capsys, content, message):
    Path("bad.jsonl").write_text(content)
    assert run(completions="bad.jsonl") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error


@pytest.mark.faults
@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.json", "x.csv", "x.parquet", "saved"])
def test_completions_in_every_format(workplace, capsys, name):
    row = {"prompt": "p", "completion": "<answer>sad</answer>.", "label": "sad"}
    text = "\ufeff" + {"x.csv": ",".join(row) + "\n" + ",".join(row.values()), "x.json": json.dumps([row])}.get(
        name, json.dumps(row)
    )
    if name == "saved":
        Dataset.from_list([row]).save_to_disk(name)
    elif name == "x.parquet":
        Dataset.from_list([row]).to_parquet(name)
    else:
        Path(name).write_bytes(gzip.compress(text.encode(), mtime=0) if name.endswith("gz") else text.encode())
    assert run(completions=name) == 0
    assert "1.000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--completions", "nowhere.jsonl"], "--completions: nowhere.jsonl: no such file or folder"),
        (["--completions", "latin.jsonl"], "latin.jsonl, line 1: byte 0xe9 at offset 0 is not UTF-8"),
        (["--recipe", "other.yaml"], "other.yaml: no such recipe"),
        (["--stage", "third"], "--stage third: no such stage in small (choices: first, second)"),
        (["--stage", "first"], "--stage first: has no rewards (stages that have: second)"),
        (["--progress", "2"], "progress: 2.0 is not between 0 and 1"),
        (["--stages.second.rewards.sentence_nd", "{}"], "unknown reward; did you mean sentence_end?"),
        (["--csv", "small.yaml/table.csv"], "--csv: cannot write small.yaml/table.csv: "),
        (["--stages.second.rewards.emotion_confidence", "{}"], "rewards.emotion_confidence: needs a policy"),
    ],
)
def test_what_the_user_can_fix(workplace, capsys, arguments, message):
    Path("latin.jsonl").write_bytes(b"\xe9")
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error


def test_a_stage_that_was_not_trained_here(workplace, capsys):
    assert main(["--recipe", "wassa_tiny", "--completions", "rows.jsonl"]) == 2
    error = capsys.readouterr().err
    assert "rewards.empathy_model.model: stage reward has no model in outputs/wassa_tiny/reward" in error
    assert "--stages.grpo.rewards.empathy_model.model FOLDER" in error
