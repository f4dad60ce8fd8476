"""Completions for chat prompts: greedy by default, batched, and the same for every batch size.

Prompts are tokenized once with the chat template, sorted so that the longest batch comes first (it shows at
once whether the batch fits in memory, and neighbours of like length need little padding), padded and generated
batch by batch: on the left for a decoder, which goes on where the prompt ends, on the right for an encoder. The
result is in the order of the prompts. Padding is done here, on plain lists: the tokenizer is never changed.
"""

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from empathy_trl.errors import UserError
from empathy_trl.evaluation.api_model import ApiModel
from empathy_trl.evaluation.sharing import shared
from empathy_trl.models import evaluating, without_generation_defaults
from empathy_trl.padding import pad


def generate_completions(
    model,
    tokenizer,
    prompts: list[list[dict]],
    *,
    batch_size: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> list[str]:
    """Return one completion per prompt, as text without special tokens.

    Args:
        model: a causal or encoder-decoder language model; put into eval mode, and back into the mode it was in.
        tokenizer: its tokenizer, with a chat template.
        prompts: one list of chat messages (`{"role", "content"}`) per example.
        batch_size: prompts generated together, at least 1. It changes speed and memory, not the text (up to
            rounding in low precision).
        max_new_tokens: a completion that has not ended by then is cut off.
        temperature: 0 takes the likeliest token; above 0 samples at that temperature, which makes the text depend on
            the batch size.
        top_p, top_k: sample from the likeliest tokens only: those that have this probability together, and this many
            (0 for any number).
        seed: of the sampling; the state of the random generators is left as it was.
        progress: show a progress bar on stderr.

    The model's own generation defaults (top-k, repetition penalty, beams, forced tokens, …) are not applied: what is evaluated is
    the distribution that was trained. A completion ends at any `eos_token_id` of the model or its tokenizer.
    """
    if not prompts:
        return []
    encoded = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)
    prompt_ids = encoded["input_ids"]
    longest_first = sorted(range(len(prompts)), key=lambda index: -len(prompt_ids[index]))
    stop_ids = end_tokens(model, tokenizer)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_ids[0]
    sampling = {"do_sample": temperature > 0}
    reads_apart = model.config.is_encoder_decoder  # then what comes out is the start token and the completion
    if temperature > 0:
        sampling |= {"temperature": temperature, "top_p": top_p, "top_k": top_k}

    completions = [""] * len(prompts)
    bar = tqdm(total=len(prompts), desc="generate", disable=not progress)
    with torch.inference_mode(), evaluating(model), without_generation_defaults(model), torch.random.fork_rng(), bar:
        torch.manual_seed(seed)
        for start in range(0, len(prompts), batch_size):
            chosen = longest_first[start : start + batch_size]
            side = "right" if reads_apart else "left"
            input_ids, attention_mask = pad([prompt_ids[index] for index in chosen], pad_id, side)
            output = model.generate(
                input_ids=input_ids.to(model.device),
                attention_mask=attention_mask.to(model.device),
                max_new_tokens=max_new_tokens,
                eos_token_id=stop_ids,
                pad_token_id=pad_id,
                use_cache=True,
                **sampling,
            )
            new_ids = output[:, 1 if reads_apart else input_ids.shape[1] :].tolist()
            for index, ids in zip(chosen, new_ids, strict=True):
                completions[index] = tokenizer.decode(ids[: first_stop(ids, stop_ids)], skip_special_tokens=True)
            bar.update(len(chosen))
    return completions


def generate_shared(model, tokenizer, prompts: list[list[dict]], batch_size: int, stage) -> list[str]:
    """Generate as a stage says, each process for its share of the prompts; all processes return all completions.

    An `ApiModel` needs no tokenizer, and has `batch_size` requests under way in each process.

    Raises:
        UserError: an `ApiModel` is to sample.
    """
    state, evaluation = PartialState(), stage.evaluation
    settings = {
        "batch_size": batch_size,
        "max_new_tokens": evaluation.max_new_tokens,
        "progress": state.is_main_process,
    }
    if isinstance(model, ApiModel):
        if evaluation.temperature > 0:
            raise UserError(
                f"evaluation.temperature: {evaluation.temperature:g}, but a model behind an API is asked for its likeliest "
                "answer; expected 0"
            )
        return shared(prompts, lambda own: model.complete(own, **settings))
    sampling = {"temperature": evaluation.temperature, "top_p": evaluation.top_p, "top_k": evaluation.top_k}
    seed = stage.seed + state.process_index
    return shared(prompts, lambda own: generate_completions(model, tokenizer, own, **settings, **sampling, seed=seed))


def decoding(stage) -> str:
    """Return in words how `generate_shared` chooses tokens."""
    evaluation = stage.evaluation
    if not evaluation.temperature:
        return "greedy decoding"
    limits = [f"top-p {evaluation.top_p:g}"] * (evaluation.top_p < 1) + [f"top-k {evaluation.top_k}"] * (
        evaluation.top_k > 0
    )
    return ", ".join([f"sampled at temperature {evaluation.temperature:g}", *limits, f"seed {stage.seed}"])


def end_tokens(model, tokenizer) -> list[int]:
    """Return all token ids that end a completion: the model's (there may be several) and the tokenizer's."""
    model_ids = model.generation_config.eos_token_id
    ids = [model_ids] if isinstance(model_ids, int) else list(model_ids or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ids:
        ids.append(tokenizer.eos_token_id)
    return ids


def first_stop(ids: list[int], stop_ids: list[int]) -> int:
    """Return where the first stop id is, or the length: what follows is padding, and not every stop token is special."""
    return next((position for position, token in enumerate(ids) if token in stop_ids), len(ids))
