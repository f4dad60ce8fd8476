"""Latency of a long conversation: time to the reaction in turn 50 against turn 2, for equally many new tokens.

python benchmarks/latency.py                     # shape ed4; about 6 minutes on two cores
python benchmarks/latency.py ed4_tiny --rounds 5

The session is that of `recipes/chat.py`, with 50 turns in a context of 1,024 tokens, which is full after about ten
turns. The shape only selects the model. The model is untrained, and its replies are forced token by token, so that the
reaction, response and reflection have the same length in every turn. `anew` is the same prompt without a cache from
earlier turns. A round is a whole conversation. The ratio divides turn 50 of the session by turn 2, each as the median
over the rounds; with several shapes, it is the geometric mean.
"""

import random
import statistics
import threading
import time

import torch
from harness import command_line, print_ratio, print_table
from shapes import SHAPES, WORDS, make_model
from tqdm import trange
from transformers import LogitsProcessor

from empathy_trl.chat.local import LocalModel
from empathy_trl.chat.prompts import Prompts
from empathy_trl.chat.reply import Sampling
from empathy_trl.chat.session import Session, Settings
from empathy_trl.models.tiny import build_tokenizer
from empathy_trl.tags import PARTS, write_parts

TURNS = (2, 50)
CONTEXT = 1024  # tokens
MESSAGE, REPLY = 15, (10, 40, 25)  # words; of a reply those of its parts


class Dictated(LogitsProcessor):
    """Leaves the model no choice: its reply is `ids`, whatever it thinks of them."""

    def __init__(self, ids: list[int]):
        self.ids, self.begin = ids, None

    def __call__(self, input_ids, scores):
        if self.begin is None:
            self.begin = input_ids.shape[1]
        only = torch.full_like(scores, -torch.inf)
        only[:, self.ids[input_ids.shape[1] - self.begin]] = 0
        return only


class DictatedModel(LocalModel):
    """A model that is told what to say, and notes the prompt that it was asked last."""

    def __init__(self, model, tokenizer, reply: str):
        super().__init__(model, tokenizer, Sampling(temperature=0))
        generate, ids = model.generate, [*tokenizer(reply)["input_ids"], tokenizer.eos_token_id]
        model.generate = lambda **settings: generate(**settings, logits_processor=[Dictated(ids)])

    def stream(self, messages, *settings):
        self.asked = messages
        return super().stream(messages, *settings)

    def anew(self, messages: list[dict]) -> float:
        """Return the seconds to the end of the reaction when nothing is kept."""
        start, text = time.perf_counter(), ""
        for chunk in self.stream(messages, self.new_cache(), threading.Event(), sum(REPLY)):
            text += chunk
            if f"</{PARTS[0]}>" in text:
                return time.perf_counter() - start
        raise RuntimeError(f"the reply was not dictated: {text!r}")


def some_words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(WORDS, k=count))


def converse(shape: str, label: str) -> dict[tuple[str, int], float]:
    """Return (figure, turn) to its value, of one conversation."""
    draw = random.Random(0)
    tokenizer = build_tokenizer([" ".join(WORDS)], 1024, PARTS, max_length=2048)
    reply = write_parts({part: some_words(draw, count) for part, count in zip(PARTS, REPLY, strict=True)})
    model = DictatedModel(make_model(SHAPES[shape]), tokenizer, reply)
    session = Session(model, Prompts(), Settings(CONTEXT, max_new_tokens=2 * sum(REPLY)))
    found = {}
    for turn in trange(1, max(TURNS) + 1, desc=label, leave=False):
        for _ in session.send(some_words(draw, MESSAGE)):
            pass
        if turn in TURNS:
            stats = session.stats
            found |= {("kept", turn): stats.reaction, ("anew", turn): model.anew(model.asked)}
            found |= {("computed", turn): stats.prefilled, ("prompt", turn): stats.prefilled + stats.cached}
        session.prepare()
    return found


def main():
    args = command_line(__doc__, rounds=2, shapes=["ed4"])
    ratios = []
    for name in args.shapes:
        rounds = [converse(name, f"{name} {number + 1}/{args.rounds}") for number in range(args.rounds)]
        median = {key: statistics.median(found[key] for found in rounds) for key in rounds[0]}
        head = [f"{name}: turn", "tokens of the prompt", "of these computed", "reaction (s)", "anew (s)"]
        rows = [[turn, *(median[key, turn] for key in ("prompt", "computed", "kept", "anew"))] for turn in TURNS]
        print_table([head, *rows])
        ratios.append(median["kept", TURNS[-1]] / median["kept", TURNS[0]])
    print_ratio(ratios)


if __name__ == "__main__":
    main()
