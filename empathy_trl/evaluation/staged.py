"""Kind `staged`: replies that react, respond and reflect (see `parts.py`), judged as `replies` are, and by their format.

What is counted and held against the reference (length, distinct-2, BLEU, chrF) is the part that is spoken. Rewards read whole
turns, of the model and of people; the perplexity is that of the whole turn, too. `format_adherence` is the share of completions
that are well-formed.
"""

from empathy_trl.evaluation import replies
from empathy_trl.evaluation.replies import (
    GOLD,
    MAIN,
    MAIN_WORDS,
    NOTE,
    PAIRED,
    ROWS_OF,
    VERSION,
    People,
    Prediction,
    answer,
    columns,
    details,
    draw,
    question,
    row_score,
    row_values,
    statistics,
    summary,
)
from empathy_trl.tags import RESPOND, part_text, read_parts

__all__ = [
    "GOLD",
    "MAIN",
    "MAIN_WORDS",
    "NOTE",
    "PAIRED",
    "ROWS_OF",
    "VERSION",
    "answer",
    "columns",
    "details",
    "draw",
    "predict",
    "question",
    "row_score",
    "row_values",
    "score",
    "statistics",
    "summary",
]


def predict(model, tokenizer, stage, rows, batch_size: int | None, **how) -> list[Prediction]:
    """Return one completion per row, and how likely the model finds the whole turn of the data."""
    whole = rows.remove_columns("reference").rename_column("turn", "reference")
    return replies.predict(model, tokenizer, stage, whole, batch_size, **how)


def score(stage, rows, train, predictions: list[Prediction], rewards: dict) -> tuple[dict, list[dict]]:
    """Return what `replies.score` does, with `format_adherence`, and with every reward of the reference turns."""
    people = People(list(rows["turn"]), list(rewards))
    return replies.judge(stage, rows, predictions, rewards, _spoken, people, more=_adherence)


def _spoken(completion: str) -> str:
    return part_text(completion, RESPOND)


def _adherence(completions: list[str]) -> dict[str, list[bool]]:
    return {"format_adherence": [read_parts(completion) is not None for completion in completions]}
