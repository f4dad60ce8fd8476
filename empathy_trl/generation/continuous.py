"""Back end `continuous`: transformers' continuous batching, in which a row that ends makes room for the next one at once.

It needs no padding and wastes no step on rows that have ended, but pays for it with kernels that are made for GPUs.
"""

import logging
from collections.abc import Iterator

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.utils import WorkloadHints

from empathy_trl.generation.batches import fitting_rows
from empathy_trl.generation.prompts import Asked
from empathy_trl.models import evaluating

BLOCK = 32  # tokens of a cache block
WAIT = 1.0  # seconds between looks at whether it still runs


def complete_continuously(model, asked: Asked, batch_size: int | None) -> Iterator[tuple[int, list[int]]]:
    """Yield (place of a prompt, tokens of its completion) as the completions end; greedy.

    Args:
        model: a causal language model.
        asked: the prompts; `temperature` is 0.
        batch_size: prompts under way at a time; None: as many as memory holds.

    Raises:
        RuntimeError: the library gives a request up, or its loop ends early.
    """
    order = asked.longest_first()
    longest = len(asked.ids[order[0]])
    tokens = longest + asked.max_new_tokens
    rows = fitting_rows(model, tokens, read=longest, logits=1) if batch_size is None else batch_size
    rows = min(rows, len(order))
    config = ContinuousBatchingConfig(
        block_size=BLOCK,
        num_blocks=rows * (tokens // BLOCK + 1),
        max_batch_tokens=max(longest, rows),
        max_requests_per_batch=rows,
    )
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=asked.max_new_tokens, eos_token_id=asked.stop_ids, pad_token_id=asked.pad_id
    )
    running = model.continuous_batching_context_manager(
        generation_config=greedy,
        continuous_batching_config=config,
        workload_hints=WorkloadHints(
            max_prompt_length=longest, max_generated_length=asked.max_new_tokens, num_requests=len(order)
        ),
    )
    attention = model.config._attn_implementation
    quiet = logging.getLogger("transformers.generation.continuous_batching")
    level, waiting = quiet.level, len(order)
    quiet.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), evaluating(model), running as manager:
            for place in order:
                manager.add_request(asked.ids[place], str(place), asked.max_new_tokens, eos_token_id=asked.stop_ids)
            while waiting:
                result = manager.get_result(timeout=WAIT)
                if result is None:
                    if not manager.is_running():
                        raise RuntimeError(f"continuous batching ended with {waiting} prompts left: {_why(manager)}")
                elif result.error is not None:
                    raise RuntimeError(f"continuous batching gave a prompt up: {result.error}")
                elif result.is_finished():
                    waiting -= 1
                    yield int(result.request_id), result.generated_tokens
    finally:
        quiet.setLevel(level)
        model.set_attn_implementation(attention)


def _why(manager) -> str:
    return str(manager.background_thread_status.fatal_error or "it gave no reason")
