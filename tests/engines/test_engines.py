"""Engines against one process: DDP, FSDP2, ZeRO-2, ZeRO-3 and two nodes train every task on two CPU processes.

`make engines` installs DeepSpeed, runs this and prints the table engine × task. One command per engine trains all stages of
`every_task.yaml` and is killed in the last; the same command then resumes every stage from where step 3 left it.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from empathy_trl.io import shipped_folder
from empathy_trl.models.classifier import build_encoder_tokenizer, encoder_config
from empathy_trl.models.label_schema import Targets
from empathy_trl.models.tiny import build_model, build_tokenizer
from tests.models.livelier import make_livelier

pytestmark = pytest.mark.engines
HERE = Path(__file__).parent
TASKS = {  # stage -> its title in the table, and the class that loads its folder
    "sft": ("SFT", AutoModelForCausalLM),
    "grpo": ("GRPO", AutoModelForCausalLM),
    "lora": ("GRPO + LoRA", AutoPeftModelForCausalLM),
    "ppo": ("PPO, critic head", AutoModelForCausalLM),
    "t5": ("PPO on T5", AutoModelForSeq2SeqLM),
    "regress": ("regress, RoBERTa", AutoModelForSequenceClassification),
}
NOT_UNDER_FSDP = "t5"
# in names of figures that no two runs share: of the clock, flos, which count padding, and correlations, which divide rounding by
# the small spread of untrained predictions; the errors of the same predictions are compared
NOT_COMPARED = ("time", "runtime", "per_second", "flos", "pearson")


@dataclass(frozen=True)
class Engine:
    """How two processes share a model.

    Attributes:
        config: file in accelerate_configs/.
        type, zero, sharded: what `engine.json` must say: accelerate's name, ZeRO's stage, whether weights are shards.
        figures: the largest allowed difference of a logged figure, relative if it is above 1.
        weights: the largest allowed difference of a final weight.
        nodes: commands that are started, each with its share of the processes.
    """

    config: str
    type: str
    figures: float
    weights: float
    zero: int | None = None
    sharded: bool = False
    nodes: int = 1


ENGINES = {
    "DDP": Engine("ddp", "MULTI_CPU", figures=1e-5, weights=1e-5),
    "FSDP2": Engine("fsdp2", "FSDP", figures=1e-5, weights=1e-5, sharded=True),
    "ZeRO-2": Engine("zero2", "DEEPSPEED", zero=2, figures=1e-4, weights=1e-5),
    "ZeRO-3": Engine("zero3", "DEEPSPEED", zero=3, figures=1e-4, weights=1e-5, sharded=True),
    "FSDP2, two nodes": Engine("multi_node", "FSDP", figures=1e-5, weights=1e-5, sharded=True, nodes=2),
}
CELLS = [
    (engine, stage)
    for engine in ENGINES
    for stage in TASKS
    if (ENGINES[engine].type, stage) != ("FSDP", NOT_UNDER_FSDP)
]


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """The folder in which all runs start, with one tiny model of each kind, whose greedy completions are lively."""
    folder = tmp_path_factory.mktemp("engines")
    texts = []
    for corpus in ("dialogues", "rated_replies"):
        texts += (shipped_folder("data") / "sample" / corpus / "train.jsonl").read_text("utf-8").splitlines()
    shape = SimpleNamespace(hidden_size=64, layers=2, heads=4, max_length=256)
    for shape.architecture in ("qwen2", "t5"):
        tokenizer = build_tokenizer(texts, 700, max_length=shape.max_length)
        model = build_model(shape, tokenizer, seed=0)
        make_livelier(model, {"qwen2": 3, "t5": 1.4}[shape.architecture])
        _save(folder / shape.architecture, model, tokenizer)
    tokenizer = build_encoder_tokenizer(texts, 700, shape.max_length)
    config = encoder_config(shape, tokenizer, Targets("regress", {"empathy": (1.0, 5.0)}))
    config.hidden_dropout_prob = 0.0  # the random numbers of two processes are not those of one
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    make_livelier(model, 2)
    _save(folder / "roberta", model, tokenizer)
    return folder


def _save(folder: Path, *parts):
    for part in parts:
        part.save_pretrained(folder)


def launch(work: Path, output: Path, config: str, *flags, nodes: int = 1, **environment) -> list[int]:
    """Run the recipe with one of our accelerate configs, on `nodes` "machines" of this one; return their exit statuses."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", HERE.parents[1] / "accelerate_configs" / f"{config}.yaml", "--mixed_precision", "no"]
    if config != "cpu":
        command += ["--num_processes", "2"]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = str(unused.getsockname()[1])
    if nodes > 1:
        command += ["--main_process_ip", "127.0.0.1"]
    command += ["--main_process_port", port]
    recipe = [HERE / "launched.py", "--recipe", HERE / "every_task.yaml", "--output_dir", output, *flags]
    inherited = {key: value for key, value in os.environ.items() if key != "ACCELERATE_USE_CPU"}
    started = []
    with ExitStack() as stack:
        for rank in range(nodes):
            log = stack.enter_context((work / f"{output.name}.{rank}.log").open("a"))
            node = ["--machine_rank", str(rank)] if nodes > 1 else []
            started.append(
                subprocess.Popen(
                    list(map(str, [*command, *node, *recipe])),
                    cwd=work,
                    env=inherited | environment,
                    stdout=log,
                    stderr=log,
                )
            )
            stack.callback(started[-1].terminate)  # and with it what it started
        return [process.wait(timeout=900) for process in started]


