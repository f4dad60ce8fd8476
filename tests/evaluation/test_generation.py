"""Completions on disk: an interrupted evaluation goes on, repeats no row, loses none, and never mixes two settings."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from empathy_trl.evaluation import generation
from empathy_trl.evaluation.generation import count_cut_off, generate_shared, partial_path, remove_partial
from empathy_trl.models import generate
from empathy_trl.models.load import weights_digest
from empathy_trl.recipe.schema import Evaluation

PROMPTS = [
    [{"role": "user", "content": f"situation number {number} " + "long " * (number % 4)}] for number in range(10)
]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def counted(tiny, monkeypatch):
    """The tiny model; `generated` counts rows, and after `limit` of them Ctrl-C is pressed."""
    with torch.no_grad():
        for parameter in tiny[0].parameters():
            parameter.mul_(4)
    usual, state = tiny[0].generate, SimpleNamespace(generated=0, limit=None)

    def counting(input_ids, **settings):
        if state.limit is not None and state.generated >= state.limit:
            raise KeyboardInterrupt
        state.generated += len(input_ids)
        return usual(input_ids=input_ids, **settings)

    monkeypatch.setattr(tiny[0], "generate", counting)
    state.run = lambda path, prompts=PROMPTS, **settings: generate_shared(
        *tiny,
        prompts,
        3,
        SimpleNamespace(evaluation=Evaluation(**{"max_new_tokens": 5} | settings), seed=7),
        partial=path,
    )
    state.model = tiny[0]
    return state


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def interrupted(counted, tmp_path):
    """Return a function that interrupts an evaluation after two batches, and returns its file and the whole result."""

    def interrupt(**settings):
        path = partial_path(tmp_path, "test")
        whole = counted.run(None, **settings)
        counted.generated, counted.limit = 0, 6
        with pytest.raises(KeyboardInterrupt):
            counted.run(path, **settings)
        counted.generated, counted.limit = 0, None
        return path, whole

    return interrupt


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "top_p": 0.9, "top_k": 50}], ids=["greedy", "sampled"])
def test_an_interrupted_evaluation_goes_on(counted, interrupted, settings):
    path, whole = interrupted(**settings)
    assert len(set(whole)) > 4, "the test needs completions that differ"
    assert len(lines(path)) == 1 + 6
    assert counted.run(path, **settings) == whole
    assert counted.generated == 4
    assert sorted(row["row"] for row in lines(path)[1:]) == list(range(10))
    assert counted.run(path, **settings) == whole and counted.generated == 4, "and a third time nothing is left to do"


def test_half_a_last_line_is_made_again(counted, interrupted):
    path, whole = interrupted()
    path.write_bytes(path.read_bytes()[:-9])
    assert counted.run(path) == whole and counted.generated == 5
    assert len(lines(path)) == 11


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda content: content[:-20] + b"\xff" + content[-20:], "it is broken"),
        (lambda content: content.replace(b"header", b"hea", 1), "it does not say how it was made"),
        (lambda content: b"[]\n" + content, "it is broken"),
    ],
    ids=["bytes", "no header", "no object"],
)
def test_a_broken_file_is_said_and_not_used(counted, interrupted, capsys, change, why):
    path, whole = interrupted()
    path.write_bytes(change(path.read_bytes()))
    assert counted.run(path) == whole and counted.generated == 10
    assert f"{path}: not used, because {why}" in "".join(capsys.readouterr())


def test_other_settings_start_over_and_say_so(counted, interrupted, capsys):
    path, _ = interrupted()
    expected = counted.run(None, max_new_tokens=4)
    counted.generated = 0
    assert counted.run(path, max_new_tokens=4) == expected and counted.generated == 10
    assert "not used, because it was made with other settings; starting over" in "".join(capsys.readouterr())
    assert counted.run(path, PROMPTS[::-1], max_new_tokens=4) == expected[::-1]
    assert "made with other prompts" in "".join(capsys.readouterr())
    with torch.no_grad():
        counted.model.lm_head.weight.mul_(-1)
    assert counted.run(path, PROMPTS[::-1], max_new_tokens=4) != expected[::-1]
    assert "made with other weights" in "".join(capsys.readouterr())


def test_what_the_completions_do_not_depend_on_does_not_start_over(counted, interrupted, tiny):
    path, whole = interrupted()
    stage = SimpleNamespace(evaluation=Evaluation(max_new_tokens=5), seed=8)  # greedy: no seed, and another batch size
    assert generate_shared(*tiny, PROMPTS, 2, stage, partial=path) == whole and counted.generated == 4


def test_what_several_processes_wrote_is_collected(counted, tmp_path, monkeypatch):
    path, whole = partial_path(tmp_path, "test"), counted.run(None)
    gathered = []

    def as_process(rank):
        state = SimpleNamespace(process_index=rank, num_processes=2, is_main_process=rank == 0)
        for module in (generation, generate):
            monkeypatch.setattr(module, "PartialState", lambda: state)
        monkeypatch.setattr("accelerate.PartialState", lambda: state)
        monkeypatch.setattr(generation, "broadcast_object_list", lambda items: [items[0] or {}])

    def gather(own):
        gathered.extend(own)
        raise KeyboardInterrupt  # before the others are there

    with monkeypatch.context() as patch:
        patch.setattr("accelerate.utils.gather_object", gather)
        for rank in (0, 1):
            as_process(rank)
            with pytest.raises(KeyboardInterrupt):
                counted.run(path)
    assert len(gathered) == 10
    monkeypatch.undo()
    names = ["predictions_test.partial.1.jsonl", "predictions_test.partial.jsonl"]
    assert sorted(each.name for each in tmp_path.iterdir()) == names
    counted.generated = 0
    assert counted.run(path) == whole and counted.generated == 0
    assert [each.name for each in tmp_path.iterdir()] == names[1:]
    remove_partial(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.faults
def test_completions_that_are_cut_off_are_counted_across_an_interruption(counted, interrupted, tmp_path):
    counted.run(tmp_path / "whole.jsonl")
    path, _ = interrupted()
    before = count_cut_off(path)
    counted.run(path)
    assert 0 < before < count_cut_off(path) == count_cut_off(tmp_path / "whole.jsonl")


def test_the_digest_of_weights_follows_every_tensor(tiny):
    before = weights_digest(tiny[0])
    assert weights_digest(tiny[0]) == before
    for name, tensor in tiny[0].state_dict().items():
        with torch.no_grad():
            tensor.add_(1)
        assert weights_digest(tiny[0]) != before, name
        with torch.no_grad():
            tensor.sub_(1)


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(tmp_path, tiny_folder):
    arguments = ["--recipe", "ed4_tiny.yaml", "--model", str(tiny_folder), "--batch_size", "1", "--output_dir"]
    command = [sys.executable, str(ROOT / "recipes" / "evaluate.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([*command, "killed"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    path, deadline = tmp_path / "killed" / "predictions_test.partial.jsonl", time.monotonic() + 400
    try:
        while not (path.is_file() and len(path.read_bytes().splitlines()) > 5):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    rows = len(path.read_bytes().splitlines()) - 1
    for folder in ("killed", "whole"):
        done = subprocess.run(
            [*command, folder], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        if folder == "killed":
            assert f"{rows} completions found; continuing" in done.stderr + done.stdout
    killed, whole = ((tmp_path / folder / "predictions_test.jsonl").read_text() for folder in ("killed", "whole"))
    assert killed == whole and not path.exists()
