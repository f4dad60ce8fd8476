"""Limits on the length of texts: the positions and the vocabulary of a model, and what a trainer's `max_length` cuts.

`position_limit` returns how many tokens a model can read, and `check_vocabulary` checks that it has an embedding for every
token of its tokenizer. `token_lengths` measures rows. `Limits` compares these lengths with the positions, and `fit_prompts`
removes the oldest turns of prompts that are too long. `truncation` counts what a trainer's `max_length` cuts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median_low

from torch import nn

from empathy_trl.errors import UserError, show
from empathy_trl.models.batching import common_prefix, prompt_tokens, render

# names of the number of positions in configs; an encoder-decoder such as LED has one for each side
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
ENCODER_POSITIONS = ("max_encoder_position_embeddings", "max_source_positions", *POSITIONS)
DECODER_POSITIONS = ("max_decoder_position_embeddings", "max_target_positions", *POSITIONS)
# settings of models with relative positions
RELATIVE = ("relative_attention_num_buckets", "relative_attention", "alibi")
STRETCHED = ("yarn", "linear", "dynamic")  # kinds of rotary positions whose config may still name the original number
# special tokens that a tokenizer adds to a text or a batch, and ids in a config that begin or end a text
WRITTEN = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
SPECIAL_IDS = ("pad_token_id", "eos_token_id", "decoder_start_token_id")


def position_limit(model, encoder: bool = False) -> int | None:
    """Return how many tokens a model can read in one sequence, or None if the number is not limited.

    With learned positions (GPT-2, OPT, BERT, BART), a longer sequence raises an IndexError. With rotary positions, the model
    was not trained on longer sequences. RoBERTa and its relatives number positions from the padding token's id plus one, so
    they read that many tokens fewer. Models with relative positions (T5, DeBERTa, ALiBi) or a recurrent state have no limit.
    A sliding window limits how far back a token attends, not the length of the sequence.

    Args:
        model: a model of transformers, or an adapter on one; it may be on the meta device.
        encoder: return the limit of an encoder-decoder's encoder instead of its decoder's.
    """
    config = model.config.get_text_config(encoder=encoder, decoder=not encoder)
    config = getattr(config, "encoder", config) if encoder else config
    learned = [
        module
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    ]
    if not learned and any(getattr(config, name, None) for name in RELATIVE):
        return None
    names = ENCODER_POSITIONS if encoder else DECODER_POSITIONS
    values = (getattr(config, name, None) for name in names)
    limit = next((value for value in values if isinstance(value, int) and value > 0), None)
    if limit is None:
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in STRETCHED and rope.get("factor"):
        original = rope.get("original_max_position_embeddings") or limit
        limit = max(limit, int(original * rope["factor"]))
    skipped = [module.padding_idx + 1 for module in learned if module.padding_idx is not None]
    return limit - max(skipped, default=0)


def count_positions_from_mask(model) -> None:
    """Make GPT-2 and its relatives count the positions of a row from its first token instead of its padding.

    By default they count from the padding, unless the caller passes `position_ids`. `generate` passes them, but TRL's trainers
    do not, so a completion would be trained at other positions than it was sampled at. Other models with learned positions
    (OPT) use the mask, and rotary positions only depend on distances.

    Args:
        model: a model of transformers, or an adapter on one; modified if it has an embedding of positions called `wpe`.
    """

    def pass_positions(module, args, inputs):
        mask, given = inputs.get("attention_mask"), inputs.get("position_ids")
        tokens = args[0] if args else inputs.get("input_ids")
        if given is None and tokens is not None and mask is not None and mask.dim() == 2:
            inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        return args, inputs

    for module in model.modules():
        if isinstance(getattr(module, "wpe", None), nn.Embedding):
            module.register_forward_pre_hook(pass_positions, with_kwargs=True)


def check_vocabulary(model, tokenizer, name: str) -> None:
    """Raise UserError if a tokenizer or a config names a token for which a model has no embedding.

    Special tokens that neither the chat template nor the tokenizer adds to a text are exempt: Gemma 3 1B has the image token
    of the larger models.

    Args:
        model: a model of transformers, or an adapter on one; it may be on the meta device.
        tokenizer: its tokenizer.
        name: name of the model, for the message.
    """
    rows = _embedding_rows(model)
    beyond = {token: index for token, index in tokenizer.get_vocab().items() if index >= rows}
    if beyond:
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        written = {getattr(tokenizer, name, None) for name in WRITTEN}
        template = str(tokenizer.chat_template)
        wrong = [token for token in beyond if token not in special or token in written or token in template]
        if wrong:
            token = max(wrong, key=beyond.get)
            raise UserError(
                f"{name}: the tokenizer's token {show(token)} has the id {beyond[token]}, but the model's embedding has "
                f"{rows} rows; the tokenizer belongs to another model, or tokens were added without "
                "model.resize_token_embeddings(len(tokenizer))"
            )
    for place in ("config", "generation_config"):
        settings = getattr(model, place, None)
        for key in SPECIAL_IDS:
            value = getattr(settings, key, None)
            for index in value if isinstance(value, list) else [value]:
                if isinstance(index, int) and index >= rows:
                    raise UserError(
                        f"{name}: {key} in {place}.json is {index}, but the model's embedding has {rows} rows; expected the "
                        "id of a token of its tokenizer"
                    )


def _embedding_rows(model) -> int:
    embedding = model.get_input_embeddings()
    embedding = getattr(embedding, "base_layer", embedding)  # below a LoRA adapter
    # not from the shape of the weights, which is empty while they are sharded
    return getattr(embedding, "num_embeddings", None) or model.config.get_text_config().vocab_size


@dataclass(frozen=True)
class Limits:
    """How many tokens a language model can read and write, see `position_limit`; None for any number.

    Attributes:
        reads: tokens of a prompt; in a decoder, of prompt and completion together.
        writes: tokens of a completion.
        apart: whether prompt and completion are two sequences, as in an encoder-decoder.
    """

    reads: int | None
    writes: int | None
    apart: bool

    @classmethod
    def of(cls, model) -> "Limits":
        apart = model.config.is_encoder_decoder
        return cls(position_limit(model, encoder=apart), position_limit(model), apart)

    def fit(self, prompt: int, completion: int) -> bool:
        """Return whether a prompt and a completion with these numbers of tokens fit."""
        read, written = (prompt, completion) if self.apart else (prompt + completion, 0)
        return read <= (self.reads or read) and written <= (self.writes or written)

    def __str__(self) -> str:
        if self.apart and self.reads != self.writes:
            return f"{self.reads} positions in its encoder and {self.writes} in its decoder"
        return f"{self.reads} positions" if self.reads else "no limit of length"

    def check(self, lengths: list[tuple[int, int]], where: str, advice: str, numbers: Sequence[int] = ()) -> None:
        """Raise UserError if a row does not fit; the message names the longest such row.

        Args:
            lengths: for each row, the tokens of its prompt and the most tokens of its completion.
            where: what the rows are, for the message.
            advice: what the user can do.
            numbers: row numbers from 0, if the rows are a selection.
        """
        row = max(range(len(lengths)), key=lambda row: (not self.fit(*lengths[row]), sum(lengths[row])), default=None)
        if row is None or self.fit(*lengths[row]):
            return
        prompt, completion = lengths[row]
        number = numbers[row] if numbers else row
        raise UserError(
            f"{where}: row {number + 1} has {prompt} tokens in its prompt and up to {completion} in its completion, but the "
            f"model has {self}; {advice}"
        )


def fit_prompts(
    model, tokenizer, rows, completion: int | None, *, where: str, advice: str, numbers: Sequence[int] = ()
) -> tuple:
    """Shorten prompts until prompt and completion fit into a model's positions; return the rows and how many were shortened.

    A prompt that is too long loses its oldest turns. It keeps its system message and its last turn, and begins with a turn of
    the user.

    Args:
        model: a language model, or an adapter on one; it may be on the meta device.
        tokenizer: its tokenizer, with a chat template.
        rows: a `datasets.Dataset` with `prompt`, and with `completion` if `completion` is None.
        completion: tokens of the longest completion; None for the length of each row's own completion.
        where, advice, numbers: for the message, see `Limits.check`.

    Raises:
        UserError: a prompt is too long even without its older turns.
    """
    limits = Limits.of(model)
    if limits.reads is None and limits.writes is None:
        return rows, 0
    lengths = token_lengths(tokenizer, rows, limits.apart)
    if completion is not None:
        lengths = [(prompt, completion) for prompt, _ in lengths]
    prompts, cut = list(rows["prompt"]), 0
    for row, (prompt, behind) in enumerate(lengths):
        chat = prompts[row]
        while not limits.fit(prompt, behind) and (shorter := without_oldest(chat)) is not None:
            chat, prompt = shorter, len(prompt_tokens(tokenizer, [shorter])[0])
        cut += chat != prompts[row]
        prompts[row], lengths[row] = chat, (prompt, behind)
    limits.check(lengths, where, advice, numbers)
    if cut:
        rows = type(rows).from_dict(rows.to_dict() | {"prompt": prompts}, features=rows.features)
    return rows, cut


def without_oldest(chat: list[dict]) -> list[dict] | None:
    """Return chat messages without the turns before the user's second turn; None if the user has only one turn."""
    start = next((place for place, message in enumerate(chat) if message["role"] != "system"), 0)
    users = (place for place in range(start + 1, len(chat)) if chat[place]["role"] == "user")
    following = next(users, None)
    return None if following is None else chat[:start] + chat[following:]


