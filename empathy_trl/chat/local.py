"""What a decoder has computed of a session, so that the next turn computes only what is new.

Token ids to text, one by one: no character is cut, and no tag is lost.

A model in this process: replies as a stream of text, with what was computed kept from turn to turn.

A decoder's prompt begins with the prompt before it and its reply. So each session keeps keys and values of what it has read
and written (`KeyValueCache`), and a turn computes only what is new. An encoder-decoder reads its prompt anew.
"""

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jinja2.exceptions import TemplateError
from peft import PeftModel
from transformers import DynamicCache, StoppingCriteria
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin
from transformers.generation import BaseStreamer

from empathy_trl.chat.reply import TAGS, Counts, Either, Sampling, streamed
from empathy_trl.errors import UserError
from empathy_trl.models.batching import common_prefix, end_tokens, first_stop
from empathy_trl.models.load import without_generation_defaults
from empathy_trl.tags import tag_marks


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


BROKEN = "\ufffd"  # how bytes are decoded that are no character yet
_LONGEST = 4  # bytes of a character, and at most as many tokens


class TokenDecoder:
    """Decodes the tokens of one reply.

    Special tokens are left out, but never a tag: that would be gone before anybody could tell the parts of a reply. What
    would end in the middle of a character waits for the rest of it. A token is decoded together with those before it,
    because in some vocabularies the space before a word belongs to neither.

    Args:
        tokenizer: of the model.
        hidden: ids beyond the special ones that are no text, such as those that end a reply.
    """

    def __init__(self, tokenizer, hidden: Iterable[int] = ()):
        self._tokenizer = tokenizer
        self._hidden = hidden_ids(tokenizer) | set(hidden)
        self._ids: list[int] = []
        self._start = self._end = 0  # of the tokens that give the next ones their left side; all before `_end` are out

    def feed(self, token: int) -> str:
        """Return the text that a token completes, "" if it does not."""
        if token in self._hidden:
            return ""
        self._ids.append(token)
        return self._next(final=False)

    def close(self) -> str:
        """Return what waits, without the beginning of a character that never came."""
        return self._next(final=True).rstrip(BROKEN)

    def _next(self, final: bool) -> str:
        before, now = self._decode(self._start, self._end), self._decode(self._start, len(self._ids))
        waits = len(self._ids) - self._end <= _LONGEST  # more are no character, but noise
        if now.endswith(BROKEN) and waits and not final:
            return ""
        self._start, self._end = self._end, len(self._ids)
        return now[len(before) :]

    def _decode(self, start: int, end: int) -> str:
        return self._tokenizer.decode(
            self._ids[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )


def hidden_ids(tokenizer) -> set[int]:
    """Return the ids of all special tokens but those that are tags."""
    special = {index: token.content for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    tags = set(tag_marks(TAGS))
    return {index for index, content in special.items() if content not in tags}


PREFILL_TOKENS = 512  # tokens computed at a time: in between, a reply can be stopped
_POSITIONS = ("max_position_embeddings", "n_positions", "max_source_positions")


class LocalModel:
    """A causal or encoder-decoder language model that one or several sessions talk to, one reply at a time.

    Args:
        model: a transformers model, or an adapter on one; put into eval mode.
        tokenizer: its tokenizer, with a chat template.
        sampling: how replies are written.

    Attributes:
        positions: tokens the model can read, of a decoder prompt and reply together; None where nobody says how many.
        is_decoder: whether they share them.
    """

    def __init__(self, model, tokenizer, sampling: Sampling):
        self.tokenizer, self.sampling = tokenizer, sampling
        self.model = model.get_base_model() if isinstance(model, PeftModel) else model
        self.model.eval()
        self.is_decoder = not self.model.config.is_encoder_decoder
        self.positions = positions_of(self.model.config, tokenizer)
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

        def write(put: Callable[[str], None], stopped: Either):
            with self._turn(stopped, cache) as held:
                if held:
                    self._write(messages, cache, put, stopped, max_new_tokens)

        return streamed(write, stop)

    def _write(
        self, messages: list[dict], cache: KeyValueCache, put: Callable[[str], None], stopped: Either, limit: int
    ):
        text, ids = self._encode(messages, cache)
        cache.counts, cache.replies = Counts(prefilled=len(ids)), cache.replies + 1
        if self.is_decoder:
            cached = cache.fit(ids, self._config())
            cache.counts = Counts(prefilled=len(ids) - cached, cached=cached)
            self._compute(ids, len(ids) - 1, cache, stopped, keep=PREFILL_TOKENS)
        if stopped.is_set():
            return
        decoder, said = TokenDecoder(self.tokenizer, self._ends), []

        def take(token: int):
            cache.counts.written += 1
            said.append(decoder.feed(token))
            put(said[-1])

        output = self._generate(ids, cache, take, stopped, limit)
        said.append(decoder.close())
        put(said[-1])
        written = output[len(ids) if self.is_decoder else 1 :]
        length = first_stop(written, self._ends)
        cache.counts.cut_off = length == len(written) and not stopped.is_set()
        if self.is_decoder:
            cache.note(output)
            if self.tokenizer.decode(written[:length], skip_special_tokens=False) == "".join(said):
                cache.text, cache.text_ids = text + "".join(said), [*ids, *written[:length]]

    def _generate(
        self, ids: list[int], cache: KeyValueCache, take: Callable[[int], None], stopped: Either, limit: int
    ) -> list[int]:
        """Let the model write; returns the tokens of prompt (or start) and reply."""
        sampling = {"do_sample": self.sampling.temperature > 0}
        if self.sampling.temperature > 0:
            sampling |= {"temperature": self.sampling.temperature, "top_p": self.sampling.top_p, "top_k": 0}
        if self.is_decoder:
            sampling["past_key_values"] = cache.states
        input_ids = torch.tensor([ids], device=self.model.device)
        pad = self.tokenizer.pad_token_id
        with without_generation_defaults(self.model), seeded(self.sampling.seed, cache.replies, self.model.device):
            output = self.model.generate(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                max_new_tokens=limit,
                eos_token_id=self._ends,
                pad_token_id=self._ends[0] if pad is None else pad,
                use_cache=True,
                streamer=_Tokens(take),
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
        try:
            text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except TemplateError as error:  # some know no system message
            raise UserError(f"the model's chat template refuses the messages: {error}") from error
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
    def _turn(self, stopped: Either | threading.Event, cache: KeyValueCache) -> Iterator[bool]:
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
                "not enough memory for this conversation; reset, or start with a smaller --context"
            ) from error
        except BaseException:
            cache.forget()
            raise
        finally:
            if held:
                self._lock.release()


class _Tokens(BaseStreamer):
    """Hands on each new token; what `generate` puts first is the prompt."""

    def __init__(self, take: Callable[[int], None]):
        self._take, self._begun = take, False

    def put(self, value):
        if self._begun:
            for token in value.flatten().tolist():
                self._take(token)
        self._begun = True

    def end(self):
        pass


class _Stopped(StoppingCriteria):
    """Ends a generation between two tokens."""

    def __init__(self, stopped: Either):
        self._stopped = stopped

    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), self._stopped.is_set(), device=input_ids.device, dtype=torch.bool)


@contextmanager
def seeded(seed: int | None, replies: int, device: torch.device):
    """Draw by a seed, another one for each reply; the state of the random generators is as before afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(secrets.randbits(63) if seed is None else seed + replies)
        yield


def positions_of(config, tokenizer) -> int | None:
    """Return how many tokens a model can read: as its config says, else its tokenizer; None where neither does."""
    text = config.get_text_config()
    said = [getattr(text, name, None) for name in _POSITIONS] + [tokenizer.model_max_length]
    return next((int(number) for number in said if number and number < 1e9), None)
