"""Shared fixtures: everything runs on the CPU, offline, with tiny models made from scratch."""

import gc
import os
import subprocess
import sys
from importlib.util import find_spec

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["ACCELERATE_USE_CPU"] = "true"
os.environ["OMP_NUM_THREADS"] = "1"
for name, value in {"KVCACHE_SPACE": "1", "OMP_THREADS_BIND": "nobind"}.items():
    os.environ[f"VLLM_CPU_{name}"] = value  # 1 GB, and threads on any core
os.environ["VLLM_NO_USAGE_STATS"] = "1"

from pathlib import Path
from types import SimpleNamespace

import pytest

TEXTS = [
    "Which emotion is it? I was so scared when the lights went out.",
    "<reasoning>scared, lights</reasoning><answer>afraid</answer>",
    "<reasoning>lost, cried</reasoning><answer>sad</answer>",
    "<reasoning>party, laughed</reasoning><answer>joyful</answer>",
    "<reasoning>rude, shouted</reasoning><answer>angry</answer>",
]
HOLDER = """
import sys, time
from pathlib import Path
from empathy_trl.errors import UserError
from empathy_trl.io import hold_file, hold_folder
try:
    with {"folder": hold_folder, "file": hold_file}[sys.argv[1]](Path(sys.argv[2])):
        print("held", flush=True)
        time.sleep(600)
except UserError as error:
    print(error, flush=True)
"""


def pytest_runtest_setup(item):
    if item.get_closest_marker("vllm") and find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: run `make vllm`, which has an environment of its own")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """One thread: tiny tensors are faster that way, results do not depend on the machine, and forking is safe."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def quick_collections():
    """accelerate collects garbage after every training; what is imported by then is not looked through each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Folder of a saved two-layer Qwen2 with its tokenizer, whose tags are ordinary tokens."""
    from empathy_trl.models.tiny import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = build_tokenizer(TEXTS, vocab_size=320, tags=["reasoning", "answer"])
    shape = SimpleNamespace(architecture="qwen2", hidden_size=16, layers=2, heads=2, max_length=1024)
    build_model(shape, tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=["FSDP", "ZeRO-3"])
def sharded_loading(request, monkeypatch):
    """A process in whose training transformers loads zeros (FSDP, second process of a machine), or shards (ZeRO-3)."""
    import torch
    from transformers.integrations import deepspeed

    if request.param == "ZeRO-3":
        settings = type("Zero3", (), {"is_zero3": lambda self: True, "config": {}})()
        monkeypatch.setattr(deepspeed, "_hf_deepspeed_config_weak_ref", lambda: settings)
        yield request.param
        assert deepspeed.is_deepspeed_zero3_enabled()
        return
    for name in ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("LOCAL_RANK", "1")
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    yield request.param
    torch.distributed.destroy_process_group()
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "true"


@pytest.fixture
def tiny(tiny_folder):
    """A fresh copy of the tiny model, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(tiny_folder), AutoTokenizer.from_pretrained(tiny_folder)


@pytest.fixture(scope="session")
def smollm2():
    """Folder of SmolLM2-135M-Instruct."""
    return _small_model("smollm2-135m")


@pytest.fixture(scope="session")
def smollm2_gguf():
    """The GGUF file that this folder was made from."""
    return _small_model("SmolLM2-135M-Instruct.Q4_1.gguf")


def _small_model(name: str) -> Path:
    path = Path(__file__).parents[1] / "models" / name
    if not path.exists():
        pytest.skip(f"needs models/{name}: make small-models")
    return path


@pytest.fixture
def make_classifier(tmp_path):
    """Return a function that saves a tiny BERT which gives chosen logits for chosen texts, and returns its folder."""
    import numpy as np
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    def make(scores: dict, folder: str = "classifier", seed: int = 0, **settings) -> str:
        """`scores`: text or (text, pair) -> logits; at most 30 different ones. `settings` go into config.json."""
        texts = list(scores)
        words = sorted({word for text in texts for word in ([text] if isinstance(text, str) else text)})
        words = sorted({word for text in words for word in text.lower().split()})
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*special, *words]))}
        tokenizer = BertTokenizer(vocab=vocabulary, model_max_length=64)
        targets = torch.tensor(list(scores.values()), dtype=torch.float64)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
            initializer_range=0.5,
            **{"num_labels": targets.shape[1], **settings},
        )
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            model = BertForSequenceClassification(config).eval()
            layer = model.bert.encoder.layer[0].attention
            for weight in (layer.self.query.weight, layer.self.key.weight):
                weight.zero_()  # every token looks at all others alike, so that all words count
            layer.output.dense.weight.mul_(4)  # and for more than [CLS] itself
            model.bert.pooler.dense.weight.mul_(0.1)  # away from the flat ends of tanh
            pooled = [
                model.bert(**tokenizer(*([text] if isinstance(text, str) else text), return_tensors="pt")).pooler_output
                for text in texts
            ]
            features = torch.cat(pooled).double()
            weights = np.linalg.lstsq(torch.cat([features, torch.ones(len(texts), 1)], 1).numpy(), targets.numpy())[0]
            model.classifier.weight.copy_(torch.tensor(weights[:-1].T))
            model.classifier.bias.copy_(torch.tensor(weights[-1]))
        path = tmp_path / folder
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        return str(path)

    return make


@pytest.fixture
def hub_server(tmp_path):
    """A Hub on this machine, which this process asks while the test runs, logged in as `ann`; see tests/hub_server.py."""
    from tests.hub_server import HubServer

    with HubServer() as hub, hub.in_this_process(tmp_path / "hub_home"):
        yield hub


@pytest.fixture
def holder():
    """Return a function that starts a process which holds a folder or a file until the test ends."""
    started = []

    def start(kind: str, path, wait=True) -> subprocess.Popen:
        started.append(subprocess.Popen([sys.executable, "-c", HOLDER, kind, path], stdout=subprocess.PIPE, text=True))
        assert not wait or started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
