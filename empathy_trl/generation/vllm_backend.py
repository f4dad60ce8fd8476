"""Back end `vllm`: made for GPUs, where it is installed.

vLLM reads a model from a folder. It gets the weights as they are loaded here (an adapter merged, a revision resolved),
through a temporary folder; meanwhile the model itself waits in the memory of the CPU. Tokens go in and come out, so that
prompts and texts are made by the same tokenizer as in every other back end.
"""

import copy
import gc
import tempfile
from collections.abc import Iterator

import torch
from peft import PeftModel

from empathy_trl.generation.prompts import Asked

CHUNK = 256  # prompts per call: what is lost at most when an evaluation is interrupted


def complete_with_vllm(model, asked: Asked, batch_size: int | None) -> Iterator[tuple[int, list[int]]]:
    """Yield (place of a prompt, tokens of its completion).

    Args:
        model: a causal language model of transformers.
        asked: the prompts.
        batch_size: prompts under way at a time; None leaves that to vLLM.
    """
    from vllm import LLM, SamplingParams

    device, order = model.device, asked.longest_first()
    limits = {} if batch_size is None else {"max_num_seqs": batch_size}
    with tempfile.TemporaryDirectory(prefix="empathy_trl_") as folder:
        model.to("cpu")  # first: merging an adapter takes a copy
        _save(model, folder)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        engine = LLM(
            model=folder,
            skip_tokenizer_init=True,
            generation_config="vllm",  # not the model's own defaults
            dtype=str(model.dtype).removeprefix("torch."),
            max_model_len=len(asked.ids[order[0]]) + asked.max_new_tokens,
            **limits,
        )
        try:
            for start in range(0, len(order), CHUNK):
                places = order[start : start + CHUNK]
                settings = [_settings(SamplingParams, asked, place) for place in places]
                prompts = [{"prompt_token_ids": asked.ids[place]} for place in places]
                found = engine.generate(prompts, settings, use_tqdm=False)
                for place, request in zip(places, found, strict=True):
                    yield place, list(request.outputs[0].token_ids)
        finally:
            del engine
            gc.collect()
            model.to(device)


def _settings(make, asked: Asked, place: int):
    sampling = {"temperature": asked.temperature, "top_p": asked.top_p, "top_k": asked.top_k}
    seed = asked.row_seed(place) if asked.temperature else None
    ends = {"max_tokens": asked.max_new_tokens, "stop_token_ids": asked.stop_ids, "detokenize": False}
    return make(**sampling, **ends, seed=seed)


def _save(model, folder: str) -> None:
    whole = copy.deepcopy(model).merge_and_unload() if isinstance(model, PeftModel) else model
    whole.save_pretrained(folder)
