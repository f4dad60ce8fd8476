"""Back end `transformers`: batches of like length, padded, with `model.generate`.

A decoder's prompts are padded on the left, because it goes on where the prompt ends; an encoder's on the right. Padding is
done on plain lists: the tokenizer is never changed. What all prompts of a decoder begin with is read once (`prefix`).

Every prompt samples with random numbers of its own: a token is drawn as the largest of log-probability + Gumbel noise
(Maddison et al., A* Sampling, 2014), whose generator is seeded by the number of the row. What is drawn therefore depends
on no neighbour, no batch size, no number of processes and no interruption.
"""

from collections.abc import Iterator

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from empathy_trl.generation.batches import fitting_rows, in_batches
from empathy_trl.generation.prefix import read_prefix
from empathy_trl.generation.prompts import Asked
from empathy_trl.models import evaluating, without_generation_defaults
from empathy_trl.padding import pad


def complete_padded(model, asked: Asked, batch_size: int | None) -> Iterator[tuple[int, list[int]]]:
    """Yield (place of a prompt, tokens of its completion and perhaps more behind its end), batch by batch.

    Args:
        model: a causal or encoder-decoder language model; put into eval mode, and back into the mode it was in.
        asked: the prompts.
        batch_size: prompts generated together; None: as many as memory holds.
    """
    reads_apart = model.config.is_encoder_decoder  # then what comes out is the start token and the completion

    def size(places: list[int]) -> int:
        if batch_size is not None:
            return batch_size
        longest = len(asked.ids[places[0]])
        return fitting_rows(model, longest + asked.max_new_tokens, read=longest, logits=1)

    def work(places: list[int]) -> list[list[int]]:
        start = len(prefix) if prefix else 0
        own = [asked.ids[place][start:] for place in places]
        ids, mask = (part.to(model.device) for part in pad(own, asked.pad_id, "right" if reads_apart else "left"))
        output = model.generate(
            **(prefix.before(ids, mask) if prefix else {"input_ids": ids, "attention_mask": mask}),
            max_new_tokens=asked.max_new_tokens,
            eos_token_id=asked.stop_ids,
            pad_token_id=asked.pad_id,
            use_cache=True,
            do_sample=False,  # the noise is in the logits already
            logits_processor=_sampling(asked, places, model.device),
        )
        return output[:, 1 if reads_apart else start + ids.shape[1] :].tolist()

    with torch.inference_mode(), evaluating(model), without_generation_defaults(model):
        prefix = read_prefix(model, asked.ids, asked.max_new_tokens)
        yield from in_batches(asked.longest_first(), size, work, what="prompt")


def _sampling(asked: Asked, places: list[int], device) -> LogitsProcessorList:
    if not asked.temperature:
        return LogitsProcessorList()
    kept = [TemperatureLogitsWarper(asked.temperature)]
    kept += [TopKLogitsWarper(asked.top_k)] if asked.top_k else []
    kept += [TopPLogitsWarper(asked.top_p)] if asked.top_p < 1 else []
    return LogitsProcessorList([*kept, RowNoise([asked.row_seed(place) for place in places], device)])


class RowNoise(LogitsProcessor):
    """Adds Gumbel noise to logits, so that their largest is a sample; every row has a generator of its own."""

    def __init__(self, seeds: list[int], device):
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise = torch.empty_like(scores, dtype=torch.float32)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        return scores.float() - noise.log()
