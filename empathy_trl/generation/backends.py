"""Which back end generates: what is asked for, where it can, and else the choice for this machine."""

import importlib
from importlib.util import find_spec

import torch
from accelerate import PartialState

from empathy_trl.errors import UserError

# name -> module and function; heavy, and imported when one of them is chosen
BACKENDS = {
    "transformers": ("padded", "complete_padded"),
    "continuous": ("continuous", "complete_continuously"),
    "vllm": ("vllm_backend", "complete_with_vllm"),
}
CHOICES = ("auto", *BACKENDS)


def backend_function(name: str):
    """Return a back end: (model, asked, batch_size) -> (place of a prompt, tokens of its completion), as they come."""
    module, function = BACKENDS[name]
    return getattr(importlib.import_module(f"empathy_trl.generation.{module}"), function)


def choose_backend(name: str, model, temperature: float) -> tuple[str, str]:
    """Return the back end to use and why, in words.

    Padded batches are the choice without vLLM: the 328 test rows of ED_easy_4 took 1.4 s of CPU time in them and 3.3 s in
    continuous batching (model of ed4_tiny, greedy, one thread, 64 rows at a time). Larger models, and GPUs, were not measured.

    Args:
        name: one of `CHOICES`.
        model: a language model.
        temperature: of the sampling, 0 for none.

    Raises:
        UserError: the back end that is asked for is not installed, or cannot do that.
    """
    why_not = {"transformers": None, "continuous": _not_continuous(model, temperature), "vllm": _not_vllm(model)}
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


def _not_continuous(model, temperature: float) -> str | None:
    if model.config.is_encoder_decoder:
        return "transformers batches continuously decoders only, and this is an encoder-decoder"
    if temperature > 0:
        return f"evaluation.temperature is {temperature:g}, and it cannot sample with a seed for every row"
    return None


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
