"""Generation: independent of the batch size, in the order of the prompts, ended by every stop token, by any back end."""

import json
import logging
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType, SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from empathy_trl.errors import UserError
from empathy_trl.evaluation.generation import decoding, generate_shared
from empathy_trl.models import generate as backends
from empathy_trl.models.api import ApiModel
from empathy_trl.models.generate import check_installed, choose_backend, draw, generate_completions, server_problem
from empathy_trl.recipe.schema import Evaluation
from empathy_trl.tags import reply_text
from tests.local_server import LocalServer
from tests.models.livelier import make_livelier
from tests.trainers.tiny_t5 import tiny_t5

SITUATIONS = [
    "I lost my keys.",
    "My neighbours were rude and shouted all night long while I was trying to sleep before a big day.",
    "Party!",
    "The lights went out in the cellar and I was so scared that I could not move for a whole minute.",
    "Cried.",
    "We laughed.",
    "Somebody took my seat in the train, and when I asked for it back there was only a shrug.",
    "Nothing happened today.",
    "I got lost in the woods when it was dark.",
]
PROMPTS = [[{"role": "user", "content": text}] for text in SITUATIONS]


def generate(tiny, prompts=PROMPTS, **settings):
    settings = {"batch_size": 4, "max_new_tokens": 12, "progress": False} | settings
    return generate_completions(*tiny, prompts, **settings)


@pytest.mark.faults
def test_a_completion_begins_with_the_thought_that_its_prompt_opened(tiny):
    plain = generate(tiny, max_new_tokens=3)
    tiny[1].chat_template += "{% if messages[0].content == 'Party!' %}<think>\n{% endif %}"
    told = {}
    completions = generate(tiny, max_new_tokens=3, done=lambda row, text, cut_off: told.update({row: text}))
    assert [text.startswith("<think>") for text in completions] == [text == "Party!" for text in SITUATIONS]
    assert list(map(told.get, range(len(SITUATIONS)))) == completions
    assert completions[0] == plain[0] and reply_text(completions[2]) == ""


@pytest.fixture
def varied(tiny):
    """The tiny model with larger weights: its greedy completions then differ from prompt to prompt."""
    model, tokenizer = tiny
    make_livelier(model)
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings[tokenizer.pad_token_id] = -embeddings[50]  # zero by default, which would hide attention to padding
    return model, tokenizer


@pytest.fixture
def batches(tiny, monkeypatch):
    """What goes into and comes out of the model, batch by batch: (width of the prompts, generated ids)."""
    model, seen = tiny[0], []
    original = model.generate

    def spy(**inputs):
        output, width = original(**inputs), inputs["input_ids"].shape[1]
        seen.append((width, output[:, width:].tolist()))
        return output

    monkeypatch.setattr(model, "generate", spy)
    return seen


def test_greedy_text_does_not_depend_on_the_batch_size_or_the_order_of_the_prompts(varied):
    one_by_one = [generate(varied, [prompt])[0] for prompt in PROMPTS]
    assert len(set(one_by_one)) > 4, "the test needs completions that differ"
    for batch_size in (1, 4, 100):
        assert generate(varied, batch_size=batch_size) == one_by_one
    assert generate(varied, PROMPTS[::-1]) == one_by_one[::-1]


def test_the_longest_prompts_are_generated_first(tiny, batches):
    generate(tiny, batch_size=2)
    widths = [width for width, _ in batches]
    assert len(widths) == 5 and widths == sorted(widths, reverse=True) and widths[0] > widths[-1]


def test_every_stop_token_of_the_model_ends_a_completion(varied, batches):
    model, tokenizer = varied
    generate(varied, PROMPTS[:1])
    ids = batches[0][1][0]
    end = next(position for position in range(1, len(ids)) if ids[position] not in ids[:position])
    assert ids[end] not in tokenizer.all_special_ids
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, ids[end]]
    after = generate(varied)
    assert after[0] == tokenizer.decode(ids[:end])  # neither the stop token itself nor the padding behind it


def test_special_tokens_vanish_and_tags_stay(tiny):
    model, tokenizer = tiny
    answer, end = tokenizer.convert_tokens_to_ids(["<answer>", tokenizer.eos_token])

    def scripted(input_ids, **_):
        return torch.cat([input_ids, torch.tensor([[answer, end, answer]] * len(input_ids))], dim=1)

    model.generate = scripted
    assert generate(tiny) == ["<answer>"] * len(PROMPTS)