@dataclass(frozen=True)
class Truncation:
    """How many rows a trainer's `max_length` cuts and drops.

    Attributes:
        rows: how many were counted.
        limit: `max_length`, in tokens; None if the trainer cuts nothing.
        dropped: how many rows are left without a token to learn from, because the prompt fills `max_length`.
        prompts: how many of the other rows lose tokens of their prompt or text.
        completions: how many of the other rows lose the end of their completion, including the end token.
        prompt_tokens, completion_tokens: (shortest, median, longest) before anything is cut; None without completions.
        needed: the smallest `max_length` that cuts nothing.
    """

    rows: int
    limit: int | None
    dropped: int
    prompts: int
    completions: int
    prompt_tokens: tuple[int, int, int]
    completion_tokens: tuple[int, int, int] | None
    needed: int

    @property
    def cuts(self) -> bool:
        """Whether any row is cut or dropped."""
        return bool(self.dropped or self.prompts or self.completions)

    @property
    def lengths(self) -> str:
        """The lengths, for a message."""
        parts = [f"{self._noun} have {_range(self.prompt_tokens)} tokens (min / median / max)"]
        parts += [] if self.completion_tokens is None else [f"completions {_range(self.completion_tokens)}"]
        return ", ".join(parts)

    @property
    def _noun(self) -> str:
        return "texts" if self.completion_tokens is None and self.limit is not None else "prompts"

    def __str__(self) -> str:
        if self.limit is None:
            return self.lengths
        if not self.cuts:
            return f"max_length {self.limit} cuts none of {self.rows} rows; {self.lengths}"
        counts = f"cuts {self.prompts} of {self.rows} {self._noun}"
        if self.completion_tokens is not None:
            counts = f"cuts {self.prompts} prompts and {self.completions} completions, and drops {self.dropped} of {self.rows} rows"
            counts += " (no room for a completion)" if self.dropped else ""
        return f"max_length {self.limit} {counts}; {self.lengths}; {self.needed} would cut none"

    def check(self, key: str) -> None:
        """Raise UserError if nothing is left to learn from.

        Args:
            key: dotted key of `max_length` in the recipe, for the message.
        """
        if self.dropped == self.rows:
            raise UserError(
                f"{key}: {self.limit} drops all {self.rows} rows, because their prompts leave no room for a completion; "
                f"{self.lengths}; {self.needed} would cut none"
            )