@pytest.fixture(scope="session")
def one_process(work):
    """The folder of the run in one process, with the batch that two have together."""
    output = work / "one"
    assert launch(work, output, "cpu", "--trainer.per_device_train_batch_size", "8") == [0], _end_of(output)
    return output


@pytest.fixture(scope="session")
def trained(work):
    """Return a function: engine -> the folder of the uninterrupted stages, and the one that continued from step 3."""

    @cache
    def train(name: str) -> tuple[Path, Path]:
        engine, output = ENGINES[name], work / name
        whole, interrupted = work / f"{name}.whole", work / f"{name}.interrupted"
        flags = ["--trainer.per_device_train_batch_size", "4"]
        off = [f"--stages.{NOT_UNDER_FSDP}", "null", "--evaluation.every", "null"]
        flags += off if engine.type == "FSDP" else []
        statuses = launch(work, output, engine.config, *flags, nodes=engine.nodes, ENGINES_INTERRUPT=str(interrupted))
        assert 0 not in statuses and (output / "killed" / "checkpoint-2").is_dir(), _end_of(output)
        output.rename(whole)
        interrupted.rename(output)
        shutil.copytree(whole / "killed", output / "killed")
        statuses = launch(work, output, engine.config, *flags, nodes=engine.nodes)
        assert not any(statuses), _end_of(output)
        return whole, output

    return train


def _end_of(output: Path) -> str:
    return "\n".join(log.read_text()[-3000:] for log in output.parent.glob(f"{output.name}.*.log"))


@pytest.mark.parametrize(("engine", "stage"), CELLS)
def test_an_engine_trains_as_one_process_does(engine, stage, trained, one_process, cell):
    expected, (title, auto) = ENGINES[engine], TASKS[stage]
    cell(engine, title, "failed")
    whole, resumed = trained(engine)
    about = json.loads((whole / stage / "engine.json").read_text())
    assert (about["type"], about["processes"], about["zero"]) == (expected.type, 2, expected.zero)
    assert (about["sharded"] > 0) == expected.sharded

    figure, name = _worst_figure(whole / stage, one_process / stage)
    weight, layer = _worst_weight(whole / stage, one_process / stage, auto)
    cell(engine, title, f"failed: {figure:.0e}, {weight:.0e}")
    assert figure <= expected.figures, name
    assert weight <= expected.weights, layer
    _check_evaluation(whole / stage, one_process / stage)
    assert (whole / stage / "critic").is_dir() == (stage in ("ppo", "t5"))
    _check_identical(resumed / stage, whole / stage, auto)
    cell(engine, title, f"{figure:.0e}, {weight:.0e}")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_killed_training_ends_as_one_that_was_not(engine, trained, cell):
    title = "PPO, sampled tokens, killed"
    cell(engine, title, "failed")
    whole, resumed = trained(engine)
    _check_identical(resumed / "killed", whole / "sampled", AutoModelForCausalLM)
    cell(engine, title, "0, 0")


def test_fsdp_refuses_an_encoder_decoder(work, cell):
    output = work / "refused"
    assert launch(work, output, "fsdp2") == [1]
    assert "FSDP2 cannot train an encoder-decoder" in _end_of(output)
    assert "evaluation.every: is not supported under FSDP2" in _end_of(output)
    for engine, expected in ENGINES.items():
        if expected.type == "FSDP":
            cell(engine, TASKS[NOT_UNDER_FSDP][0], "refused")


def _check_identical(folder: Path, other: Path, auto):
    assert _worst_figure(folder, other) == _worst_weight(folder, other, auto) == (0, "")
    assert (folder / "predictions_test.jsonl").read_bytes() == (other / "predictions_test.jsonl").read_bytes()


def _check_evaluation(folder: Path, other: Path):
    """All rows have the same texts, and the same numbers but for rounding."""
    rows, expected = (_rows(each / "predictions_test.jsonl") for each in (folder, other))
    assert len(rows) == 8 and len({json.dumps(row.get("completion", row.get("prediction"))) for row in rows}) > 1
    assert rows == _rounded(expected)


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    # `rel` for the likelihoods: sums of hundreds in float32
    return pytest.approx(value, rel=1e-6, abs=1e-5) if isinstance(value, float) else value


def _worst_figure(folder: Path, other: Path) -> tuple[float, str]:
    """Return the largest difference of a figure in `metrics.jsonl`, relative if the figure is above 1, and its name."""
    worst, (logged, others) = (0.0, ""), (_rows(each / "metrics.jsonl") for each in (folder, other))
    if not any("eval_n" in row for row in logged):  # FSDP cannot be evaluated while it trains
        others = [row for row in others if "eval_n" not in row]
    for row, expected in zip(logged, others, strict=True):
        assert row.keys() == expected.keys()
        for name, value in row.items():
            if isinstance(value, int | float) and not any(word in name for word in NOT_COMPARED):
                difference = abs(value - expected[name]) / max(1, abs(expected[name]))
                worst = max(worst, (difference, name)) if difference else worst
    return worst


def _worst_weight(folder: Path, other: Path, auto) -> tuple[float, str]:
    """Return the largest difference of a weight of the models in two folders, their critics included, and its name."""
    worst = (0.0, "")
    states = [auto.from_pretrained(each).state_dict() for each in (folder, other)]
    for file in (folder / "critic").glob("*.safetensors"):
        for state, critic in zip(states, (folder, other), strict=True):
            state |= load_file(critic / "critic" / file.name)
    assert states[0].keys() == states[1].keys()
    for name, weight in states[0].items():
        difference = (weight - states[1][name]).abs().max().item()
        worst = max(worst, (difference, name)) if difference else worst
    return worst


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
