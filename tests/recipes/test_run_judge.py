"""The launcher with a judge: it stops with status 2 and a checkpoint, goes on from there, and writes the key nowhere."""

import json
import re
import zlib

import pytest

from tests.models.scripted_server import CUT, ScriptedServer, answer
from tests.recipes.scripts import script, without_pictures

KEY = "s3cret-0123456789-key"
RECIPE = """
# A recipe for tests.
task: grpo
model: {name_or_path: TINY}
data: {name: ed4, path: sample, portion: [0, 0.1]}
evaluation: {batch_size: 8, max_new_tokens: 4, limit: 8}
rewards:
  llm_judge: {base_url: URL, model: m, aspects: [empathy, engagement], api_key_env: JUDGE_KEY, retries: 0, cache_dir: CACHE}
trainer: {max_steps: 3, per_device_train_batch_size: 4, num_generations: 2, max_completion_length: 4, bf16: false, save_strategy: "no", logging_steps: 1, disable_tqdm: true}
"""


run = script("run")


@pytest.fixture
def recipe(tmp_path, tiny_folder, monkeypatch):
    """Return a function that writes the recipe for a server and gives its path."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    without_pictures(monkeypatch)

    def write(url):
        path = tmp_path / "judged.yaml"
        values = {"URL": url, "TINY": str(tiny_folder), "CACHE": str(tmp_path / "cache")}
        path.write_text(re.sub("URL|TINY|CACHE", lambda found: values[found[0]], RECIPE))
        return str(path)

    return write


def grade(request):
    number = zlib.crc32(request["messages"][1]["content"].encode())
    return answer(json.dumps({"empathy": 1 + number % 5, "engagement": 1 + number % 3}))


def test_a_judge_that_dies_stops_the_run_and_the_same_command_goes_on(recipe, tmp_path, capsys):
    requests = []

    def dying(request):
        requests.append(request)
        return grade(request) if len(requests) <= 8 else CUT

    output = tmp_path / "out"
    with ScriptedServer(dying) as server:
        assert run(["--recipe", recipe(server.base_url), "--output_dir", str(output)]) == 2
    said = capsys.readouterr()
    (checkpoint,) = output.glob("*/checkpoint-*")
    assert "error: rewards.llm_judge: " in said.err and f"is saved in {checkpoint}" in said.err

    with ScriptedServer(grade) as server:  # at another address, and given more time: still the same run
        path = recipe(server.base_url)
        assert run(["--recipe", path, "--output_dir", str(output), "--rewards.llm_judge.timeout", "90"]) == 0
    said = capsys.readouterr()
    assert f"resumes from {checkpoint}" in said.out
    rows = [json.loads(line) for line in (checkpoint.parent / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 3]
    for row in rows[:3]:
        assert row["judge/failure_share"] == 0 and 0 <= row["judge/empathy"] <= 1 and "judge/cache_hit_share" in row

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"recipe.yaml", "run.json", "metrics.jsonl", "report.md", "samples.md"} <= {path.name for path in files}
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in said.out + said.err


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("api_key", "rewards.llm_judge.api_key: unknown parameter of llm_judge; did you mean api_key_env?"),
        ("api_key_env", "rewards.llm_judge: api_key_env: contains something that looks like an API key"),
        ("model", "rewards.llm_judge: model: contains something that looks like an API key"),
    ],
)
def test_a_key_in_the_recipe_is_refused_before_anything_is_written(recipe, tmp_path, capsys, parameter, message):
    key, output = "sk-proj-abcdefghijklmnopqrstuvwx", tmp_path / "out"
    path = recipe("http://localhost:1/v1")
    assert run(["--recipe", path, "--output_dir", str(output), f"--rewards.llm_judge.{parameter}", key]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert key not in said.out + said.err
    assert not output.exists()
