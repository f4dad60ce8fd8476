"""The judge against real servers that know nothing of it: llama.cpp's, and vLLM's where it is installed.

Their models are tiny and have random weights, so the scores mean nothing. That they come, in the form asked for, does.
"""

import asyncio
import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from empathy_trl.errors import JudgeFailed
from empathy_trl.models.generate import server_problem
from empathy_trl.rewards.llm_judge import LLMJudge
from tests.rewards.test_llm_judge import INJECTIONS

KEY = "key-of-the-test"
ASPECTS = ["empathy", "informativeness", "recommendation", "engagement"]
REPLIES = ["I am so sorry about your dog.", "Cheer up.", "", "Watch Paddington, it is warm and funny.", "Cheer up."]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("EMPATHY_TRL_CACHE", str(tmp_path))


def make(base_url, model="tiny", **settings):
    usual = {"api_key_env": "JUDGE_KEY", "sampling": {"max_tokens": 600}, "wait": 0, "retries": 1, "concurrency": 4}
    return LLMJudge(base_url, model, **{**usual, **settings})


def score(judge, replies, **columns):
    prompts = [[{"role": "user", "content": "My dog died."}]] * len(replies)
    return asyncio.run(judge(prompts=prompts, completions=replies, **columns))


def check_scores(base_url, model="tiny"):
    """Replies get numbers from 0 to 1, equal ones equal numbers, an empty one 0; asked again, the cache knows them."""
    logged = {}
    judge = make(base_url, model, aspects=ASPECTS)
    rewards = score(judge, REPLIES, log_metric=logged.__setitem__)
    assert all(0 <= reward <= 1 for reward in rewards)
    assert rewards[1] == rewards[4] and rewards[2] == 0
    assert logged.keys() == {"judge/failure_share", "judge/cache_hit_share", *(f"judge/{name}" for name in ASPECTS)}
    assert logged["judge/failure_share"] == logged["judge/cache_hit_share"] == 0
    assert score(judge, REPLIES, log_metric=logged.__setitem__) == rewards
    assert logged["judge/cache_hit_share"] == 1


@contextmanager
def llama_server(place):
    """Serve a GGUF file, or a tiny model written to a folder; yields the address."""
    if missing := [name for name in ("xllamacpp", "gguf") if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{' and '.join(missing)} not installed; both are in the extra `dev`")
    command = [sys.executable, str(Path(__file__).with_name("serve_llama.py")), str(place), KEY]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, text=True, **pipes)
    yield server.stdout.readline().strip() + "/v1"
    server.communicate(timeout=30)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    with llama_server(tmp_path_factory.mktemp("llama")) as address:
        yield address


def test_llama_scores_replies(llama):
    check_scores(llama)


def test_llama_scores_replies_that_try_to_break_out(llama):
    replies = [text for name, text in INJECTIONS.items() if name != "very long"]
    rewards = score(make(llama), replies)
    assert all(reward in (0, 0.25, 0.5, 0.75, 1) for reward in rewards)


def test_llama_gives_none_for_a_reply_longer_than_its_context(llama, caplog):
    assert None not in score(make(llama), REPLIES[:3])
    rewards = score(make(llama, max_failure_share=0.25), [*REPLIES[:3], INJECTIONS["very long"]])
    assert rewards[3] is None and None not in rewards[:3]
    assert "HTTP 400: 1" in caplog.text


def test_llama_whose_scores_are_not_bound_by_its_grammar(llama):
    """llama.cpp enforces bounds of whole numbers only; what is out of range is no reward."""
    rewards = score(make(llama, scale=[0, 0.5], max_failure_share=1.0), list(INJECTIONS.values())[:6])
    assert all(reward is None or 0 <= reward <= 1 for reward in rewards)


def test_llama_without_a_schema_writes_no_scores(llama):
    with pytest.raises(JudgeFailed, match="got no score from tiny .*cut off: the answer reached max_tokens"):
        score(make(llama, structured=False, sampling={"max_tokens": 20}), ["Cheer up."])


def test_llama_refuses_another_key(llama, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "another-key")
    with pytest.raises(JudgeFailed, match=r"the server refuses the key in \$JUDGE_KEY.*HTTP 401") as caught:
        score(make(llama), ["Cheer up."])
    assert "another-key" not in str(caught.value)
    with pytest.raises(JudgeFailed, match="the server requires a key, but none was sent.*HTTP 401"):
        score(make(llama, api_key_env="NO_SUCH_VARIABLE"), ["Cheer up."])


def test_llama_at_another_address(llama):
    with pytest.raises(JudgeFailed, match="model or base_url: no 'tiny' at .*/v9/chat/completions.*HTTP 404"):
        score(make(llama.replace("/v1", "/v9")), ["Cheer up."])


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    from empathy_trl.models.tiny import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("vllm")
    tokenizer = build_tokenizer(REPLIES, vocab_size=300, tags=[])
    shape = SimpleNamespace(architecture="qwen2", hidden_size=64, layers=2, heads=2, max_length=4096)
    build_model(shape, tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "4096"]
    # without it a model may fill its answer with white space, which JSON allows without end
    command += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
    # as TRL starts it, for trainings
    command += ["--weight-transfer-config", '{"backend": "nccl"}', "--logprobs-mode", "processed_logprobs"]
    log = folder / "log.txt"
    with open(log, "w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | {"VLLM_SERVER_DEV_MODE": "1"})
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=60)


def wait_until_healthy(url: str, server: subprocess.Popen, log: Path, seconds: float = 600):
    """Return when a server answers; fail with the end of its log if it ends or takes too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    pytest.fail(f"vLLM did not start: {log.read_text()[-2000:]}")


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_scores_replies(vllm):
    check_scores(vllm)


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "large"}, "model or base_url: no 'large' at .*HTTP 404"),
        ({"sampling": {"temperature": -1}}, "the server does not accept temperature: -1; .*HTTP 400"),
    ],
)
def test_vllm_refuses(vllm, settings, message):
    with pytest.raises(JudgeFailed, match=message):
        score(make(vllm, **settings), ["Cheer up."])


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_fits_the_trainings_of_its_model_only(vllm):
    address = vllm.removesuffix("/v1")
    assert server_problem(address, ["tiny"]) is None
    assert re.search("serves .* or tiny; expected large: CUDA_VISIBLE", server_problem(address, ["large"]))
    assert "it answers /health with HTTP 404" in server_problem(vllm, ["tiny"])
