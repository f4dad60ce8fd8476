"""Back ends: the same greedy completions, the right one chosen, and a clear word where one cannot do it."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from empathy_trl.errors import UserError
from empathy_trl.evaluation.generation import generate_shared
from empathy_trl.models import generate as backends
from empathy_trl.models.generate import check_installed, choose_backend, generate_completions
from empathy_trl.recipe.schema import Evaluation
from tests.models.livelier import make_livelier
from tests.trainers.tiny_t5 import tiny_t5

TEXTS = ["I lost my keys.", "Party!", "The lights went out and I could not move for a whole minute.", "Cried."] * 2
PROMPTS = [[{"role": "user", "content": f"{number} {text}"}] for number, text in enumerate(TEXTS)]


@pytest.fixture
def varied(tiny):
    """The tiny model with larger weights, and an end that some completions reach."""
    model, tokenizer = tiny
    make_livelier(model)
    first = generate(tiny)[0]
    often = tokenizer(first, add_special_tokens=False)["input_ids"][3]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, often]
    return model, tokenizer


def generate(tiny, **settings):
    return generate_completions(*tiny, PROMPTS, **{"max_new_tokens": 12, "progress": False} | settings)


@pytest.fixture
def fake_vllm(monkeypatch):
    """A module that has what we use of vLLM, and generates with transformers what the folder holds."""
    seen = SimpleNamespace(settings=None, prompts=[], sampling=[])

    class LLM:
        def __init__(self, model, **settings):
            from transformers import AutoModelForCausalLM

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


def test_vllm_is_asked_for_the_same_prompts_and_ends(varied, fake_vllm):
    assert generate(varied, backend="vllm") == generate(varied)
    assert len(fake_vllm.prompts) == len(PROMPTS)
    assert fake_vllm.settings["generation_config"] == "vllm" and fake_vllm.settings["skip_tokenizer_init"]
    assert fake_vllm.settings["dtype"] == "float32" and "max_num_seqs" not in fake_vllm.settings
    assert {each.seed for each in fake_vllm.sampling} == {None}
    generate(varied, backend="vllm", temperature=0.7, top_p=0.9, top_k=5, batch_size=3)
    sampled = fake_vllm.sampling[len(PROMPTS) :]
    assert {(each.temperature, each.top_p, each.top_k) for each in sampled} == {(0.7, 0.9, 5)}
    assert len({each.seed for each in sampled}) == len(PROMPTS), "every row has a seed of its own"
    assert fake_vllm.settings["max_num_seqs"] == 3


def test_vllm_gets_an_adapter_merged(varied, fake_vllm):
    from peft import LoraConfig, get_peft_model

    plain = generate(varied)
    adapted = get_peft_model(varied[0], LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    expected = generate((adapted, varied[1]))
    assert generate((adapted, varied[1]), backend="vllm") == expected != plain
    assert any("lora" in name for name, _ in adapted.named_parameters()), "the model itself keeps its adapter apart"


def test_auto_takes_vllm_on_a_gpu_where_it_can(varied, fake_vllm, monkeypatch):
    model = varied[0]
    assert choose_backend("auto", model) == ("transformers", "the choice on a CPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_backend("auto", model) == ("vllm", "the choice on a GPU")
    assert choose_backend("auto", tiny_t5()[0])[0] == "transformers"
    monkeypatch.setattr(backends, "_vllm_installed", lambda: False)
    assert choose_backend("auto", model)[0] == "transformers"


def test_what_a_back_end_cannot_do_is_refused(fake_vllm):
    with pytest.raises(UserError, match="--backend vllm: vLLM generates with decoders only"):
        choose_backend("vllm", tiny_t5()[0])


def test_a_missing_vllm_names_the_extra(tiny, monkeypatch):
    monkeypatch.setattr(backends, "_vllm_installed", lambda: False)
    for ask in (lambda: check_installed("vllm"), lambda: choose_backend("vllm", tiny[0])):
        with pytest.raises(
            UserError, match=r'--backend vllm: vLLM is not installed: pip install "empathy-trl\[vllm\]"'
        ):
            ask()
    check_installed("auto")


def test_the_chosen_back_end_is_said(tiny, capsys):
    stage = SimpleNamespace(evaluation=Evaluation(max_new_tokens=2), seed=0)
    generate_shared(*tiny, PROMPTS[:1], None, stage, backend="auto")
    assert capsys.readouterr().out == "back end: transformers (the choice on a CPU)\n"
