"""Completions for chat prompts, with transformers or vLLM: both use the same prompts, end tokens and texts.

`generate` is for a few texts or chats, `generate_completions` for an evaluation. `choose_backend` decides which back
end generates:

* `transformers` (`complete_padded`): batches of similar length with `model.generate`. Prompts of a decoder are padded
  on the left, because the completion follows them; prompts of an encoder are padded on the right.
* `vllm` (`complete_with_vllm`): for GPUs, if vLLM is installed. vLLM reads a model from a folder, so the loaded weights
  (with an adapter merged and a revision resolved) are saved to a temporary folder. The input and output are tokens, so
  the tokenizer is the same.

Each prompt is sampled with a random number generator seeded by its row number: the next token is the argmax of
log-probability + Gumbel noise (Maddison et al., A* Sampling, 2014). A completion therefore does not depend on the other
prompts of its batch, the batch size, the number of processes or an interruption.

TRL's trainers have a vLLM of their own (`use_vllm`): `server_problem` says why a server cannot generate for one.
"""

import copy
import gc
import logging
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import httpx
import torch
from accelerate import PartialState
from peft import PeftModel
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from empathy_trl.cli import Progress
from empathy_trl.errors import UserError, show
from empathy_trl.models.adapters import TOKENS, fused_adapters, merge_adapter
from empathy_trl.models.batching import (
    completion_of,
    end_tokens,
    fitting_rows,
    in_batches,
    opened_thought,
    pad,
    prompt_tokens,
    read_prefix,
)
from empathy_trl.models.limits import Limits, check_vocabulary
from empathy_trl.models.load import evaluating, without_generation_defaults

logger = logging.getLogger(__name__)

THOUGHT_TOKENS = 16  # at the end of a prompt: enough to hold `<think>` in any vocabulary


def generate(model, tokenizer, prompts, *, max_new_tokens: int, progress: bool = False, **settings) -> list[str]:
    """Return one completion per prompt, as text without special tokens.

    Args:
        model, tokenizer: as `load_model` returns them.
        prompts: each is a text (the user's message) or a list of chat messages (`{"role", "content"}`).
        max_new_tokens: maximum length of a completion in tokens.
        progress: show a progress bar on stderr.
        **settings: `batch_size`, `temperature` (0, the default, is greedy decoding), `top_p`, `top_k`, `seed`, as
            `generate_completions` takes them.

    Raises:
        UserError: the model is not loaded, `prompts` are not of this form, or what `generate_completions` raises.
    """
    if isinstance(model, str | Path):
        raise UserError(f"model: {str(model)!r} is a name; expected a loaded model, which load_model returns")
    if isinstance(prompts, str):
        raise UserError("prompts: a single text; expected a list of texts or of chat messages")
    chats = [[{"role": "user", "content": each}] if isinstance(each, str) else each for each in prompts]
    for number, chat in enumerate(chats):
        if not (isinstance(chat, list) and chat and all(isinstance(turn, dict) and "role" in turn for turn in chat)):
            raise UserError(f"prompts[{number}]: {show(chat)}; expected a text or chat messages with role and content")
    return generate_completions(model, tokenizer, chats, max_new_tokens=max_new_tokens, progress=progress, **settings)


