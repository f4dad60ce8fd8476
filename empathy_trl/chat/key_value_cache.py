"""What a decoder has computed of a session, so that the next turn computes only what is new."""

from dataclasses import dataclass, field

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from empathy_trl.chat.counts import Counts
from empathy_trl.generation.prefix import common_prefix


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
