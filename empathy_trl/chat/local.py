"""A model in this process: `load_for_chat` loads it; `LocalModel` streams its replies, with a key-value cache per session.

The next prompt of a decoder begins with its last prompt and reply. So each session keeps the keys and values of
everything read and written (`KeyValueCache`), and a turn computes only the new tokens. An encoder-decoder reads its
whole prompt in every turn.
"""

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import DynamicCache, StoppingCriteria
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin
from transformers.generation import BaseStreamer

from empathy_trl.chat.reply import MARKS, AnyEvent, Counts, Sampling, streamed
from empathy_trl.errors import UserError
from empathy_trl.io import user_name
from empathy_trl.models.adapters import check_adapter, fused_adapters, load_adapter
from empathy_trl.models.batching import common_prefix, end_tokens, first_stop, opened_thought, render
from empathy_trl.models.hub_files import (
    ADAPTER_FILE,
    has_chat_template,
    load_tokenizer,
    one_revision,
    split_revision,
    tokenizer_of_adapter,
)
from empathy_trl.models.limits import Limits, check_vocabulary
from empathy_trl.models.load import load_model, without_generation_defaults
from empathy_trl.models.templates import pin_template_arguments, set_template


def load_for_chat(
    name: str,
    adapter: str | None = None,
    revision: str | None = None,
    load_in_4bit: bool = False,
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
):
    """Return model and tokenizer, the model on the GPU where there is one.

    Args:
        name: folder or Hub id of a model, or without `adapter` of an adapter, which names its base.
        adapter: folder or Hub id of a LoRA adapter for the model.
        revision: revision of `name`; `name` and `adapter` may also have one after an @.
        load_in_4bit: quantise the weights; needs the extra `quantization`.
        chat_template: see `load_model`; for a model that has no template itself.
        chat_template_kwargs: arguments of the chat template.

    Raises:
        UserError: something is missing or cannot be read, or the adapter was trained on another base.
    """
    name, revision = one_revision(user_name(name), revision)
    _refuse_folder_of_stages(Path(name))
    base = check_adapter(adapter, name) if adapter else None
    if chat_template is not None and has_chat_template(name, revision):
        chat_template = None
    prompting = {"chat_template": chat_template, "chat_template_kwargs": chat_template_kwargs}
    model, tokenizer = load_model(name, revision=revision, load_in_4bit=load_in_4bit, **prompting)
    if adapter:
        if isinstance(model, PeftModel):
            raise UserError(f"adapter: {name} is an adapter itself; expected its base as the model, or no adapter")
        model = load_adapter(model, adapter, base, name)
        place = split_revision(user_name(adapter))
        template = tokenizer.chat_template
        tokenizer = load_tokenizer(*tokenizer_of_adapter(*place, name, revision), padding_side="left")
        tokenizer.chat_template = tokenizer.chat_template or template
        set_template(tokenizer, None, adapter)
        pin_template_arguments(tokenizer, chat_template_kwargs)
        check_vocabulary(model, tokenizer, adapter)
    if torch.cuda.is_available() and not load_in_4bit:
        model.to("cuda")
    return model, tokenizer


def _refuse_folder_of_stages(folder: Path):
    """Raise UserError for the folder of a recipe, in which every stage has a folder of its own."""
    if (folder / "config.json").is_file() or (folder / ADAPTER_FILE).is_file():
        return
    stages = sorted(str(path.parent) for file in ("config.json", ADAPTER_FILE) for path in folder.glob(f"*/{file}"))
    if stages:
        raise UserError(f"{folder}: is not a model, but contains models; expected one of {', '.join(stages)}")


