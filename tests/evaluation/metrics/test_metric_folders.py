"""Every metric's folder: it loads by its path, also elsewhere, and its README is complete and true."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import yaml

from empathy_trl.data.labelled import MECHANISMS
from empathy_trl.errors import UserError
from empathy_trl.evaluation.metrics import NAMES, path
from tests.evaluation.metrics.loaded import load
from tests.models.scripted_server import ScriptedServer, reply_of
from tests.models.scripted_server import answer as scripted

HEADINGS = [
    "## Metric description",
    "## How to use",
    "### Inputs",
    "### Output values",
    "## What cheats it, and limits",
    "## Source",
]
FIELDS = {"title": str, "tags": list, "description": str}


def readme(name):
    _, front, text = (Path(path(name)) / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def test_every_folder_is_a_metric():
    folders = {entry.name for entry in Path(path(NAMES[0])).parent.iterdir() if (entry / "README.md").is_file()}
    assert folders == set(NAMES)


def test_an_unknown_metric_lists_the_choices():
    with pytest.raises(UserError, match=r"unknown metric 'distinct' \(choices: distinct_n, item_ratio, "):
        path("distinct")


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_by_its_path_and_so_does_a_copy_elsewhere(name, tmp_path):
    metric = load(name)
    assert metric.name == name and isinstance(metric, evaluate.Metric)
    assert list(metric.features) == list(metric.inputs)
    assert all(f"{word}:" in metric.inputs_description for word in metric.inputs)
    shutil.copytree(path(name), tmp_path / name)
    assert metric.citation and evaluate.load(str(tmp_path / name)).description == metric.description != ""


def test_all_load_offline_in_a_fresh_process_without_a_cache(tmp_path):
    code = (
        "import socket\n"
        "def refuse(*a): raise SystemExit(f'asked the network: {a}')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import evaluate\n"
        "from empathy_trl.evaluation.metrics import NAMES, path\n"
        "print(*(evaluate.load(path(name)).name for name in NAMES))\n"
    )
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], check=False, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == list(NAMES), done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_has_front_matter_and_every_section(name):
    front, text = readme(name)
    assert {key: type(value) for key, value in front.items()} == FIELDS
    assert front["tags"] == ["evaluate", "metric"]
    assert re.findall(r"^##+ .*$", text, flags=re.MULTILINE) == HEADINGS


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_names_every_input_and_setting(name):
    _, text = readme(name)
    tree = ast.parse((Path(path(name)) / f"{name}.py").read_text(encoding="utf-8"))
    compute = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "_compute")
    named = [argument.arg for argument in compute.args.args if argument.arg != "self"]
    assert not [each for each in named if f"- `{each}` (" not in text]


@pytest.fixture
def placeholders(request, make_classifier):
    """What a README's snippet names and a machine may not have -> what stands in for it here."""
    if request.node.callspec.params["name"] == "judge_aspects":
        scores = {
            "emotional_intensity": 9,
            "emotional_persuasiveness": 9,
            "logic": 9,
            "informativeness": 9,
            "lifelikeness": 9,
        }
        give = lambda request: scripted(
            str(scores if "heart" in reply_of(request) else dict.fromkeys(scores, 0)).replace("'", '"')
        )
        with ScriptedServer(give) as server:
            yield {"http://localhost:8000/v1": server.base_url}
        return
    labels = {"so sorry": "sad", "great": "joyful", "ok": "sad"}
    scores = {text: [4.0 * (label == "sad"), 4.0 * (label == "joyful")] for text, label in labels.items()}
    emotion = make_classifier(scores, "emotion", id2label={0: "sad", 1: "joyful"}, num_labels=2)
    intents = ["consoling", "agreeing", "questioning"]
    scores = dict(zip(["so sorry", "great", "how"], (4 * np.eye(3)).tolist(), strict=True)) | {"ok": [0.0, 4.0, 0.0]}
    intent = make_classifier(scores, "intent", id2label=dict(enumerate(intents)), num_labels=3)
    level = lambda *levels: np.concatenate([np.eye(3)[each] * 4 for each in levels]).tolist()
    scores = {
        ("my dog died", "so sorry"): level(2, 1, 0),
        ("i won", "ok"): level(0, 1, 0),
        ("i won", "great"): level(1, 1, 0),
    }
    epitome = make_classifier(
        scores, "epitome", label_groups=[[mechanism, ["0", "1", "2"]] for mechanism in MECHANISMS]
    )
    yield {
        f"outputs/{recipe}_tiny/classify": folder
        for recipe, folder in (("emotion32", emotion), ("intent9", intent), ("epitome", epitome))
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_snippet_of_the_readme_prints_what_it_says(name, placeholders, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("EMPATHY_TRL_CACHE", str(tmp_path))
    _, text = readme(name)
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    for written, stand_in in placeholders.items():
        code = code.replace(written, stand_in)
    exec(compile(code, name, "exec"), {})  # noqa: S102
    promised = re.findall(r"^print\(.*\)  # (.+)$", code, flags=re.MULTILINE)
    assert promised and capsys.readouterr().out.splitlines() == promised