def test_tokens_are_limited(varied, batches):
    for limit in (1, 5):
        generate(varied, max_new_tokens=limit)
        assert {len(ids) for _, rows in batches for ids in rows} == {limit}
        batches.clear()


def test_generation_defaults_of_the_model_change_nothing_and_give_no_warning(varied, recwarn, caplog, monkeypatch):
    plain = generate(varied)
    config = varied[0].generation_config
    config.do_sample, config.temperature, config.top_p, config.top_k = True, 0.6, 0.8, 20
    config.repetition_penalty, config.pad_token_id = 1.5, None
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    assert generate(varied) == plain
    generate(varied, temperature=0.9)
    assert caplog.messages == []
    assert [str(warning.message) for warning in recwarn] == []


def test_model_and_tokenizer_are_left_as_they_were(tiny):
    model, tokenizer = tiny
    model.train()
    tokenizer.padding_side = "right"
    generate(tiny)
    assert model.training and tokenizer.padding_side == "right"
    model.eval()
    generate(tiny)
    assert not model.training


def test_an_encoder_decoder_writes_what_its_own_generate_does(recwarn):
    model, tokenizer = tiny_t5()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    expected = []
    for prompt in PROMPTS:
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
        output = model.generate(
            torch.tensor([ids]), max_new_tokens=12, do_sample=False, num_beams=1, no_repeat_ngram_size=0
        )
        expected.append(tokenizer.decode(output[0], skip_special_tokens=True))
    assert len(set(expected)) > 4, "the test needs completions that differ"
    usual = model.generation_config
    usual.num_beams, usual.no_repeat_ngram_size, usual.encoder_no_repeat_ngram_size = 4, 1, 1  # are not applied
    usual.forced_bos_token_id, usual.forced_eos_token_id, usual.min_length = 7, 1, 10
    for batch_size in (1, 4, 100):
        assert generate((model, tokenizer), batch_size=batch_size) == expected
    assert model.generation_config is usual
    assert [str(warning.message) for warning in recwarn] == []


def test_draws_are_those_of_multinomial_and_probabilities_are_numbers():
    probabilities, results = torch.randn(16, 4999, generator=torch.Generator().manual_seed(0)).softmax(-1), []
    for way in (lambda: torch.multinomial(probabilities, 1)[:, 0], lambda: draw(probabilities)):
        torch.manual_seed(1)
        results.append((torch.stack([way() for _ in range(5)]).tolist(), torch.get_rng_state().tolist()))
    assert results[0] == results[1]
    probabilities[3, 7] = torch.nan
    with pytest.raises(RuntimeError, match="not numbers"):
        draw(probabilities)


def test_sampling_is_repeated_by_its_seed_and_leaves_the_random_state_alone(tiny):
    prompts = [[{"role": "user", "content": f"prompt {i}"}] for i in range(6)]
    settings = {"batch_size": 6, "max_new_tokens": 8, "temperature": 1.0, "progress": False}
    before = torch.get_rng_state()
    first = generate_completions(*tiny, prompts, **settings, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert generate_completions(*tiny, prompts, **settings, seed=1) == first
    assert generate_completions(*tiny, prompts, **settings, seed=2) != first
    greedy = generate_completions(*tiny, prompts, **{**settings, "temperature": 0.0})
    assert generate_completions(*tiny, prompts, **settings, top_k=1, seed=1) == greedy
    assert generate_completions(*tiny, prompts, **settings, top_p=1e-6, seed=1) == greedy


@pytest.mark.parametrize(
    "settings, words",
    [
        ({}, "greedy decoding"),
        ({"temperature": 0.7}, "sampled at temperature 0.7, seed 42"),
        ({"temperature": 1.0, "top_p": 0.9, "top_k": 50}, "sampled at temperature 1, top-p 0.9, top-k 50, seed 42"),
    ],
)
def test_how_tokens_were_chosen_is_said_in_words(settings, words):
    assert decoding(SimpleNamespace(evaluation=Evaluation(**settings), seed=42), None) == {"decoding": words}


def test_a_model_behind_an_api_does_not_sample():
    stage = SimpleNamespace(evaluation=Evaluation(temperature=0.5), seed=0)
    model = ApiModel.__new__(ApiModel)
    with pytest.raises(UserError, match=r"evaluation.temperature: 0.5, but a model behind an API .* expected 0"):
        generate_shared(model, None, [], 1, stage)


TEXTS = ["I lost my keys.", "Party!", "The lights went out and I could not move for a whole minute.", "Cried."] * 2
CHATS = [[{"role": "user", "content": f"{number} {text}"}] for number, text in enumerate(TEXTS)]


@pytest.fixture
def ended(tiny):
    """The tiny model with larger weights, and an end that some completions reach."""
    model, tokenizer = tiny
    make_livelier(model)
    first = complete(tiny)[0]
    often = tokenizer(first, add_special_tokens=False)["input_ids"][3]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, often]
    return model, tokenizer