@dataclass(frozen=True)
class GenerationRequest:
    """Prompts as tokens, and how each is to be completed.

    Attributes:
        ids: tokens of every prompt, as the chat template writes it up to where the answer begins.
        rows: number of every prompt in the whole evaluation, which seeds its sampling.
        stop_ids: tokens that end a completion.
        pad_id: the token of padding.
        max_new_tokens: a completion that has not ended by then is cut off.
        temperature: 0 takes the likeliest token.
        top_p, top_k: sample from the likeliest tokens only.
        seed: of the sampling.
    """

    ids: list[list[int]]
    rows: list[int]
    stop_ids: list[int]
    pad_id: int
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int

    def longest_first(self) -> list[int]:
        """Return the places of the prompts, the longest first: memory runs out at once or never, and lengths are similar."""
        return sorted(range(len(self.ids)), key=lambda place: -len(self.ids[place]))

    def row_seed(self, place: int) -> int:
        """Return the seed of a prompt's random numbers, below 2**63."""
        return (self.seed * 1_000_003 + self.rows[place] * 7919) % 2**63


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
    done: Callable[[int, str, bool], object] | None = None,
) -> list[str]:
    """Return one completion per prompt, as text without special tokens.

    Where the chat template opens a thought, the completion begins with `<think>`, as if the model had written it.

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
        backend: one of `BACKENDS`.
        rows: number of every prompt, which seeds its sampling together with `seed`; by default 0, 1, 2, …
        done: called as soon as a completion is there, with the number of its prompt, its text, and whether it was cut off.

    The model's own generation defaults (top-k, repetition penalty, beams, forced tokens, …) are not applied: what is
    evaluated is the distribution that was trained. A completion ends at any `eos_token_id` of the model or its tokenizer.

    Raises:
        UserError: a prompt and `max_new_tokens` are more than the model's positions, the tokenizer has tokens that the
            model does not know, or memory runs out with a single prompt.
    """
    if not prompts:
        return []
    check_vocabulary(model, tokenizer, model.name_or_path or "the model")
    rows = list(range(len(prompts))) if rows is None else rows
    stop_ids = end_tokens(model, tokenizer)
    request = GenerationRequest(
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
    lengths = [(len(ids), max_new_tokens) for ids in request.ids]
    Limits.of(model).check(lengths, "prompts", "shorten it, or lower max_new_tokens", rows)
    completions = [""] * len(prompts)
    thoughts = [opened_thought(tokenizer.decode(ids[-THOUGHT_TOKENS:])) for ids in request.ids]
    with Progress("generate", len(prompts), "prompt", disable=not progress) as bar:
        for place, ids in BACKENDS[backend](model, request, batch_size):
            completions[place] = thoughts[place] + completion_of(tokenizer, ids, stop_ids)
            if done:
                done(rows[place], completions[place], not set(stop_ids).intersection(ids))
            bar.update()
    return completions


def complete_padded(model, request: GenerationRequest, batch_size: int | None) -> Iterator[tuple[int, list[int]]]:
    """Yield (place of a prompt, tokens of its completion and perhaps more behind its end), batch by batch.

    Args:
        model: a causal or encoder-decoder language model; put into eval mode, and back into the mode it was in.
        request: the prompts.
        batch_size: prompts generated together; None: as many as memory holds.
    """
    reads_apart = model.config.is_encoder_decoder  # then what comes out is the start token and the completion

    def size(places: list[int]) -> int:
        if batch_size is not None:
            return batch_size
        longest = len(request.ids[places[0]])
        return fitting_rows(model, longest + request.max_new_tokens, read=longest, logits=1)

    def work(places: list[int]) -> list[list[int]]:
        start = len(prefix) if prefix else 0
        own = [request.ids[place][start:] for place in places]
        ids, mask = (part.to(model.device) for part in pad(own, request.pad_id, "right" if reads_apart else "left"))
        output = model.generate(
            **(prefix.before(ids, mask) if prefix else {"input_ids": ids, "attention_mask": mask}),
            max_new_tokens=request.max_new_tokens,
            eos_token_id=request.stop_ids,
            pad_token_id=request.pad_id,
            use_cache=True,
            do_sample=False,  # the noise is in the logits already
            synced_gpus=False,  # each process has other prompts and the whole model; ZeRO-3 would wait for the others
            logits_processor=_sampling(request, places, model.device),
        )
        return output[:, 1 if reads_apart else start + ids.shape[1] :].tolist()

    with torch.inference_mode(), evaluating(model), without_generation_defaults(model), fused_adapters(model):
        prefix = read_prefix(model, request.ids, request.max_new_tokens)
        yield from in_batches(request.longest_first(), size, work, what="prompt")


def _sampling(request: GenerationRequest, places: list[int], device) -> LogitsProcessorList:
    if not request.temperature:
        return LogitsProcessorList()
    kept = [TemperatureLogitsWarper(request.temperature)]
    kept += [TopKLogitsWarper(request.top_k)] if request.top_k else []
    kept += [TopPLogitsWarper(request.top_p)] if request.top_p < 1 else []
    return LogitsProcessorList([*kept, RowNoise([request.row_seed(place) for place in places], device)])


class RowNoise(LogitsProcessor):
    """Adds Gumbel noise to logits, so that their largest is a sample; every row has a generator of its own."""

    def __init__(self, seeds: list[int], device):
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise = [exponential(scores.shape[1:], scores.device, generator) for generator in self.generators]
        return scores.float() - torch.stack(noise).log()


def draw(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the tokens that `torch.multinomial` draws, in a third of the time on a CPU.

    Args:
        probabilities: float32, shape (rows, vocabulary).

    Raises:
        RuntimeError: a probability is not a number.
    """
    if probabilities.device.type != "cpu":
        return torch.multinomial(probabilities, num_samples=1)[:, 0]
    largest, tokens = (probabilities / exponential(probabilities.shape, probabilities.device)).max(-1)
    if largest.isnan().any():
        raise RuntimeError("the model's probabilities are not numbers (nan)")
    return tokens


def exponential(shape, device, generator: torch.Generator | None = None) -> torch.Tensor:
    """Return what `torch.empty(shape).exponential_()` draws, in half the time on a CPU: it computes one logarithm at a time there."""
    if device.type != "cpu":
        return torch.empty(shape, device=device).exponential_(generator=generator)
    uniform = torch.empty(shape, dtype=torch.float64).uniform_(generator=generator)
    return uniform.neg_().log1p_().neg_().float()


CHUNK = 256  # prompts per call: what is lost at most when an evaluation is interrupted


def complete_with_vllm(model, request: GenerationRequest, batch_size: int | None) -> Iterator[tuple[int, list[int]]]:
    """Yield (place of a prompt, tokens of its completion).

    Args:
        model: a causal language model of transformers.
        request: the prompts.
        batch_size: prompts under way at a time; None leaves that to vLLM.
    """
    from vllm import LLM, SamplingParams

    device, order = model.device, request.longest_first()
    limits = {} if batch_size is None else {"max_num_seqs": batch_size}
    with tempfile.TemporaryDirectory(prefix="empathy_trl_") as folder:
        model.to("cpu")  # first: merging an adapter takes a copy
        _save(model, request, folder)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        engine = LLM(
            model=folder,
            skip_tokenizer_init=True,
            generation_config="vllm",  # not the model's own defaults
            dtype=str(model.dtype).removeprefix("torch."),
            max_model_len=len(request.ids[order[0]]) + request.max_new_tokens,
            **limits,
        )
        try:
            for start in range(0, len(order), CHUNK):
                places = order[start : start + CHUNK]
                settings = [_settings(SamplingParams, request, place) for place in places]
                prompts = [{"prompt_token_ids": request.ids[place]} for place in places]
                outputs = engine.generate(prompts, settings, use_tqdm=False)
                for place, output in zip(places, outputs, strict=True):
                    yield place, list(output.outputs[0].token_ids)
        finally:
            del engine
            gc.collect()
            model.to(device)


def _settings(make, request: GenerationRequest, place: int):
    sampling = {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
    seed = request.row_seed(place) if request.temperature else None
    ends = {"max_tokens": request.max_new_tokens, "stop_token_ids": request.stop_ids, "detokenize": False}
    return make(**sampling, **ends, seed=seed)


def _save(model, request: GenerationRequest, folder: str) -> None:
    """Save a model with its adapters merged, compared on the ends of the first prompts."""
    if isinstance(model, PeftModel):
        inputs = [{"input_ids": torch.tensor([ids[-TOKENS:]])} for ids in request.ids[:8]]
        merge_adapter(copy.deepcopy(model), inputs, name="the adapter", folder=folder)
    else:
        model.save_pretrained(folder)


# name -> (model, request, batch_size) -> (place of a prompt, tokens of its completion), as they come
BACKENDS = {"transformers": complete_padded, "vllm": complete_with_vllm}
CHOICES = ("auto", *BACKENDS)


def choose_backend(name: str, model) -> tuple[str, str]:
    """Return the back end to use and why, in words.

    Padded batches are the choice without vLLM. transformers' continuous batching is not offered: it took 3.3 s of CPU time
    for the 328 test rows of ED_easy_4, against 1.4 s (model of ed4_tiny, greedy, one thread, 64 rows at a time).

    Args:
        name: one of `CHOICES`.
        model: a language model.

    Raises:
        UserError: the back end that is asked for is not installed, or cannot do that.
    """
    why_not = {"transformers": None, "vllm": _not_vllm(model)}
    if name != "auto":
        if why_not[name]:
            raise UserError(f"--backend {name}: {why_not[name]}; expected --backend transformers, or auto")
        return name, "as asked"
    if not torch.cuda.is_available():
        return "transformers", "the choice on a CPU"
    if why_not["vllm"]:
        return "transformers", f"not vllm: {why_not['vllm']}"
    return "vllm", "the choice on a GPU"


def check_installed(name: str) -> None:
    """Raise UserError where a back end is asked for that is not installed; needs no model."""
    if name == "vllm" and not _vllm_installed():
        raise UserError(f"--backend vllm: {NOT_INSTALLED}; or choose --backend transformers")


NOT_INSTALLED = 'vLLM is not installed: pip install "empathy-trl[vllm]"'


def _vllm_installed() -> bool:
    return find_spec("vllm") is not None


def _not_vllm(model) -> str | None:
    if not _vllm_installed():
        return NOT_INSTALLED
    if model.config.is_encoder_decoder:
        return "vLLM generates with decoders only, and this is an encoder-decoder"
    if getattr(model, "is_quantized", False):
        return "the model is quantised as it is loaded, which vLLM cannot read"
    if PartialState().num_processes > 1:
        return f"it uses a whole GPU by itself, and this is one of {PartialState().num_processes} processes"
    return None


ANSWER_WAIT, INFO_WAIT = 5.0, 60.0  # seconds; for its first `/server_info`, a server asks the system for much


def server_problem(address: str, names: list[str], wait: float = 0.0) -> str | None:
    """Return why a vLLM server cannot generate for TRL's trainers, and what to do; None if it can.

    TRL's own client waits without a message, and for ever if the address has a wrong path. It sends the trained weights to
    the server before the first completion, so the server may start with any weights of the same shapes.

    Args:
        address: such as "http://localhost:8000".
        names: models with weights of these shapes; the command that is shown starts the first one.
        wait: seconds until the server has to be there.
    """
    if not address.startswith(("http://", "https://")):
        return f"{address} is not the address of a server; expected http://{address}"
    start = f"CUDA_VISIBLE_DEVICES=0 trl vllm-serve --model {shlex.quote(names[0])}"
    if (port := address.rpartition(":")[2]).isdigit():
        start += f" --port {port}"
    end, (health, answer) = time.monotonic() + wait, _ask(f"{address}/health")
    if wait and answer is None:
        logger.warning(
            "no vLLM server answers at %s yet; waiting up to %g seconds for one. To start it: %s", address, wait, start
        )
    while answer is None and time.monotonic() < end:
        time.sleep(1)
        health, answer = _ask(f"{address}/health")
    if answer is None:
        return f"no vLLM server answers at {address} ({health}); start one with a GPU of its own: {start}"
    listing, answer = _ask(f"{address}/v1/models")
    if (health, listing) == ("HTTP 200", "HTTP 401"):
        return f"the server at {address} requires an API key, which TRL does not send; start it without one: {start}"
    if health != "HTTP 200" or not answer or "data" not in answer:
        answers = f"/health with {health}, /v1/models with {listing}"
        return f"the server at {address} is not a vLLM server (it answers {answers}); expected an address without /v1, such as http://localhost:8000"
    served = {str(model.get(key)) for model in answer["data"] for key in ("id", "root") if model.get(key)}
    if not any(_is_same_model(each, name) for each in served for name in names):
        return f"the server at {address} serves {' or '.join(sorted(served))}; expected {' or '.join(names)}: {start}"
    info, answer = _ask(f"{address}/server_info?config_format=json", INFO_WAIT)
    if info not in ("HTTP 200", "HTTP 404"):
        return f"the server at {address} answers /server_info, which TRL needs, with {info}"
    config = answer.get("vllm_config", {})
    logprobs = config.get("model_config", {}).get("logprobs_mode")
    missing = {
        "VLLM_SERVER_DEV_MODE=1": info == "HTTP 404",
        "--weight-transfer-config": not config.get("weight_transfer_config"),
        "--logprobs-mode processed_logprobs": logprobs != "processed_logprobs",
    }
    if lacks := [setting for setting, is_missing in missing.items() if is_missing]:
        return f"the server at {address} was started without {lacks[0]}, which TRL needs; start it with: {start}"
    return None


def _ask(url: str, seconds: float = ANSWER_WAIT) -> tuple[str, dict | None]:
    """Return a server's status, such as "HTTP 200", and its JSON object, or {}; why it does not answer, and None."""
    try:
        response = httpx.get(url, timeout=seconds)
        content = response.json()
    except (httpx.TransportError, httpx.InvalidURL) as error:
        return str(error) or type(error).__name__, None
    except ValueError:  # no JSON
        content = {}
    return f"HTTP {response.status_code}", content if isinstance(content, dict) else {}


def _is_same_model(served: str, name: str) -> bool:
    """Say whether a server's model is that of a recipe, which may lie in another folder or in the Hub's cache there."""
    return Path(served).name.lower() == Path(name).name.lower() or f"models--{name.replace('/', '--')}" in served
