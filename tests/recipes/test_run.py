"""The launcher: exit statuses and messages, and one tiny recipe from end to end."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from tests.recipes.scripts import ROOT, finished_run, script

RUN = ROOT / "recipes" / "run.py"
run = script("run")
SMALL = """
# A recipe for tests.
model: {from_scratch: {architecture: qwen2, hidden_size: 16, layers: 1, heads: 2, vocab_size: 300}}
data: {name: ed4, path: sample}
evaluation: {batch_size: 8, max_new_tokens: 4, limit: 8}
stages:
  sft:
    task: sft
    data: {portion: [0, 0.1]}
    trainer: {max_steps: 2, per_device_train_batch_size: 4, bf16: false, save_strategy: "no", logging_steps: 1, disable_tqdm: true}
  grpo:
    task: grpo
    model: {name_or_path: "stage:sft"}
    rewards: {emotion_accuracy: {}, format: {weight: {start: 0.1, end: 0.3, until: 0.5}}, reasoning_length: {min: 1, max: 9}, emotion_confidence: {}}
    trainer: {max_steps: 3, per_device_train_batch_size: 4, num_generations: 2, max_completion_length: 4, beta: 0.1, bf16: false, save_steps: 1, logging_steps: 1, disable_tqdm: true}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the small recipe: its file and its output folder."""
    return finished_run(SMALL, tmp_path_factory.mktemp("run"))


def test_a_run_leaves_everything_a_person_would_look_for(finished):
    _, output = finished
    for stage in ("sft", "grpo"):
        for name in ("model.safetensors", "tokenizer.json", "recipe.yaml", "run.json", "metrics.jsonl", "reward_curve.png",
                     "eval_test.json", "predictions_test.jsonl", "confusion_test.png"):  # fmt: skip
            assert (output / stage / name).stat().st_size > 0, f"{stage}/{name}"
    record = json.loads((output / "grpo" / "run.json").read_text())
    assert record["status"] == "complete" and record["seed"] == 42 and "trl" in record["versions"]
    assert record["train_seconds"] > 0 and record["sessions"] == 1
    assert record["energy"] is None  # nothing measures it here
    assert record["hardware"]["cores"] == os.cpu_count()
    assert "| sft" in (output / "report.md").read_text() and (output / "report.png").stat().st_size > 1000


def test_figures_and_samples_hold_what_one_watches(finished):
    rows = [json.loads(line) for line in (finished[1] / "grpo" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 3]
    expected = {"loss", "grad_norm", "kl", "reward", "completions/mean_length", "invalid_share", "zero_spread_share",
                "reward_weight/format", "rewards/emotion_accuracy/mean", "rewards/format/mean",
                "rewards/reasoning_length/mean", "rewards/emotion_confidence/mean"}  # fmt: skip
    assert expected <= rows[0].keys()
    page = (finished[1] / "grpo" / "samples.md").read_text()
    assert re.findall(r"^## (\w+) \(step (\d)\)", page, flags=re.MULTILINE) == [("Start", "1"), ("End", "3")]
    assert "Which emotion" in page and "emotion_accuracy" in page


def test_finished_stages_are_skipped_and_fresh_starts_over(finished, capsys):
    recipe, output = finished
    before = (output / "grpo" / "model.safetensors").read_bytes()
    assert run(["--recipe", str(recipe), "--output_dir", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "[sft] complete, skipped" in printed and "[grpo] complete, skipped" in printed
    assert run(["--recipe", str(recipe), "--output_dir", str(output), "--fresh"]) == 0
    assert "[sft] starts" in capsys.readouterr().out
    assert (output / "grpo" / "model.safetensors").read_bytes() == before


def test_other_settings_keep_the_earlier_run(finished, capsys):
    recipe, output = finished
    assert run(["--recipe", str(recipe), "--output_dir", str(output), "--stages.grpo.trainer.max_steps", "1"]) == 0
    printed = capsys.readouterr().out
    assert "[sft] complete, skipped" in printed and "was made with other settings or data; it is kept as" in printed
    assert len(list(output.glob("grpo.*"))) == 1


@pytest.mark.parametrize(
    "split, content, message",
    [("train", "text,label\nx,sad,1\n", "train.csv.*line 2"), ("test", "text,label\nx,bored\n", "test.csv.*'bored'")],
)
def test_bad_data_of_any_split_stops_before_an_earlier_run_is_deleted(
    finished, capsys, tmp_path, split, content, message
):
    recipe, output = finished
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "a b,sad\n" * 20)
    (tmp_path / f"{split}.csv").write_text(content)
    assert run(["--recipe", str(recipe), "--output_dir", str(output), "--data.path", str(tmp_path), "--fresh"]) == 2
    assert re.search(message, capsys.readouterr().err, flags=re.DOTALL)
    assert (output / "sft" / "model.safetensors").is_file()


@pytest.mark.faults
def test_a_folder_that_another_process_holds_is_left_alone(finished, holder, capsys):
    recipe, output = finished
    other, before = holder("folder", output), sorted(output.rglob("*"))
    into = ["--recipe", str(recipe), "--output_dir"]
    for command, *arguments in [
        ("run", *into, str(output)),
        ("run", *into, str(output), "--fresh"),
        ("evaluate", *into, str(output / "sft"), "--model", str(output / "sft")),
    ]:
        assert script(command)(arguments) == 2
        assert f"{output}: process {other.pid} on " in capsys.readouterr().err
        assert sorted(output.rglob("*")) == before


def test_a_folder_is_locked_before_it_is_read(finished, holder, tmp_path, capsys):
    (tmp_path / "out" / "sft" / "checkpoint-2").mkdir(parents=True)  # as in the middle of another run's --fresh
    other = holder("folder", tmp_path / "out")
    assert run(["--recipe", str(finished[0]), "--output_dir", str(tmp_path / "out")]) == 2
    assert f"process {other.pid} on " in capsys.readouterr().err


def test_output_that_cannot_be_written_is_said_first(finished, capsys):
    assert run(["--recipe", str(finished[0]), "--output_dir", str(finished[0] / "below")]) == 2
    assert "--output_dir: cannot write to" in capsys.readouterr().err


def test_errors_leave_the_process_with_status_2_and_no_traceback():
    command = [sys.executable, str(RUN), "--recipe", "ed4_tinny"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.match("error: .*did you mean ed4_tiny", done.stderr) and "Traceback" not in done.stderr


def test_an_interrupted_run_says_how_it_goes_on(finished, monkeypatch, capsys, tmp_path):
    def interrupt(stage):
        raise KeyboardInterrupt

    monkeypatch.setattr("empathy_trl.recipe.stages.StageRun.check_devices", interrupt)
    assert run(["--recipe", str(finished[0]), "--output_dir", str(tmp_path / "out")]) == 130
    assert "interrupted; the same command continues" in capsys.readouterr().err


def test_check_prints_the_plan_and_trains_nothing(finished, tmp_path, capsys):
    assert run(["--recipe", str(finished[0]), "--output_dir", str(tmp_path / "new"), "--check"]) == 0
    plan = capsys.readouterr().out
    for expected in ("stage grpo: grpo", "emotion_accuracy × 1", "format × 0.1→0.3 by 50%", "4 completions (2 per prompt)",
                     "3 steps", "trained (100.00%)", "memory", "downloads: nothing", "pushes:    nothing"):  # fmt: skip
        assert expected in plan
    assert not (tmp_path / "new").exists()


BAD = {
    "no recipe": ([], "--recipe: missing"),
    "list with more": (["--list", "--bogus", "1"], "--list: takes no other arguments, got --bogus 1"),
    "settings that do not go together": (
        ["--recipe", "FINISHED", "--stages.grpo.trainer.router_aux_loss_coef", "0.1"],
        "stages.grpo: the trainer refuses these settings: .*router_aux_loss_coef",
    ),
    "device of a reward": (
        ["--recipe", "wassa_tiny", "--stages.grpo.rewards.empathy_model.device", "cuda:99"],
        r"stages.grpo.rewards.empathy_model.device: 'cuda:99' is not available \(choices: cpu",
    ),
    "missing model": (["--recipe", "ed4_gemma", "--model.name_or_path", "./no_model", "--data.path", "sample"], "no_model"),
    "a folder without a model": (["--recipe", "ed4_gemma", "--check", "--model.name_or_path", ".", "--data.path", "sample"], r"model.name_or_path: \. cannot be read"),
    "missing extra": (["--recipe", "ed4_gemma", "--model.name_or_path", "TINY", "--data.path", "sample"], r"empathy-trl\[vllm\]"),
    "gated model": (["--recipe", "ed4_gemma", "--data.path", "sample", "--trainer.use_vllm", "false", "--trainer.bf16", "false"], "google/gemma-2-2b-it.*local folder.*hf auth login"),
    "hub data offline": (["--recipe", "ed4_gemma", "--trainer.use_vllm", "false", "--trainer.bf16", "false"], "facebook/empathetic_dialogues.*data.path"),
}  # fmt: skip


@pytest.mark.parametrize("arguments, message", BAD.values(), ids=BAD)
def test_mistakes_exit_with_2_and_say_what_to_fix(
    finished, capsys, tmp_path, tiny_folder, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    given = {"TINY": str(tiny_folder), "FINISHED": str(finished[0])}
    arguments = [given.get(word, word) for word in arguments]
    assert run([*arguments, "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error, flags=re.DOTALL), error
    assert "Traceback" not in error


@pytest.mark.faults
def test_a_vllm_server_that_is_not_there_is_missed_before_training(capsys, tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setattr("empathy_trl.recipe.stages.StageRun.missing_packages", lambda stage: [])  # as if vLLM were here
    recipe = ["--recipe", "ed4_gemma", "--model.name_or_path", str(tiny_folder), "--data.path", "sample"]
    recipe += ["--model.attn_implementation", "null", "--trainer.bf16", "false", "--trainer.vllm_mode", "server", "--trainer.vllm_server_port", "9"]  # fmt: skip
    problem = rf"stages.grpo.trainer.vllm_server_host, stages.grpo.trainer.vllm_server_port: no vLLM server answers at http://0.0.0.0:9 .*; start one .*: CUDA_VISIBLE_DEVICES=0 trl vllm-serve --model {tiny_folder} --port 9"
    started = time.monotonic()
    assert run([*recipe, "--output_dir", str(tmp_path / "out")]) == 2
    assert time.monotonic() - started < 30 and not (tmp_path / "out").exists()
    assert re.match(f"error: {problem}\n", capsys.readouterr().err)
    assert run([*recipe, "--check"]) == 0
    assert re.search(rf"The recipe is sound\. It cannot run on this machine: {problem}; ", capsys.readouterr().out)


ROLLOUTS = {
    "one rollout per step": [],
    "checkpoint inside a rollout": ["--stages.grpo.trainer.num_iterations", "2", "--stages.grpo.trainer.steps_per_generation", "2"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("overrides", ROLLOUTS.values(), ids=ROLLOUTS)
def test_killed_and_started_again_ends_with_the_same_weights(finished, tmp_path, overrides):
    steps = ["--stages.grpo.trainer.max_steps", "12"]
    command = [sys.executable, str(RUN), "--recipe", str(finished[0]), *steps, *overrides]
    subprocess.run([*command, "--output_dir", str(tmp_path / "undisturbed")], check=True)
    killed = subprocess.Popen([*command, "--output_dir", str(tmp_path / "killed")])
    while not (tmp_path / "killed/grpo/checkpoint-3/trainer_state.json").is_file():
        assert killed.poll() is None, "ended before it could be killed"
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert not (tmp_path / "killed/grpo/model.safetensors").exists()
    before = json.loads((tmp_path / "killed/grpo/run.json").read_text())["train_seconds"]
    assert before > 0
    again = [*command, "--output_dir", str(tmp_path / "killed")]
    done = subprocess.run(again, check=True, capture_output=True, text=True)
    assert re.search(r"\[grpo\] resumes from .*checkpoint-\d", done.stdout)
    left, right = (tmp_path / name / "grpo/model.safetensors" for name in ("undisturbed", "killed"))
    assert left.read_bytes() == right.read_bytes()
    record = json.loads((tmp_path / "killed/grpo/run.json").read_text())
    assert record["sessions"] == 2 and record["train_seconds"] > before


@pytest.mark.slow
@pytest.mark.faults
def test_one_of_three_concurrent_runs_works_and_the_others_name_it(finished, tmp_path):
    shutil.copytree(finished[1], tmp_path / "out")
    (tmp_path / "link").symlink_to("out")
    command = [
        sys.executable,
        str(RUN),
        "--recipe",
        str(finished[0]),
        "--fresh",
        "--stages.grpo.trainer.max_steps",
        "20",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen([*command, "--output_dir", str(tmp_path / name)], **pipes) for name in ("out", "link", "out")
    ]
    errors = {process.pid: process.communicate()[1] for process in started}
    assert sorted(process.returncode for process in started) == [0, 2, 2]
    [winner] = [process.pid for process in started if process.returncode == 0]
    assert all(f"process {winner} on " in error for pid, error in errors.items() if pid != winner)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in finished[1].iterdir()}


def run_in_two_processes(recipe, folder, *overrides):
    """Train on two CPU processes; `accelerate launch` would start one, whatever it is told."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = [*launch, str(RUN), "--recipe", str(recipe), "--output_dir", str(folder), *overrides]
    environment = {key: value for key, value in os.environ.items() if key != "ACCELERATE_USE_CPU"}
    return subprocess.run(command, check=False, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.faults
def test_two_processes_leave_a_folder_that_another_process_holds(finished, holder, tmp_path):
    other = holder("folder", tmp_path / "out")
    done = run_in_two_processes(finished[0], tmp_path / "out")
    assert done.stderr.count(f"out: process {other.pid} on ") == 1
    statuses = re.findall(r"exitcode *: (-?\d+)", done.stderr)
    assert "2" in statuses and {*statuses} <= {"2", "-15"}, (
        "the launcher terminates what is left after the first failure"
    )
    assert len(list((tmp_path / "out").iterdir())) == 1  # the lock


@pytest.mark.slow
def test_two_cpu_processes_give_the_same_metric_keys(finished, tmp_path):
    recipe, output = finished
    assert run_in_two_processes(recipe, tmp_path / "two").returncode == 0
    assert json.loads((tmp_path / "two" / "grpo" / "run.json").read_text())["processes"] == 2
    for stage in ("sft", "grpo"):
        one, two = (
            [set(json.loads(line)) for line in (folder / stage / "metrics.jsonl").read_text().splitlines()]
            for folder in (output, tmp_path / "two")
        )
        assert one == two
        folders = (output / stage, tmp_path / "two" / stage)
        one, two = (json.loads((folder / "eval_test.json").read_text()) for folder in folders)
        assert one["metrics"].keys() == two["metrics"].keys()


@pytest.mark.slow
def test_two_cpu_processes_train_the_same_with_and_without_shared_prompts(finished, tmp_path):
    rewards, norms, weights = {}, {}, {}
    for value in ("true", "false"):
        settings = {"shared_prefix": value, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
                    "num_generations": 4, "max_steps": 6, "logging_steps": 1}  # fmt: skip
        overrides = [f"--stages.grpo.trainer.{name}={setting}" for name, setting in settings.items()]
        assert run_in_two_processes(finished[0], tmp_path / value, *overrides).returncode == 0
        rows = [json.loads(line) for line in (tmp_path / value / "grpo/metrics.jsonl").read_text().splitlines()]
        weights[value] = load_file(tmp_path / value / "grpo/model.safetensors")
        rewards[value] = [row["reward"] for row in rows if "reward" in row]
        norms[value] = [row["grad_norm"] for row in rows if "grad_norm" in row]
    assert rewards["true"] == rewards["false"]
    assert max(norms["true"]) > 0, "nothing was learnt, so nothing was compared"
    for name, tensor in weights["true"].items():
        torch.testing.assert_close(tensor, weights["false"][name], rtol=1e-4, atol=1e-6)
