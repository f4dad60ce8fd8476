"""Kind `replies`: completions that reply to somebody, judged by the recipe's rewards, and by what a hacked reward would move.

A policy that learned to please a reward model and nothing else shows it: its replies grow longer or shorter, use the same
words (distinct-2), say the same to everybody (duplicates), and leave what people really answered (similarity). These stand
beside the reward in every table, with the row of the reference replies.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from empathy_trl.errors import UserError
from empathy_trl.evaluation.baselines import NAMES
from empathy_trl.evaluation.generate import generate_shared
from empathy_trl.evaluation.intervals import mean_figure, with_interval
from empathy_trl.rewards import build_rewards
from empathy_trl.rewards.breakdown import breakdown
from empathy_trl.rewards.words import ngrams, words
from empathy_trl.schedules import weight_at
from empathy_trl.tags import REPLY_TAGS, reply_text

ROWS_OF = "grpo"
MAIN = "reward"
MAIN_WORDS = "mean reward"
PAIRED = True  # rows have one score each, whose mean is the main metric
WORDS = {
    "reply_words": "words per reply",
    "distinct_2": "distinct-2",
    "duplicate_share": "duplicate replies",
    "reference_similarity": "similarity to the reference (chrF)",
    "empty_share": "no reply",
}
NOTE = (
    "greedy decoding, 95 % intervals (bootstrap; of distinct-2, jackknife). `reward` is the weighted total with the weights of "
    "the end of training. Duplicates are replies that other rows get too. A reward that rises while the other columns move "
    "away from those of the reference replies is being hacked."
)


def predict(model, tokenizer, stage, rows, batch_size: int) -> list[str]:
    """Return one completion per row."""
    return generate_shared(model, tokenizer, list(rows["prompt"]), batch_size, stage.evaluation.max_new_tokens)


def score(stage, rows, train, completions: list[str], rewards: dict) -> tuple[dict, list[dict]]:
    """Return `metrics`, `baselines` and `judged_by`, and one row per example.

    Metrics: `reward`, `reward_<name>` for every reward, and those of `WORDS`. The only baseline are the reference replies;
    a reward that reads more than the reply (a format, a length of reasoning) has no value for them. `judged_by` says by
    which rewards: name -> parameters, and the weight at the end of training.

    Raises:
        UserError: no reward applies to any row; and what rewards raise.
    """
    columns = {name: list(rows[name]) for name in rows.column_names if name != "prompt"}
    prompts, references = list(rows["prompt"]), list(rows["reference"])
    built = {name: build_rewards({name: reward})[0][0] for name, reward in rewards.items()}
    reading = {name: rewards[name] for name, reward in built.items() if hasattr(reward, "reply_tags")}
    tags = next((built[name].reply_tags for name in reading), REPLY_TAGS)  # a reply is what the rewards take for it
    replies = [reply_text(completion, tags) for completion in completions]
    judged = breakdown(rewards, prompts, completions, progress=1.0, **columns)
    if all(row["total"] is None for row in judged.rows):
        raise UserError(
            f"rewards: none ({', '.join(rewards) or 'there are none'}) applies to any of the {len(prompts)} rows"
        )
    metrics = _reward_metrics(judged.rows, ["total", *rewards]) | _text_metrics(replies, references)
    # What reads the reply alone can read a person's reply too; without tags, so that the whole text is the reply.
    whole = breakdown(reading, prompts, references, progress=1.0, **columns)
    baselines = {"reference": _reward_metrics(whole.rows, reading) | _text_metrics(references, references)}
    table = [
        {
            "text": text,
            "completion": completion,
            "reply": reply,
            "reference": reference,
            "rewards": {name: row[name] for name in rewards},
            "reward": row["total"],
        }
        for text, completion, reply, reference, row in zip(
            rows["text"], completions, replies, references, judged.rows, strict=True
        )
    ]
    return {"metrics": metrics, "baselines": baselines, "judged_by": _judged_by(rewards)}, table


def _judged_by(rewards: dict) -> dict[str, dict]:
    """Return reward -> what decides its figures."""
    return {
        name: reward.params | {"weight": weight_at(reward.weight, 1.0), "import": reward.import_path}
        for name, reward in rewards.items()
    }


def _reward_metrics(judged: list[dict], names) -> dict[str, dict]:
    """Return `reward` (of "total") and `reward_<name>`: means over the rows to which the reward applies."""
    metrics = {}
    for name in names:
        values = [row[name] for row in judged if row[name] is not None]
        if values:
            metrics["reward" if name == "total" else f"reward_{name}"] = mean_figure(values)
    return metrics


def _text_metrics(replies: list[str], references: list[str]) -> dict[str, dict]:
    """Return what `WORDS` lists: lengths, variety, duplicates, likeness to the references and missing replies."""
    from sacrebleu.metrics import CHRF

    chrf, split = CHRF(), [words(reply) for reply in replies]
    seen = Counter(tuple(tokens) for tokens in split)
    return {
        "reply_words": mean_figure([len(tokens) for tokens in split]),
        "distinct_2": _distinct([ngrams(tokens, 2) for tokens in split]),
        "duplicate_share": mean_figure([seen[tuple(tokens)] > 1 for tokens in split]),
        "reference_similarity": mean_figure(
            [
                chrf.sentence_score(reply, [reference]).score / 100
                for reply, reference in zip(replies, references, strict=True)
            ]
        ),
        "empty_share": mean_figure([not reply for reply in replies]),
    }


def _distinct(grams: list[list[tuple]]) -> dict:
    """Return how many different n-grams all rows have together, as a share (Li et al. 2016), with a jackknife interval.

    A bootstrap draws rows twice, which makes any text look repetitive. The jackknife leaves rows out instead (Efron &
    Tibshirani 1993, chapter 11): one of ten parts each time, the rows dealt out in turn.
    """

    def share(parts: list[list[tuple]]) -> float:
        every = [gram for part in parts for gram in part]
        return len(set(every)) / max(1, len(every))

    value, folds = share(grams), min(10, len(grams))
    left = np.array([share([part for i, part in enumerate(grams) if i % folds != fold]) for fold in range(folds)])
    error = np.sqrt((folds - 1) / folds * ((left - left.mean()) ** 2).sum())
    return {
        "value": value,
        "low": max(0.0, value - 1.96 * error),
        "high": min(1.0, value + 1.96 * error),
        "n": len(grams),
    }


def draw(folder: Path, split: str, result: dict, table: list[dict], title: str) -> None:
    """Draw nothing: the report's picture has the rewards."""