def _range(tokens: tuple[int, int, int]) -> str:
    return " / ".join(map(str, tokens))


def truncation(config, lengths: list[tuple[int, int]], reads_apart: bool = False) -> Truncation:
    """Count what a trainer cuts and drops, from the lengths of the rows alone.

    `trl.SFTTrainer` keeps the first `max_length` tokens of prompt and completion together, or the last ones with
    `truncation_mode: keep_end`, and drops a row whose completion has no token left. Packing with "bfd" cuts in the same way.
    The other packing strategies split rows and lose nothing. In encoder-decoders and encoders, each sequence is cut
    separately. GRPO and PPO do not cut prompts.

    Args:
        config: config of the trainer, with or without `max_length`, `truncation_mode`, `packing`, `packing_strategy` and
            `completion_only_loss`.
        lengths: result of `token_lengths`, at least one row.
        reads_apart: the model is an encoder-decoder.
    """
    limit, together = getattr(config, "max_length", None), hasattr(config, "packing") and not reads_apart
    if together and config.packing and config.packing_strategy != "bfd":
        limit = None
    learns_prompts = together and config.completion_only_loss is False
    dropped = prompts = completions = 0
    for prompt, completion in lengths if limit else ():
        room_for_prompt, room = limit, limit
        if together and config.truncation_mode == "keep_end" and not config.packing:
            room_for_prompt = max(0, limit - completion)
        elif together:
            room = max(0, limit - prompt)
        if completion and not room and not learns_prompts:
            dropped += 1
            continue
        prompts += prompt > room_for_prompt
        completions += completion > room
    asked, answered = zip(*lengths, strict=True)
    return Truncation(
        rows=len(lengths),
        limit=limit,
        dropped=dropped,
        prompts=prompts,
        completions=completions,
        prompt_tokens=_spread(asked),
        completion_tokens=_spread(answered) if any(answered) else None,
        needed=max(sum(row) if together else max(row) for row in lengths),
    )


