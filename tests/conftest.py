"""Shared fixtures: everything runs on the CPU, offline, with tiny models made from scratch."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["ACCELERATE_USE_CPU"] = "true"
os.environ["OMP_NUM_THREADS"] = "1"

from types import SimpleNamespace

import pytest

TEXTS = [
    "Which emotion is it? I was so scared when the lights went out.",
    "<reasoning>scared, lights</reasoning><answer>afraid</answer>",
    "<reasoning>lost, cried</reasoning><answer>sad</answer>",
    "<reasoning>party, laughed</reasoning><answer>joyful</answer>",
    "<reasoning>rude, shouted</reasoning><answer>angry</answer>",
]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """One thread: tiny tensors are faster that way, results do not depend on the machine, and forking is safe."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Folder of a saved two-layer Qwen2 with its tokenizer, whose tags are ordinary tokens."""
    from empathy_trl.scratch import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = build_tokenizer(TEXTS, vocab_size=320, tags=["reasoning", "answer"])
    shape = SimpleNamespace(architecture="qwen2", hidden_size=16, layers=2, heads=2, max_length=256)
    build_model(shape, tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(tiny_folder):
    """A fresh copy of the tiny model, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(tiny_folder), AutoTokenizer.from_pretrained(tiny_folder)
