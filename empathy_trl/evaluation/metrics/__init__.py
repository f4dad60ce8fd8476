"""Our metrics as modules of Hugging Face `evaluate`: one folder each, loaded by its path.

    evaluate.load(empathy_trl.evaluation.metrics.path("distinct_n")).compute(predictions=["so sorry", "so glad"])

A module calls the function that computes the same metric for our reports; `judge_aspects` uses the judge of the reward
`llm_judge`. Importing this package imports nothing heavy.
"""

from pathlib import Path

from empathy_trl.errors import UserError

NAMES = (
    "distinct_n",
    "item_ratio",
    "pearson_dims",
    "emotion_accuracy",
    "stage_format",
    "epitome",
    "emo_acc",
    "intent_acc",
    "judge_aspects",
)


def path(name: str) -> str:
    """Return the folder of a metric, for `evaluate.load`. UserError if there is none of this name."""
    if name not in NAMES:
        raise UserError(f"unknown metric {name!r} (choices: {', '.join(NAMES)})")
    return str(Path(__file__).parent / name)