@dataclass
class KeyValueCache:
    """Keys and values of the tokens of a session, and the text they stand for.

    A reply is kept in the tokens in which it was written: cut into tokens anew, it may become others, and then what was
    computed for it would be lost.

    Attributes:
        states: None before the first turn and where nothing can be kept.
        ids: the tokens in `states`.
        text: prompt and reply of the last turn as rendered, "" where they are not known to be `text_ids`.
        text_ids: the tokens of `text`.
        counts: of the last turn.
        replies: how many were begun, for seeds.
    """

    states: DynamicCache | None = None
    ids: list[int] = field(default_factory=list)
    text: str = ""
    text_ids: list[int] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    replies: int = 0

    def forget(self):
        """Keep nothing of the states: they may be of different lengths after a failure."""
        self.states, self.ids, self.text, self.text_ids = None, [], "", []

    def fit(self, ids: list[int], config) -> int:
        """Cut the states to what they share with a prompt; returns how many tokens that are.

        At least the prompt's last token is left to be computed, because the next one follows from it.

        Args:
            ids: tokens of the prompt.
            config: of the text model, which says what kind of states its layers have.
        """
        shared = common_prefix(self.ids, ids[:-1])
        if self.states is None or not self._cut_to(shared):
            self.states, shared = DynamicCache(config=config), 0
        self.ids = ids[:shared]
        return shared

    def note(self, ids: list[int]):
        """Take note of the tokens that were computed: as many of `ids` as the states hold."""
        self.ids = ids[: self.states.get_seq_length()]

    def _cut_to(self, length: int) -> bool:
        layers = self.states.layers
        if any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers):
            return False  # a sum of all that was read
        more = len(self.ids) - length
        if more == 0:
            return True
        if length == 0 or not all(type(layer) is DynamicLayer for layer in layers):
            return False  # a sliding window has dropped what a shorter text would look back to
        self.states.crop(-more)
        return True


REPLACEMENT = "\ufffd"  # what bytes are decoded to that are no character yet


