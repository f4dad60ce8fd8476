"""Completions for chat prompts, by any back end: the same prompts, ends and texts, streamed to disk as they come."""

import functools
from collections.abc import Callable
from pathlib import Path

from accelerate import PartialState
from tqdm.auto import tqdm

from empathy_trl.digest import digest
from empathy_trl.errors import UserError
from empathy_trl.generation.api_model import ApiModel
from empathy_trl.generation.backends import backend_function, choose_backend
from empathy_trl.generation.prompts import Asked, completion_of, end_tokens, prompt_tokens
from empathy_trl.generation.stream import Stream, weights_digest
from empathy_trl.processes import shared

REQUESTS = 32  # under way at a time where nobody says how many


def generate_completions(
    model,
    tokenizer,
    prompts: list[list[dict]],
    *,
    batch_size: int | None = None,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    progress: bool = True,
    backend: str = "transformers",
    rows: list[int] | None = None,
    done: Callable[[int, str], object] | None = None,
) -> list[str]:
    """Return one completion per prompt, as text without special tokens.

    Args:
        model: a causal or encoder-decoder language model; put into eval mode, and back into the mode it was in.
        tokenizer: its tokenizer, with a chat template.
        prompts: one list of chat messages (`{"role", "content"}`) per example.
        batch_size: prompts generated together, at least 1; None: as many as memory holds. It changes speed and memory,
            not the text (up to rounding in low precision). Where memory runs out, it is halved.
        max_new_tokens: a completion that has not ended by then is cut off.
        temperature: 0 takes the likeliest token; above 0 samples at that temperature.
        top_p, top_k: sample from the likeliest tokens only: those that have this probability together, and this many
            (0 for any number).
        seed: of the sampling; the random generators of the process are not used.
        progress: show a progress bar on stderr.
        backend: one of `backends.BACKENDS`.
        rows: number of every prompt, which seeds its sampling together with `seed`; by default 0, 1, 2, …
        done: called with the number and the completion of a prompt as soon as it is there.

    The model's own generation defaults (top-k, repetition penalty, beams, forced tokens, …) are not applied: what is
    evaluated is the distribution that was trained. A completion ends at any `eos_token_id` of the model or its tokenizer.

    Raises:
        UserError: memory runs out with a single prompt.
    """
    if not prompts:
        return []
    rows = list(range(len(prompts))) if rows is None else rows
    stop_ids = end_tokens(model, tokenizer)
    asked = Asked(
        ids=prompt_tokens(tokenizer, prompts),
        rows=rows,
        stop_ids=stop_ids,
        pad_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_ids[0],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
    )
    completions = [""] * len(prompts)
    with tqdm(total=len(prompts), desc="generate", disable=not progress) as bar:
        for place, ids in backend_function(backend)(model, asked, batch_size):
            completions[place] = completion_of(tokenizer, ids, stop_ids)
            if done:
                done(rows[place], completions[place])
            bar.update()
    return completions


def generate_shared(
    model,
    tokenizer,
    prompts: list[list[dict]],
    batch_size: int | None,
    stage,
    *,
    backend: str = "transformers",
    partial: Path | None = None,
) -> list[str]:
    """Generate as a stage says, each process for its share of the prompts; all processes return all completions.

    An `ApiModel` needs no tokenizer, and has `batch_size` requests under way in each process.

    Args:
        backend: one of `backends.CHOICES`.
        partial: file to which completions are written as they come, and from which those of an interrupted evaluation are
            taken; None for no such file.

    Raises:
        UserError: an `ApiModel` is to sample, or a back end cannot do what is asked.
    """
    make = _served if isinstance(model, ApiModel) else _local
    complete, decides = make(model, tokenizer, batch_size, stage, backend)
    stream = None if partial is None else Stream(partial, _header(model, tokenizer, prompts, decides))
    found = {} if stream is None else stream.found
    missing = [row for row in range(len(prompts)) if row not in found]
    hooks = {} if stream is None else {"done": stream.add}
    try:
        made = shared(missing, lambda rows: complete([prompts[row] for row in rows], rows=rows, **hooks))
    finally:
        if stream is not None:
            stream.close()
    completions = found | dict(zip(missing, made, strict=True))
    return [completions[row] for row in range(len(prompts))]


def _served(model: ApiModel, tokenizer, batch_size: int | None, stage, backend: str) -> tuple[Callable, dict]:
    """Return what completes prompts on a server, and the settings that decide what comes."""
    temperature = stage.evaluation.temperature
    if temperature > 0:
        raise UserError(
            f"evaluation.temperature: {temperature:g}, but a model behind an API is asked for its likeliest answer; expected 0"
        )
    if backend not in ("auto", "transformers"):
        raise UserError(f"--backend {backend}: the model is behind an API and generates there; expected auto")
    decides = {"max_new_tokens": stage.evaluation.max_new_tokens}
    how = {"batch_size": REQUESTS if batch_size is None else batch_size, "progress": PartialState().is_main_process}
    return functools.partial(model.complete, **how, **decides), decides


def _local(model, tokenizer, batch_size: int | None, stage, backend: str) -> tuple[Callable, dict]:
    """Return what completes prompts with a model that is loaded, and the settings that decide what comes."""
    state, evaluation = PartialState(), stage.evaluation
    if backend != "transformers":
        backend, why = choose_backend(backend, model, evaluation.temperature)
        state.print(f"back end: {backend} ({why})", flush=True)
    decides = {name: getattr(evaluation, name) for name in ("max_new_tokens", "temperature", "top_p", "top_k")}
    decides |= {"seed": stage.seed, "backend": backend}
    how = {"batch_size": batch_size, "progress": state.is_main_process}
    return functools.partial(generate_completions, model, tokenizer, **how, **decides), decides


def _header(model, tokenizer, prompts: list[list[dict]], decides: dict) -> dict:
    """Return what decides the completions; the seed decides nothing where nothing is sampled."""
    said = {name: value for name, value in decides.items() if name != "seed" or decides["temperature"]}
    if isinstance(model, ApiModel):
        return {"model": model.name, "base_url": model.base_url, "prompts": digest(prompts), "settings": said}
    # the tokens of one prompt tell tokenizers apart; those of all would be made twice
    asked = [prompts, tokenizer.chat_template, prompt_tokens(tokenizer, prompts[:1]), end_tokens(model, tokenizer)]
    return {"weights": weights_digest(model), "prompts": digest(asked), "settings": said}


def decoding(stage) -> str:
    """Return in words how `generate_shared` chooses tokens."""
    evaluation = stage.evaluation
    if not evaluation.temperature:
        return "greedy decoding"
    limits = [f"top-p {evaluation.top_p:g}"] * (evaluation.top_p < 1) + [f"top-k {evaluation.top_k}"] * (
        evaluation.top_k > 0
    )
    return ", ".join([f"sampled at temperature {evaluation.temperature:g}", *limits, f"seed {stage.seed}"])