def complete(tiny, **settings):
    return generate(tiny, CHATS, batch_size=settings.pop("batch_size", None), **settings)


@pytest.fixture
def fake_vllm(monkeypatch):
    """A module that has what we use of vLLM, and generates with transformers what the folder holds."""
    seen = SimpleNamespace(settings=None, prompts=[], sampling=[])

    class LLM:
        def __init__(self, model, **settings):
            seen.settings, self.model = settings, AutoModelForCausalLM.from_pretrained(model)

        def generate(self, prompts, sampling, use_tqdm):
            seen.prompts += prompts
            seen.sampling += sampling
            return [self.one(*pair) for pair in zip(prompts, sampling, strict=True)]

        def one(self, prompt, sampling):
            ids = torch.tensor([prompt["prompt_token_ids"]])
            stops = sampling.stop_token_ids
            new = self.model.generate(
                ids, max_new_tokens=sampling.max_tokens, do_sample=False, eos_token_id=stops, pad_token_id=stops[0]
            )
            return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(new[0, ids.shape[1] :].tolist()))])

    fake = ModuleType("vllm")
    fake.LLM, fake.SamplingParams = LLM, SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setattr(backends, "_vllm_installed", lambda: True)
    return seen


def test_vllm_is_asked_for_the_same_prompts_and_ends(ended, fake_vllm):
    assert complete(ended, backend="vllm") == complete(ended)
    assert len(fake_vllm.prompts) == len(CHATS)
    assert fake_vllm.settings["generation_config"] == "vllm" and fake_vllm.settings["skip_tokenizer_init"]
    assert fake_vllm.settings["dtype"] == "float32" and "max_num_seqs" not in fake_vllm.settings
    assert {each.seed for each in fake_vllm.sampling} == {None}
    complete(ended, backend="vllm", temperature=0.7, top_p=0.9, top_k=5, batch_size=3)
    sampled = fake_vllm.sampling[len(CHATS) :]
    assert {(each.temperature, each.top_p, each.top_k) for each in sampled} == {(0.7, 0.9, 5)}
    assert len({each.seed for each in sampled}) == len(CHATS), "every row has a seed of its own"
    assert fake_vllm.settings["max_num_seqs"] == 3