class ReplyStreamer(BaseStreamer):
    """Hands on the text of a reply, token by token; a streamer for `generate`.

    transformers' own streamers hold a word back until the next space, so that a reaction would not be seen when its tag
    closes, and their `skip_special_tokens` drops tags that are special tokens.

    A character whose bytes are several tokens waits for the last of them. A token is decoded together with those before it,
    because in some vocabularies the space before a word belongs to neither.

    Args:
        tokenizer: of the model.
        ends: ids of the tokens that end a reply.
        put: takes each new text.

    Attributes:
        text: all that was handed on.
        tokens: number of tokens written.
    """

    def __init__(self, tokenizer, ends: Iterable[int], put: Callable[[str], object]):
        self.text, self.tokens = "", 0
        self._tokenizer, self._put = tokenizer, put
        self._hidden = hidden_ids(tokenizer) | set(ends)
        self._ids: list[int] = []
        self._start = self._end = 0  # of the tokens handed on last; the ones before `_start` are needed no more
        self._begun = False

    def put(self, value: torch.Tensor):
        """Take new tokens; the first call, which brings the prompt, is ignored."""
        for token in value.flatten().tolist() if self._begun else ():
            self.tokens += 1
            if token not in self._hidden:
                self._ids.append(token)
                self._hand_on()
        self._begun = True

    def end(self):
        """Hand on what waits, without the beginning of a character that never came."""
        self._hand_on(final=True)

    def _hand_on(self, final: bool = False):
        before, now = self._decode(self._start, self._end), self._decode(self._start, len(self._ids))
        may_go_on = len(self._ids) - self._end <= 4  # a character has at most four bytes
        if now.endswith(REPLACEMENT) and may_go_on and not final:
            return
        self._start, self._end = self._end, len(self._ids)
        text = now[len(before) :].rstrip(REPLACEMENT) if final else now[len(before) :]
        self.text += text
        self._put(text)

    def _decode(self, start: int, end: int) -> str:
        return self._tokenizer.decode(
            self._ids[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )


def hidden_ids(tokenizer) -> set[int]:
    """Return the ids of all special tokens but those that are tags."""
    special = {index: token.content for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return {index for index, content in special.items() if content not in MARKS}


PREFILL_TOKENS = 512  # tokens computed at a time: in between, a reply can be stopped
NO_LIMIT = 10**9  # tokens; transformers gives a tokenizer without a limit a far larger one


class LocalModel:
    """A causal or encoder-decoder language model that one or several sessions talk to, one reply at a time.

    Args:
        model: a transformers model, or an adapter on one; put into eval mode.
        tokenizer: its tokenizer, with a chat template.
        sampling: how replies are written.

    Attributes:
        positions: tokens the model can read, in a decoder prompt and reply together; None without a limit.
        writes: tokens it can write; None without a limit.
        default_context: tokens it reads by default: its positions, or else the limit of its tokenizer; None without both.
        is_decoder: whether prompt and reply share the positions.

    Raises:
        UserError: the tokenizer has tokens that the model does not know.
    """

    def __init__(self, model, tokenizer, sampling: Sampling):
        self.tokenizer, self.sampling = tokenizer, sampling
        self.model = model.get_base_model() if isinstance(model, PeftModel) else model
        self.model.eval()
        self.is_decoder = not self.model.config.is_encoder_decoder
        check_vocabulary(self.model, tokenizer, self.model.name_or_path or "the model")
        limits = Limits.of(self.model)
        self.positions, self.writes = limits.reads, limits.writes
        longest = tokenizer.model_max_length
        self.default_context = self.positions or (longest if longest < NO_LIMIT else None)
        self._ends = end_tokens(self.model, tokenizer)
        # not those that take the space before them along, nor runs of white space, which what precedes may lengthen
        self._marks = tuple(
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if not token.lstrip and not token.content[:1].isspace()
        )
        self._lock = threading.Lock()

    def new_cache(self) -> KeyValueCache:
        """Return what a new session keeps."""
        return KeyValueCache()

    def count(self, messages: list[dict], cache: KeyValueCache) -> int:
        """Return the number of tokens of a prompt, beginning of the reply included."""
        return len(self._encode(messages, cache)[1])

    def prefill(self, prompts: tuple[list[dict], list[dict]], cache: KeyValueCache, stop) -> None:
        """Compute ahead of time what two prompts share, to be there when the next one begins the same way.

        Args:
            prompts: messages of both.
            cache: of the session.
            stop: has `is_set()`, which ends it between two chunks.
        """
        if not self.is_decoder:
            return
        one, other = (self._encode(messages, cache)[1] for messages in prompts)
        shared = one[: common_prefix(one, other)]
        if len(shared) > 1:
            with self._turn(stop, cache) as held:
                if held:
                    cache.fit(shared, self._config())
                    self._compute(shared, len(shared), cache, stop)

    def stream(
        self, messages: list[dict], cache: KeyValueCache, stop: threading.Event, max_new_tokens: int
    ) -> Iterator[str]:
        """Yield a reply as it is written, without special tokens, but with its tags; `cache.counts` is filled in meanwhile.

        Args:
            messages: of the prompt, the last one the user's.
            cache: of the session.
            stop: ends the reply; so does leaving the iterator.
            max_new_tokens: a reply that has not ended by then is cut off.

        Raises:
            UserError: there is not enough memory.
        """

        def write(put: Callable[[str], None], stopped: AnyEvent):
            with self._turn(stopped, cache) as held:
                if held:
                    self._write(messages, cache, put, stopped, max_new_tokens)

        return streamed(write, stop)

    def _write(
        self, messages: list[dict], cache: KeyValueCache, put: Callable[[str], None], stopped: AnyEvent, limit: int
    ):
        text, ids = self._encode(messages, cache)
        cache.counts, cache.replies = Counts(prefilled=len(ids)), cache.replies + 1
        if self.is_decoder:
            cached = cache.fit(ids, self._config())
            cache.counts = Counts(prefilled=len(ids) - cached, cached=cached)
            self._compute(ids, len(ids) - 1, cache, stopped, keep=PREFILL_TOKENS)
        if stopped.is_set():
            return
        reply = ReplyStreamer(self.tokenizer, self._ends, put)
        put(opened_thought(text))
        try:
            output = self._generate(ids, cache, reply, stopped, limit)
        finally:
            cache.counts.written = reply.tokens
        written = output[len(ids) if self.is_decoder else 1 :]
        length = first_stop(written, self._ends)
        cache.counts.cut_off = length == len(written) and not stopped.is_set()
        if self.is_decoder:
            cache.note(output)
            if self.tokenizer.decode(written[:length], skip_special_tokens=False) == reply.text:
                cache.text, cache.text_ids = text + reply.text, [*ids, *written[:length]]

    def _generate(
        self, ids: list[int], cache: KeyValueCache, reply: ReplyStreamer, stopped: AnyEvent, limit: int
    ) -> list[int]:
        """Let the model write; returns the tokens of prompt (or start) and reply."""
        sampling = {"do_sample": self.sampling.temperature > 0}
        if self.sampling.temperature > 0:
            sampling |= {"temperature": self.sampling.temperature, "top_p": self.sampling.top_p, "top_k": 0}
        if self.is_decoder:
            sampling["past_key_values"] = cache.states
        input_ids = torch.tensor([ids], device=self.model.device)
        pad = self.tokenizer.pad_token_id
        with (
            without_generation_defaults(self.model),
            fused_adapters(self.model),
            seeded(self.sampling.seed, cache.replies, self.model.device),
        ):
            output = self.model.generate(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                max_new_tokens=limit,
                eos_token_id=self._ends,
                pad_token_id=self._ends[0] if pad is None else pad,
                use_cache=True,
                streamer=reply,
                stopping_criteria=[_Stopped(stopped)],
                **sampling,
            )
        return output[0].tolist()

    def _compute(self, ids: list[int], end: int, cache: KeyValueCache, stopped, keep: int = 0):
        """Read tokens into the cache up to `end`, but for the last `keep` and a stop, in chunks."""
        reader = self.model.get_decoder()
        while end - len(cache.ids) > keep and not stopped.is_set():
            reached = min(len(cache.ids) + PREFILL_TOKENS, end)
            chunk = torch.tensor([ids[len(cache.ids) : reached]], device=self.model.device)
            reader(input_ids=chunk, past_key_values=cache.states, use_cache=True)
            cache.ids = ids[:reached]

    def _encode(self, messages: list[dict], cache: KeyValueCache) -> tuple[str, list[int]]:
        """Return a prompt as rendered and its tokens, those of the last turn as they are in the cache."""
        text = render(self.tokenizer, messages, add_generation_prompt=True, tokenize=False)
        known, rest = len(cache.text), text[len(cache.text) :]
        # where a token of its own begins, both sides are cut into tokens alone
        if known and text.startswith(cache.text) and rest.startswith(self._marks):
            return text, [*cache.text_ids, *self._tokens(rest)]
        return text, self._tokens(text)

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _config(self):
        return self.model.config.get_text_config(decoder=True)

    @contextmanager
    def _turn(self, stopped: AnyEvent | threading.Event, cache: KeyValueCache) -> Iterator[bool]:
        """Wait until the model is free, and hold it; False after a stop. If anything goes wrong, the cache holds nothing then."""
        held = False
        while not (held or stopped.is_set()):
            held = self._lock.acquire(timeout=0.05)
        try:
            with torch.inference_mode():
                yield held
        except torch.OutOfMemoryError as error:
            cache.forget()
            raise UserError(
                "not enough memory for this conversation; reset, or start with a smaller context"
            ) from error
        except BaseException:
            cache.forget()
            raise
        finally:
            if held:
                self._lock.release()


class _Stopped(StoppingCriteria):
    """Ends a generation between two tokens."""

    def __init__(self, stopped: AnyEvent):
        self._stopped = stopped

    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), self._stopped.is_set(), device=input_ids.device, dtype=torch.bool)


@contextmanager
def seeded(seed: int | None, replies: int, device: torch.device):
    """Draw by a seed, another one for each reply; the state of the random generators is as before afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(secrets.randbits(63) if seed is None else seed + replies)
        yield
