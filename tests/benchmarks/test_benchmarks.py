"""The benchmarks on a shape so small that they measure nothing: they run, and end with a table and one ratio."""

import contextlib
import dataclasses
import gzip
import importlib
import json
import re
import sys
import types
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
OTHERS = (
    "scorer",
    "evaluation",
    "predicted_memory",
    "processes",
    "soak",
    "dynamic_sampling",
    "results",
)  # take no shapes
NAMES = sorted(path.stem for path in BENCHMARKS.glob("*.py") if "def main" in path.read_text())


@pytest.fixture
def main(monkeypatch, tmp_path):
    """Return a function that runs a benchmark with arguments, in an empty folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)
    shapes = importlib.import_module("shapes")
    small = shapes.Shape(20, 4, 2, 2, hidden=16, layers=1, heads=2, kv_heads=2, inner=16, vocab=400)
    monkeypatch.setitem(shapes.SHAPES, "ed4_tiny", small)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        module = importlib.import_module(name)
        module.main()

    return run


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OTHERS])
def test_a_benchmark_prints_a_table_and_one_ratio_last(main, capsys, monkeypatch, name):
    if name == "latency":
        monkeypatch.setattr(importlib.import_module(name), "TURNS", (2, 6))
    main(name, "ed4_tiny", "--rounds", "1")
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"ratio: \d+\.\d\d", lines[-1])
    assert any(re.fullmatch(r"\| [\w (),:-]+ \|.*\|", line) for line in lines)


def test_a_pretrained_model_is_trained_with_an_adapter(main, capsys, monkeypatch, tiny_folder):
    shapes = importlib.import_module("shapes")
    trainers, make = [], shapes.make_trainer
    small = dataclasses.replace(shapes.SHAPES["smollm2"], groups=1, group=2, completion=6)
    monkeypatch.setitem(shapes.SHAPES, "smollm2", small)
    monkeypatch.setattr(
        importlib.import_module("harness"), "make_trainer", lambda *args: trainers.append(make(*args)) or trainers[-1]
    )
    main("step", "smollm2", "--model", str(tiny_folder), "--dtype", "bfloat16", "--rounds", "1")
    assert "| peak memory " in capsys.readouterr().out
    for trainer in trainers:
        model = trainer.model
        assert {str(each.dtype) for each in model.parameters() if each.requires_grad} == {"torch.float32"}
        assert str(model.get_input_embeddings().weight.dtype) == "torch.bfloat16"
        assert trainer._metrics["train"]["completions/min_length"][-1] == 6
        lengths = [shapes.tokens_of(trainer.processing_class, prompt) for prompt in trainer.train_dataset["prompt"]]
        assert 90 < min(lengths) <= max(lengths) <= 100


def test_more_gpus_take_less_memory_each_where_they_share_the_weights(main, capsys, monkeypatch):
    processes = importlib.import_module("processes")
    monkeypatch.setattr(processes, "LARGE", processes.LARGE | {"num_hidden_layers": 2})
    main("processes", "--computed")
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    figures = {tuple(map(str.strip, row[:2])): list(map(int, row[2:])) for row in rows}
    assert len(figures) == 8
    for (_, engine), (_, *several) in figures.items():
        assert several == sorted(several, reverse=True)
        assert engine == "ZeRO-2" or (several[0] > several[-1]) == (engine != "DDP")


@pytest.mark.slow
def test_a_run_takes_the_memory_that_check_predicts(main, capsys):
    main("predicted_memory", "grpo_scratch_80m")
    assert 0.8 < float(capsys.readouterr().out.splitlines()[-1].split()[1]) < 1.25


@pytest.mark.parametrize("with_data", [True, False], ids=["data", "embedded corpus"])
def test_the_scorer_gives_the_same_scores_as_a_loop(main, capsys, tmp_path, with_data):
    if with_data:
        turns = [{"speaker": who, "text": f"{who} {i}"} for i in range(40) for who in ("speaker", "listener")]
        with gzip.open(tmp_path / "train.jsonl.gz", "wt") as file:
            file.write(json.dumps({"conv_id": "1", "utterances": turns}) + "\n")
    folder = tmp_path if with_data else tmp_path / "none"
    main("scorer", "--data", str(folder), "--size", "tiny", "--texts", "50", "--rounds", "1")
    lines = capsys.readouterr().out.splitlines()
    embedded = "texts of the embedded corpus, because .* no folder"
    source = f"listener replies of {tmp_path.name}" if with_data else embedded
    assert re.match(rf"50 {source}.*, 15 repeated; RoBERTa, 1 layers, 16 wide", lines[0])
    assert [line for line in lines if line.startswith("| shared scorer, warm ")]
    assert re.fullmatch(r"cold (\d+\.\d\d) × · warm \d+\.\d ×\nratio: \1", "\n".join(lines[-2:]))


def test_the_evaluation_is_that_of_a_loop(main, capsys, tmp_path, tiny_folder):
    main("evaluation", "--data", str(tmp_path / "none"), "--model", str(tiny_folder), "--limit", "9", "--rounds", "1")
    lines = capsys.readouterr().out.splitlines()
    assert "9 test rows of the embedded corpus" in lines
    assert [line for line in lines if line.startswith("| evaluate.py ")]
    assert re.fullmatch(r"ratio: \d+\.\d\d", lines[-1])


def test_other_completions_are_no_speed(main, monkeypatch, tmp_path, tiny_folder):
    benchmark = importlib.import_module("evaluation")
    usual = benchmark.plain_loop
    monkeypatch.setattr(benchmark, "plain_loop", lambda *args: ["another", *usual(*args)[1:]])
    settings = ("--data", str(tmp_path / "none"), "--model", str(tiny_folder), "--limit", "5", "--rounds", "1")
    with pytest.raises(SystemExit, match="1 of 5 completions differ; expected none"):
        main("evaluation", *settings)


def test_the_plain_loop_estimates_the_advantages_that_ours_does(main):
    import torch

    from empathy_trl.trainers.critic import advantages_and_returns

    plain = importlib.import_module("plain_ppo")
    rewards, values = torch.randn(2, 3, 5, generator=torch.manual_seed(0)).unbind()
    ours, _ = advantages_and_returns(rewards, values, torch.ones(3, 5), plain.GAMMA, plain.LAM)
    assert torch.allclose(plain.PlainPPO.advantages(rewards, values), ours, atol=1e-6)


def test_the_plain_loop_is_on_one_device(main):
    shapes, plain = importlib.import_module("shapes"), importlib.import_module("plain_ppo")
    shape = shapes.SHAPES["ed4_tiny"]
    loop = plain.PlainPPO(shapes.make_model(shape).to("meta"), shape, [], None)
    parts = (loop.policy, loop.reference, loop.trunk, loop.head)
    assert {weight.device.type for part in parts for weight in part.parameters()} == {"meta"}


def test_other_scores_are_no_speed(main, monkeypatch, tmp_path):
    benchmark = importlib.import_module("scorer")
    usual = benchmark.plain_loop
    monkeypatch.setattr(benchmark, "plain_loop", lambda *args: usual(*args) + 2e-5)
    with pytest.raises(SystemExit, match=r"the scores differ by 2\.\de-05; expected at most 1e-5"):
        main("scorer", "--data", str(tmp_path / "none"), "--size", "tiny", "--texts", "20", "--rounds", "1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ed5"], r"unknown shape ed5 \(choices: ed4_tiny, ed4, wassa, empath, smollm2\)"),
        (["ed4", "--model", "folder"], "--model: has no effect on ed4; expected the shape smollm2 alone"),
        (["--rounds", "0"], "--rounds: 0 should be at least 1"),
    ],
)
def test_mistakes_are_named(main, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main("step", *arguments)
    assert re.search(message, capsys.readouterr().err)


def test_every_benchmark_is_in_the_readme():
    text = (BENCHMARKS / "README.md").read_text()
    assert set(NAMES) == set(re.findall(r"benchmarks/(\w+)\.py", text))


def test_arms_of_dynamic_sampling_draw_as_many_completions(main, capsys, monkeypatch):
    benchmark = importlib.import_module("dynamic_sampling")
    in_turn = contextlib.nullcontext(types.SimpleNamespace(map=map))
    monkeypatch.setattr(benchmark, "ThreadPoolExecutor", lambda jobs: in_turn)
    monkeypatch.setattr(benchmark, "start", lambda *task, threads: benchmark.train(str(task[0]), *task[1:]))
    steps = ("--stages.sft.trainer.max_steps", "1", "--stages.grpo.trainer.max_steps", "4", "--evaluation.limit", "6")
    batch = ("--stages.grpo.trainer.per_device_train_batch_size", "4", "--stages.grpo.trainer.num_generations", "2")
    arguments = ("--seeds", "1,2", "--every", "2", *steps, *batch)
    for _ in range(2):  # the second time, everything is complete
        main("dynamic_sampling", *arguments)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    first, second = ([row[:4] for row in rows if row and row[0] == seed][-4:] for seed in ("1", "2"))
    assert first == [["1", arm, "16", steps] for arm, steps in zip(benchmark.ARMS, ["4", "4", "1", "1"], strict=True)]
    assert [row[1:] for row in second] == [row[1:] for row in first]
    assert [row[:2] for row in rows[-4:]] == list(map(list, benchmark.COMPARED))
    with pytest.raises(SystemExit, match="2"):
        main("dynamic_sampling", *arguments, "--stages.sft.trainer.max_steps", "2")
    assert "outputs/dynamic_sampling has results of other settings" in capsys.readouterr().err


def test_the_soak_finds_what_differs(main, tmp_path):
    soak = importlib.import_module("soak")
    for name, seconds, content in (("calm", 1, b"w"), ("killed", 2, b"v")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.tmp").touch()
        (tmp_path / name / "model.safetensors").write_bytes(content)
        (tmp_path / name / "metrics.jsonl").write_text(
            json.dumps({"step": 1, "step_time": seconds, "loss": 0.5}) + "\n"
        )
    found = soak.differences(tmp_path / "calm", tmp_path / "killed")
    assert found == ["calm.tmp is missing", "killed.tmp is left over", "model.safetensors differs"]


@pytest.mark.slow
def test_a_soak_of_two_kills_is_identical(main, capsys):
    main("soak", "--recipes", "ed4_tiny", "--kills", "2", "--seed", "1")
    assert "2 of 2 identical" in capsys.readouterr().out


def test_results_run_the_printed_commands_and_print_the_table(main, capsys, monkeypatch, tmp_path):
    module = importlib.import_module("results")
    (tmp_path / "models").mkdir()
    quick = {"tiny": module.Result("intent9_tiny", None, {}, "1,2", minutes=1, quick=True)}
    monkeypatch.setattr(
        module, "RESULTS", quick | {"other": module.Result("ed4_tiny", "ed", {"model.name_or_path": "m"}, "1")}
    )
    for arguments, message in [
        (["tinny"], "tinny: unknown result; did you mean tiny?"),
        (["other"], "--data: other needs the folder ed, but data has none; docs/data.md says where it comes from"),
        (["other", "--quick"], "--quick: none of other is quick; these are: tiny"),
    ]:
        with pytest.raises(SystemExit) as end:
            main("results", *arguments)
        assert end.value.code == 2 and message in capsys.readouterr().err
    broken = tmp_path / "outputs" / "results" / "other" / "seeds.json"
    broken.parent.mkdir(parents=True)
    for text, message in [
        ("{", "line 1: not valid JSON"),
        ('{"groups": []}', "is not as a run with --seeds writes it"),
    ]:
        broken.write_text(text)
        with pytest.raises(SystemExit):
            main("results", "tiny")
        assert message in (said := capsys.readouterr().err) and said.endswith("; run other again\n")
    broken.unlink()
    main("results", "--list")
    assert (
        "empathy-trl run --recipe intent9_tiny --seeds 1,2 --output_dir outputs/results/tiny   # about 1 min"
        in capsys.readouterr().out
    )
    steps = ["--trainer.max_steps", "2", "--trainer.save_steps", "2", "--evaluation.limit", "8"]
    command = module.Result.command
    monkeypatch.setattr(module.Result, "command", lambda *each: [*command(*each), *steps])
    main("results", "--quick")
    table = (tmp_path / "outputs" / "results" / "results.md").read_text()
    assert table in capsys.readouterr().out
    assert re.search(
        r"^\| `intent9_tiny`, seeds 1, 2 \| sample, 8 \| accuracy \| classify: 0\.\d+ ± .*majority class",
        table,
        re.MULTILINE,
    )
