"""Conversation turns as prompts: one person's turn, and the other's answer to it as the reference.

The policy is asked to think about the person first, in `<reasoning>`, and to answer in one or two sentences, in `<answer>`.
For a warm start (task sft) the answer is the reference, and the reasoning is a template, filled with what the ratings of
the turn say: it shows the format, and is no human reasoning.
"""

import itertools

SYSTEM = (
    "You talk with somebody about what moves them. First reason about the person: their concern, the emotional content of "
    "what they say, its intensity from 0 to 5, and your approach. Then answer them in one or two sentences.\n"
    "Write it as <reasoning>concern, emotional content, intensity, approach</reasoning><answer>your reply</answer> and "
    "nothing else."
)
# of EmotionalPolarity 0, 1 and 2
CONCERNS = ("something good", "something on their mind", "something that hurts")
CONTENT = ("positive", "mixed", "negative")
# by the reference's Empathy: what a reply of that kind sets out to do
APPROACHES = ((3.0, "show that I understand"), (1.5, "acknowledge it"), (0.0, "keep it short"))


def make_prompt(turn: str) -> list[dict[str, str]]:
    """Return the conversational prompt of a turn: the instruction, and the turn as the user's message."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": turn}]


def answered_turns(rows: list[dict]) -> list[dict]:
    """Return the turns that the other person answers, in the order of the rows.

    Args:
        rows: rated turns in the order of their conversations, each with `text`, `labels` (rating -> number),
            `conversation` and `speaker` (None where the source has none; every next turn then counts as an answer).

    Returns rows with `text` (the turn), `reference` (the answer), `conversation`, `labels` (of the turn) and
    `reference_labels`.
    """
    pairs = []
    for turn, reply in itertools.pairwise(rows):
        same_person = turn["speaker"] is not None and turn["speaker"] == reply["speaker"]
        if turn["conversation"] == reply["conversation"] and turn["conversation"] is not None and not same_person:
            pairs.append(
                {
                    "text": turn["text"],
                    "reference": reply["text"],
                    "conversation": turn["conversation"],
                    "labels": turn["labels"],
                    "reference_labels": reply["labels"],
                }
            )
    return pairs


def make_completion(pair: dict) -> list[dict[str, str]]:
    """Return a warm start's completion for a row of `answered_turns`: a template for the reasoning, and the reference."""
    content = f"<reasoning>{_reasoning(pair)}</reasoning><answer>{pair['reference']}</answer>"
    return [{"role": "assistant", "content": content}]


def _reasoning(pair: dict) -> str:
    ratings, aim = pair["labels"], pair["reference_labels"]["Empathy"]
    polarity = min(2, max(0, round(ratings["EmotionalPolarity"])))
    approach = next(words for lowest, words in APPROACHES if aim >= lowest)
    # no word of the turn is quoted: a model of one layer cannot copy, and what it copies wrong leads the reply astray
    return (
        f"concern: {CONCERNS[polarity]}; content: {CONTENT[polarity]}; intensity: {round(ratings['Emotion'])}; "
        f"approach: {approach}"
    )