@pytest.mark.faults
@pytest.mark.parametrize("targets", ["all-linear", ["embed_tokens"]])
def test_vllm_gets_an_adapter_merged(ended, fake_vllm, targets):
    plain = complete(ended)
    adapted = get_peft_model(ended[0], LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    expected = complete((adapted, ended[1]))
    assert complete((adapted, ended[1]), backend="vllm") == expected != plain
    assert any("lora" in name for name, _ in adapted.named_parameters()), "the model itself keeps its adapter apart"


def test_auto_takes_vllm_on_a_gpu_where_it_can(ended, fake_vllm, monkeypatch):
    model = ended[0]
    assert choose_backend("auto", model) == ("transformers", "the choice on a CPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_backend("auto", model) == ("vllm", "the choice on a GPU")
    assert choose_backend("auto", tiny_t5()[0])[0] == "transformers"
    with pytest.raises(UserError, match="--backend vllm: vLLM generates with decoders only"):
        choose_backend("vllm", tiny_t5()[0])
    monkeypatch.setattr(backends, "_vllm_installed", lambda: False)
    assert choose_backend("auto", model)[0] == "transformers"


def test_a_missing_vllm_names_the_extra(tiny, monkeypatch):
    monkeypatch.setattr(backends, "_vllm_installed", lambda: False)
    for ask in (lambda: check_installed("vllm"), lambda: choose_backend("vllm", tiny[0])):
        with pytest.raises(UserError, match=r'^--backend vllm: .*not installed: pip install "empathy-trl\[vllm\]"'):
            ask()
    check_installed("auto")


def test_the_chosen_back_end_is_said(tiny, capsys):
    stage = SimpleNamespace(evaluation=Evaluation(max_new_tokens=2), seed=0)
    generate_shared(*tiny, CHATS[:1], None, stage, backend="auto")
    assert capsys.readouterr().out == "back end: transformers (the choice on a CPU)\n"


class VllmServer(LocalServer):
    """Answers as the server that TRL needs; `answers` replaces some: path -> (status, content)."""

    def __init__(self, answers, port=0):
        info = {"weight_transfer_config": {"backend": "nccl"}, "model_config": {"logprobs_mode": "processed_logprobs"}}
        served = {"id": "policy", "root": "/cache/models--google--gemma-2-2b-it/snapshots/0f3a"}
        usual = {
            "/health": (200, ""),
            "/v1/models": (200, {"data": [served]}),
            "/server_info": (200, {"vllm_config": info}),
        }

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                status, content = (usual | answers).get(self.path.partition("?")[0], (404, {"detail": "Not Found"}))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(content).encode() if content else b"")

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"


NAMES = ["google/gemma-2-2b-it", "outputs/ed4_gemma/sft"]
START = "CUDA_VISIBLE_DEVICES=0 trl vllm-serve --model google/gemma-2-2b-it --port {port}"


@pytest.mark.faults
@pytest.mark.parametrize(
    ("answers", "path", "problem"),
    [
        ({}, "", None),
        ({"/v1/models": (200, {"data": [{"id": "ED4_gemma/SFT"}]})}, "", None),
        ({}, "/v1", "is not a vLLM server (it answers /health with HTTP 404, /v1/models with HTTP 404); expected an address without /v1, such as http://localhost:8000"),
        ({"/v1/models": (200, "<html>")}, "", "is not a vLLM server (it answers /health with HTTP 200, /v1/models with HTTP 200); expected an address without /v1, such as http://localhost:8000"),
        ({"/v1/models": (401, "")}, "", f"requires an API key, which TRL does not send; start it without one: {START}"),
        ({"/v1/models": (200, {"data": [{"id": "a", "root": "b"}]})}, "", f"serves a or b; expected {NAMES[0]} or {NAMES[1]}: {START}"),
        ({"/server_info": (500, "")}, "", "answers /server_info, which TRL needs, with HTTP 500"),
        ({"/server_info": (404, "")}, "", f"was started without VLLM_SERVER_DEV_MODE=1, which TRL needs; start it with: {START}"),
        ({"/server_info": (200, {"vllm_config": {}})}, "", f"was started without --weight-transfer-config, which TRL needs; start it with: {START}"),
        ({"/server_info": (200, {"vllm_config": {"weight_transfer_config": {"backend": "nccl"}, "model_config": {"logprobs_mode": "raw_logprobs"}}})}, "",
         f"was started without --logprobs-mode processed_logprobs, which TRL needs; start it with: {START}"),
    ],
)  # fmt: skip
def test_a_server_that_cannot_generate_for_trl_is_found_at_once(answers, path, problem):
    with VllmServer(answers) as server:
        address = server.address + path
        found = server_problem(address, NAMES, wait=60)
        assert found == (problem and f"the server at {address} {problem.format(port=server.http.server_port)}")


@pytest.mark.faults
def test_a_server_that_is_not_there_is_reported_in_seconds_or_waited_for(caplog, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, start = f"http://127.0.0.1:{port}", time.monotonic()
    how = f"start one with a GPU of its own: {START.format(port=port)}"
    assert (
        server_problem(address, NAMES) == f"no vLLM server answers at {address} ([Errno 111] Connection refused); {how}"
    )
    assert server_problem("localhost:1", NAMES).endswith("the address of a server; expected http://localhost:1")
    assert time.monotonic() - start < 60 and not caplog.text
    started = []
    monkeypatch.setattr(backends.time, "sleep", lambda seconds: started.append(VllmServer({}, port).__enter__()))
    assert server_problem(address, NAMES, wait=60) is None
    started[0].__exit__()
    how = f"waiting up to 60 seconds for one. To start it: {START.format(port=port)}"
    assert f"no vLLM server answers at {address} yet; {how}" in caplog.text