def _spread(numbers: Iterable[int]) -> tuple[int, int, int]:
    return min(numbers), median_low(numbers), max(numbers)


def token_lengths(tokenizer, rows, reads_apart: bool = False) -> list[tuple[int, int]]:
    """Return the number of tokens of every row as (prompt, completion); a row without a completion has 0.

    Args:
        tokenizer: with a chat template, if the rows have prompts.
        rows: a `datasets.Dataset` with `prompt` and optionally `completion`, or with `text` and optionally `pair`.
        reads_apart: the model is an encoder-decoder, whose decoder reads only the completion and an end token.
    """
    columns = {name: list(rows[name]) for name in ("prompt", "completion", "text", "pair") if name in rows.column_names}
    if "prompt" not in columns:
        pairs = [columns["pair"]] if "pair" in columns else []
        # not verbose: tokenizers warn that the model cannot read so many tokens, but these texts are cut later
        return [(len(ids), 0) for ids in tokenizer(columns["text"], *pairs, verbose=False)["input_ids"]]
    prompts = prompt_tokens(tokenizer, columns["prompt"])
    if "completion" not in columns:
        return [(len(ids), 0) for ids in prompts]
    if reads_apart:
        texts = ["".join(message["content"] for message in completion) for completion in columns["completion"]]
        replies = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [(len(prompt), len(reply) + 1) for prompt, reply in zip(prompts, replies, strict=True)]
    both = [prompt + completion for prompt, completion in zip(columns["prompt"], columns["completion"], strict=True)]
    whole = render(tokenizer, both, return_dict=True)["input_ids"]
    # as in TRL, the completion begins where the tokens first differ from those of the prompt alone
    starts = [common_prefix(prompt, ids) for prompt, ids in zip(prompts, whole, strict=True)]
    return [(start, len(ids) - start) for start, ids in zip(starts, whole, strict=True)]
