"""Conversation turns as prompts: one person's turn, and the other's answer to it as the reference.

The policy is asked to think about the person first, in `<reasoning>`, and to answer in one or two sentences, in `<answer>`.
For a warm start (task sft) the answer is the reference, and the reasoning is a template, filled with what the ratings of
the turn say: it shows the format, and is no human reasoning.
"""

import itertools

from empathy_trl.errors import DataError

SYSTEM = (
    "You talk with somebody about what moves them. First reason about the person: their concern, the emotional content of "
    "what they say, its intensity from 0 to 5, and your approach. Then answer them in one or two sentences.\n"
    "Write it as <reasoning>concern, emotional content, intensity, approach</reasoning><answer>your reply</answer> and "
    "nothing else."
)
NEEDED = ("Emotion", "EmotionalPolarity", "Empathy")  # for the template of a warm start
# of EmotionalPolarity 0, 1 and 2
CONCERNS = ("something good", "something on their mind", "something that hurts")
CONTENT = ("positive", "mixed", "negative")
# by the reference's Empathy: what a reply of that kind sets out to do
APPROACHES = ((3.0, "show that I understand"), (1.5, "acknowledge it"), (0.0, "keep it short"))


def make_prompt(turn: str) -> list[dict[str, str]]:
    """Return the conversational prompt of a turn: the instruction, and the turn as the user's message."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": turn}]


def replies(rows: list[dict], source: str, ratings: list[str], with_completion: bool):
    """Return the answered turns as a `datasets.Dataset`: `prompt`, `text`, `reference`, `conversation`, and `completion`.

    Args:
        rows: rated turns in the order of their conversations, see `wassa.read_split`.
        source: how messages name them.
        ratings: the names of the numbers in `labels`.
        with_completion: for a warm start, which needs the ratings Emotion, EmotionalPolarity and Empathy.

    Raises:
        DataError: no turn is answered, or a warm start lacks a rating.
    """
    from datasets import Dataset

    pairs = answered_turns(rows)
    if not pairs:
        raise DataError(
            f"{source}: no turn is answered by the next one; prompts and replies need the turns of conversations in order, with "
            "a column conversation_id"
        )
    columns = {
        "prompt": [make_prompt(turn["text"]) for turn, _ in pairs],
        "text": [turn["text"] for turn, _ in pairs],
        "reference": [reply["text"] for _, reply in pairs],
        "conversation": [turn["conversation"] for turn, _ in pairs],
    }
    if with_completion:
        if missing := [name for name in NEEDED if name not in ratings]:
            raise DataError(
                f"{source}: a warm start needs the ratings {', '.join(NEEDED)}; found {', '.join(ratings)}, not {missing[0]}"
            )
        named = [[dict(zip(ratings, row["labels"], strict=True)) for row in pair] for pair in pairs]
        columns["completion"] = [
            make_completion(reply["text"], *rated) for (_, reply), rated in zip(pairs, named, strict=True)
        ]
    return Dataset.from_dict(columns)


def answered_turns(rows: list[dict]) -> list[tuple[dict, dict]]:
    """Return (turn, answer) for every turn that the other person answers next.

    A turn whose answer was dropped, or lies in another split, has none: what comes next answers another turn.

    Args:
        rows: in order, with `number` (their places in the source), `conversation`, `turn` and `speaker`; where the speaker is
            None, every next turn counts as an answer.
    """
    return [
        (turn, reply)
        for turn, reply in itertools.pairwise(rows)
        if turn["conversation"] is not None
        and turn["conversation"] == reply["conversation"]
        and reply["number"] == turn["number"] + 1
        and not _skips(turn["turn"], reply["turn"])
        and (turn["speaker"] is None or turn["speaker"] != reply["speaker"])
    ]


def _skips(turn: str | None, after: str | None) -> bool:
    """Whether turn ids tell that the source itself lacks a turn between two, or has them in another order.

    Equal ids may be an exchange, of two turns; ids that are no whole numbers tell nothing.
    """
    if not (turn and after and turn.isdecimal() and after.isdecimal()):
        return False
    return int(after) - int(turn) not in (0, 1)


def make_completion(reply: str, turn_ratings: dict, reply_ratings: dict) -> list[dict[str, str]]:
    """Return a warm start's completion: a template for the reasoning, filled from ratings, and the reference as answer.

    Args:
        reply: what the other person answered.
        turn_ratings, reply_ratings: rating -> number, of the turn and of the answer.
    """
    content = f"<reasoning>{_reasoning(turn_ratings, reply_ratings['Empathy'])}</reasoning><answer>{reply}</answer>"
    return [{"role": "assistant", "content": content}]


def _reasoning(ratings: dict, aim: float) -> str:
    polarity = min(2, max(0, round(ratings["EmotionalPolarity"])))
    approach = next(words for lowest, words in APPROACHES if aim >= lowest)
    # no word of the turn is quoted: a model of one layer cannot copy, and what it copies wrong leads the reply astray
    return (
        f"concern: {CONCERNS[polarity]}; content: {CONTENT[polarity]}; intensity: {round(ratings['Emotion'])}; "
        f"approach: {approach}"
    )
