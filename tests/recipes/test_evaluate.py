"""recipes/evaluate.py: from the command line to files, and one clear line for whatever the user got wrong."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from empathy_trl.commands import evaluate as commands
from empathy_trl.io import read_rows
from empathy_trl.models.tiny import build_model
from empathy_trl.recipe import FromScratch, Lora, Model
from tests.models.livelier import make_livelier
from tests.models.scripted_server import CUT, ScriptedServer, answer, chat, picky
from tests.recipes.scripts import ROOT, without_pictures

KEY = "s3cret-0123456789-key"
RECIPE = """\
# A recipe for tests.
data: {name: ed4}
evaluation: {max_new_tokens: 3, batch_size: 4, limit: 5}
stages:
  first:
    task: sft
    model: {name_or_path: tiny/model}
  second:
    task: grpo
    model: {name_or_path: "stage:first"}
    rewards: {emotion_accuracy: {}}
"""


@pytest.fixture
def workplace(tmp_path, tiny_folder, monkeypatch):
    """A folder with a recipe, and a model below outputs/."""
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    without_pictures(monkeypatch)
    Path("small.yaml").write_text(RECIPE)
    Path("outputs/small").mkdir(parents=True)
    Path("outputs/small/second").symlink_to(tiny_folder)
    Path("model").symlink_to(tiny_folder)
    return tmp_path


def run(*arguments):
    return commands.evaluate(["--recipe", "small.yaml", *arguments])


def evaluation(folder, split="test"):
    return json.loads(Path(folder, f"eval_{split}.json").read_text())


def test_files_go_where_they_are_told(workplace, capsys):
    assert run("--model", "model", "--output_dir", "here", "--split", "valid", "--limit", "3") == 0
    result = evaluation("here", "valid")
    assert [result["data"][key] for key in ("source", "split", "n")] == ["sample", "valid", 3]
    assert [result[key] for key in ("recipe", "stage", "model")] == ["small", "second", "model"]
    assert sorted(path.name for path in Path("here").iterdir()) == [
        "confusion_valid.png",
        "eval_valid.json",
        "predictions_valid.jsonl",
    ]
    output = capsys.readouterr().out
    assert "small / second: valid of sample (n = 3)" in output and "written to here" in output


def test_defaults_come_from_the_stage_and_overrides_reach_it(workplace):
    arguments = ["--stage", "first", "--seed", "11", "--evaluation.limit=4", "--evaluation.split", "train"]
    assert run("--model", "model", *arguments) == 0
    result = evaluation("outputs/small/evaluations/model", "train")
    assert (result["stage"], result["seed"], result["data"]["n"]) == ("first", 11, 4)


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ("outputs/small/second", "outputs/small/evaluations/second"),
        ("elsewhere/mine/", "outputs/small/evaluations/mine"),
        ("USER/NAME-2b", "outputs/small/evaluations/NAME-2b"),
        ("gpt2", "outputs/small/evaluations/gpt2"),
        ("openai:gpt-4o", "outputs/small/evaluations/gpt-4o"),
        ("openai:Qwen/Qwen3-8B", "outputs/small/evaluations/Qwen3-8B"),
        ("USER/NAME@v1.0", "outputs/small/evaluations/NAME_v1.0"),
        ("openai:..", "outputs/small/evaluations/_"),
    ],
)
def test_default_output_folder_is_never_that_of_a_stage(model, folder):
    recipe = SimpleNamespace(name="small")
    assert commands._output_folders([model], recipe, None) == {model: Path(folder)}


def test_the_evaluated_model_replaces_origin_and_revision_only():
    scratch = FromScratch(architecture="qwen2", hidden_size=16, layers=1, vocab_size=300)
    made = Model(from_scratch=scratch, dtype="float16")
    assert commands._evaluated_model(made, "x") == Model(name_or_path="x", dtype="float16")
    base = Model(name_or_path="USER/base", revision="v1", load_in_4bit=True, lora=Lora())
    assert commands._evaluated_model(base, "x") == Model(name_or_path="x", load_in_4bit=True)
    assert commands._evaluated_model(base, "USER/base").revision == "v1"
    assert commands._evaluated_model(base, "USER/base@v2").revision == "v2"
    assert commands._evaluated_model(base, "USER/x@v2") == Model(name_or_path="USER/x@v2", load_in_4bit=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "outputs/small/grop"], "outputs/small/grop: no such folder"),
        (["--model", "outputs/small"], "outputs/small: "),
        (["--model", "model", "--stage", "third"], "--stage third: no such stage in small (choices: first, second)"),
        (["--model", "model", "--data.pth", "x"], "data.pth: unknown key; did you mean path?"),
        (["--model", "model", "--data.path", "missing"], "missing"),
        (["--model", "model", "--recipe", "other.yaml"], "other.yaml: no such recipe"),
        (["--model", "model", "--base_url", "http://localhost/v1"], "--base_url: is for --model openai:NAME, got --model model"),
        (["--model", "model", "--sampling", '{"seed": 1}'], "--sampling: is for --model openai:NAME, got --model model"),
        (["--model", "openai:m", "--sampling", '{"n": 2}'], "sampling: n cannot be set here"),
        (["--model", "model", "--output_dir", "small.yaml/x"], "--output_dir: cannot write to small.yaml/x: Not a directory"),
        (["--model", "openai:"], "model openai:: expected the model's name"),
        (["--model", "openai:m", "--base_url", "nowhere"], "base_url: expected the address of a server"),
        (["--model", "openai:m", "--base_url", "http://judge.invalid/v1"], "the environment variable OPENAI_API_KEY is not set"),
    ],
)  # fmt: skip
def test_what_the_user_can_fix_is_one_error_without_a_traceback(workplace, capsys, arguments, message):
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "m", "--split", "tset"], "invalid choice: 'tset'"),
        (["--model", "m", "--limit", "0"], "argument --limit: got '0', expected a whole number above 0"),
        (["--model", "m", "--limit", "-3"], "argument --limit: got '-3', expected"),
        (["--model", "m", "--batch_size", "4.5"], "argument --batch_size: got '4.5', expected"),
        ([], "the following arguments are required: --model"),
    ],
)
def test_wrong_arguments_end_with_status_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_a_model_behind_a_server_is_evaluated_the_same_way(workplace, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ScriptedServer([answer("<reasoning>so it is</reasoning><answer>sad</answer>")]) as server:
        assert run("--model", "openai:org/m", "--base_url", server.base_url, "--batch_size", "2") == 0
    result = evaluation("outputs/small/evaluations/m")
    rows = read_rows(Path("outputs/small/evaluations/m/predictions_test.jsonl"))
    assert (result["model"], result["data"]["n"], len(server.requests)) == ("openai:org/m", 5, 5)
    assert {row["prediction"] for row in rows} == {"sad"}
    assert result["metrics"]["accuracy"]["value"] == sum(row["label"] == "sad" for row in rows) / 5
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    request = server.requests[0]
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("org/m", 0, 3)
    assert server.most_at_once <= 2
    assert not [path for path in Path("outputs").rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


@pytest.mark.faults
def test_the_request_is_the_users_to_shape_and_recorded(workplace, capsys):
    sampling = {"max_tokens": None, "max_completion_tokens": 9, "temperature": None, "top_p": 0.5}
    with ScriptedServer(lambda request: picky(request) or answer("<answer>sad</answer>")) as server:
        arguments = ("--model", "openai:m", "--base_url", server.base_url)
        assert run(*arguments) == 2
        error = capsys.readouterr().err
        advice = """does not accept max_tokens: 3; change the request with --sampling '{"max_tokens": null, "max_completion_tokens": 3}'"""
        assert f"error: model openai:m: the server {advice}" in error
        assert run(*arguments, "--sampling", json.dumps(sampling)) == 0
    assert "made with other settings; starting over" in capsys.readouterr().out, (
        "what another request got is not reused"
    )
    data = evaluation("outputs/small/evaluations/m")["data"]
    assert data["sampling"] == {"max_completion_tokens": 9, "top_p": 0.5}
    assert data["decoding"] == "sampled at the server's own temperature, top-p 0.5"


@pytest.mark.faults
def test_a_thought_that_takes_all_tokens_is_counted_and_told(workplace, capsys):
    with ScriptedServer([answer(chat(None, "length"))]) as server:
        assert run("--model", "openai:m", "--base_url", server.base_url, "--output_dir", "cut") == 0
    told = "5 of 5 completions were cut off at the maximum length (evaluation.max_new_tokens)"
    assert told in capsys.readouterr().out and evaluation("cut")["data"]["cut_off"] == 5


def test_a_server_that_fails_ends_the_evaluation(workplace, monkeypatch, capsys):
    with ScriptedServer([answer("<answer>sad</answer>"), CUT]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setattr("empathy_trl.models.api.ApiModel.__init__.__defaults__", (None, 5.0, 0, 0.0))
        assert run("--model", "openai:m", "--batch_size", "1") == 2
    error = capsys.readouterr().err
    assert f"error: model openai:m: {server.base_url} left a prompt without an answer (broken connection: " in error
    left = [path.name for path in Path("outputs/small/evaluations/m").iterdir()]
    assert left == ["predictions_test.partial.jsonl"], "no figures of a part of the rows"


@pytest.mark.parametrize("content", ["{", "[]", '{"recipe": "other"}'])
def test_a_folder_with_a_broken_record_is_no_stage(workplace, content):
    Path("elsewhere/first").mkdir(parents=True)
    Path("elsewhere/first/run.json").write_text(content)
    recipe = SimpleNamespace(name="small", stages={"first": None})
    assert commands._stage_folders("elsewhere/second", recipe) == {"first": Path("outputs/small/first")}


@pytest.mark.parametrize("recipe", ["intent9_tiny", "wassa_reward_tiny"])
def test_heads_cannot_be_asked_over_a_server(workplace, capsys, recipe):
    assert commands.evaluate(["--recipe", recipe, "--model", "openai:m"]) == 2
    assert "whose answers come from a head of the model; a server gives texts only" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_the_same_evaluation_as_one(workplace):
    assert run("--model", "model", "--output_dir", "one") == 0
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", ROOT / "recipes" / "evaluate.py"]
    command = [*launch, "--recipe", "small.yaml", "--model", "model", "--output_dir", "two"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert evaluation("two") == evaluation("one")
    assert Path("two/predictions_test.jsonl").read_text() == Path("one/predictions_test.jsonl").read_text()
    assert result.stdout.count("macro-F1") == 1, "only the main process prints"


@pytest.fixture
def two_models(workplace, tiny_folder):
    """Two folders whose names end alike."""
    for run_of in ("one", "other"):
        Path(run_of).mkdir()
        Path(run_of, "grpo").symlink_to(tiny_folder)
    return ["one/grpo", "other/grpo"]


def test_several_models_have_a_folder_each_and_one_table(two_models, capsys):
    assert run("--model", *two_models, "--output_dir", "here", "--limit", "3") == 0
    assert sorted(path.name for path in Path("here").iterdir()) == ["one_grpo", "other_grpo"]
    assert [evaluation(f"here/{name}")["model"] for name in ("one_grpo", "other_grpo")] == two_models
    output = capsys.readouterr().out
    assert "model 1 of 2: one/grpo" in output and "model 2 of 2: other/grpo" in output
    head, *rows = output.splitlines()[-3:]
    assert head.split() == ["model", "accuracy", "[95", "%],", "n", "=", "3"]
    assert [row.split()[0] for row in rows] == two_models
    assert "back end: transformers (the choice on a CPU)" in output


def test_a_model_that_fails_does_not_lose_the_others(two_models, capsys):
    Path("broken").mkdir()
    assert run("--model", "one/grpo", "broken", "model", "--limit", "3") == 2
    assert evaluation("outputs/small/evaluations/grpo")["model"] == "one/grpo"
    assert evaluation("outputs/small/evaluations/model")["model"] == "model"
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("error: broken: not evaluated: broken: ")
    assert captured.out.splitlines()[-1].split() == ["broken", "failed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "model", "outputs/small/grop"], "outputs/small/grop: no such folder"),
        (["--model", "model", "model"], "--model model: named twice; expected every model once"),
        (["--model", "model", "./model"], "--model model: named twice; expected every model once"),
        (["--model", "model", "--backend", "vllm"], '--backend vllm: vLLM is not installed: pip install "empathy-trl[vllm]"'),
        (["--model", "openai:m", "--backend", "transformers"], "--backend transformers: --model openai:m generates on its server"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_one_model_is_said_before_any_is_evaluated(
    workplace, monkeypatch, capsys, arguments, message
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("empathy_trl.models.generate._vllm_installed", lambda: False)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ")
    assert not Path("outputs/small/evaluations").exists()


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize(
    ("model", "rows"), [("lively", 60), (ROOT / "models" / "smollm2-135m", 20)], ids=["tiny", "smollm2"]
)
def test_greedy_completions_of_vllm_are_those_of_padded_batches(workplace, model, rows):
    if model == "lively":
        tokenizer = AutoTokenizer.from_pretrained("model")
        shape = SimpleNamespace(architecture="qwen2", hidden_size=64, layers=2, heads=2, max_length=1024)
        tiny = build_model(shape, tokenizer, seed=0)
        make_livelier(tiny)
        tiny.save_pretrained(model)
        tokenizer.save_pretrained(model)
    elif not model.is_dir():
        pytest.skip("run `make small-models` first")
    for backend in ("transformers", "vllm"):
        length = ["--evaluation.max_new_tokens", "24", "--evaluation.batch_size", "8", "--limit", str(rows)]
        assert run("--model", str(model), "--backend", backend, "--output_dir", backend, *length) == 0
    expected, found = (read_rows(Path(backend, "predictions_test.jsonl")) for backend in ("transformers", "vllm"))
    assert len(found) == rows and found == expected
    assert len({row["completion"] for row in found}) > rows / 2


def test_an_interrupted_evaluation_is_continued_by_the_same_command(workplace, monkeypatch, capsys):
    from transformers import Qwen2ForCausalLM

    usual, batches = Qwen2ForCausalLM.generate, []

    def second_is_interrupted(self, input_ids, **settings):
        batches.append(len(input_ids))
        if len(batches) == 2:
            raise KeyboardInterrupt
        return usual(self, input_ids=input_ids, **settings)

    monkeypatch.setattr(Qwen2ForCausalLM, "generate", second_is_interrupted)
    arguments = ["--model", "model", "--batch_size", "2", "--output_dir", "here"]
    assert run(*arguments) == 130
    assert "the same command continues with the remaining rows" in capsys.readouterr().err
    assert [path.name for path in Path("here").iterdir()] == ["predictions_test.partial.jsonl"]
    assert run(*arguments) == 0
    assert batches == [2, 2, 2, 1], "five rows, of which two were there"
    assert evaluation("here")["data"]["n"] == 5 and not list(Path("here").glob("*partial*"))


def test_a_full_disk_is_named_and_loses_no_row(workplace, monkeypatch, capsys):
    from empathy_trl.evaluation.generation import PartialFile

    usual, written = PartialFile.add, []

    def fills_up(self, row, *completion):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(row)
        usual(self, row, *completion)

    monkeypatch.setattr(PartialFile, "add", fills_up)
    arguments = ["--model", "model", "--batch_size", "1", "--output_dir", "here"]
    assert run(*arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: No space left on device; the rows on disk are kept, and the same command continues"
    assert len(read_rows(Path("here/predictions_test.partial.jsonl"))) == 1 + len(written)