def summary(result: dict) -> list[str]:
    """Return the lines of a plain-text table: a line per metric, the model beside the reference replies."""
    metrics, reference = result["metrics"], result["baselines"]["reference"]
    lines = [f"{'':<38}{result['stage']:<26}{NAMES['reference']}"]
    for key, heading in columns(result).items():
        lines.append(
            f"{heading:<38}{with_interval(metrics[key]):<26}"
            + (with_interval(reference[key]) if key in reference else "")
        )
    return lines


def columns(evaluation: dict) -> dict[str, str]:
    """Return metric -> heading of the table in which a report sets stages side by side."""
    rewards = {key: key.removeprefix("reward_") for key in evaluation["metrics"] if key.startswith("reward_")}
    return {"reward": "reward"} | rewards | WORDS


def details(stages: list) -> dict[str, str]:
    """Return heading -> text of what a report says beyond that table: nothing."""
    return {}


def row_score(row: dict) -> float | None:
    """Return how good the reply of a row is, None where no reward applies; the mean over the others is the main metric."""
    return row["reward"]


def question(row: dict) -> list[tuple[str, str]]:
    """Return what an example is about, as (name, text)."""
    return [("turn", row["text"]), ("reference", row["reference"])]


def answer(row: dict) -> str:
    """Return what the model said."""
    reward = "no reward" if row["reward"] is None else f"{row['reward']:.3f}"
    return f"{reward}: {row['completion']}"
