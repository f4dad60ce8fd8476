"""Evaluators of completions that reply to a person: the recipe's rewards, and metrics that show reward hacking.

When a policy hacks a reward model, other metrics change: its replies grow longer or shorter, repeat the same words
(distinct-2), are the same for many prompts (duplicates), and differ more from human replies (similarity). Every table
shows these metrics beside the reward, with a row for the reference replies. The main metrics of `reply_metrics`,
`perplexity` and `reply_classifiers` are in the same table, all others in a second one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from accelerate import PartialState

from empathy_trl.data.labelled import MECHANISMS
from empathy_trl.data.redial import PLACEHOLDER
from empathy_trl.errors import UserError
from empathy_trl.evaluation.base import NAMES, Evaluator, markdown, row_name
from empathy_trl.evaluation.generation import generate_shared
from empathy_trl.evaluation.metrics.agreement import thought_words
from empathy_trl.evaluation.metrics.bootstrap import mean_figures, with_interval
from empathy_trl.evaluation.metrics.reply_classifiers import (
    check_emotions,
    judge_replies,
    level_statistics,
    load_classifiers,
    recorded,
)
from empathy_trl.evaluation.metrics.reply_metrics import (
    ORDERS,
    ROUGE,
    bert_scores,
    bleu_statistics,
    check_bertscore,
    corpus_metrics,
    load_bertscore,
    perplexity,
    perplexity_statistics,
    row_metrics,
    variety_statistics,
)
from empathy_trl.models.likelihood import Likelihood, reference_likelihoods, unavailable_reason
from empathy_trl.models.load import weights_digest
from empathy_trl.rewards.base import weight_at
from empathy_trl.rewards.explain import explain_rewards
from empathy_trl.tags import REPLY_TAGS, RESPOND, part_text, read_parts, reply_text
from empathy_trl.text import in_markdown

# metric -> column title: of the main table, if the metric was measured, and of the detail table
TITLES = {
    "format_adherence": "in the format",
    "bleu_4": "BLEU-4",
    "perplexity": "perplexity of the reference",
    "emo_acc": "EMO-ACC",
    "intent_acc": "INTENT-ACC",
    "reply_words": "words per reply",
    "thought_words": "words of thought",
    "distinct_2": "distinct-2",
    "duplicate_share": "duplicate replies",
    "reference_similarity": "similarity to the reference (chrF)",
    "empty_share": "no reply",
}
DETAIL_TITLES = {
    **{f"bleu_{n}": f"BLEU-{n}" for n in ORDERS[:-1]},
    **{name: name.replace("_", "-").upper() for name in ROUGE},
    "bertscore": "BERTScore F1",
    **{f"distinct_{n}": f"distinct-{n}" for n in ORDERS if n != 2},
    **{f"bleu_at_{n}": f"bleu@{n}, published" for n in ORDERS},
    **{f"dist_at_{n}": f"dist@{n}, published" for n in ORDERS},
    "item_ratio": "item ratio, published",
    **{
        f"epitome_{mechanism}{ending}": f"{mechanism.replace('_', ' ')}{words}"
        for mechanism in MECHANISMS
        for ending, words in {
            "": ", level 0 to 2",
            "_difference": ", difference to the reference",
            "_mse": ", squared difference",
            "_pearson": ", Pearson with the reference",
        }.items()
    },
}
# metrics that can choose the best checkpoint, in addition to the rewards. A higher value of others, such as a length, is not better
RANKED = ("bleu_4", "reference_similarity", "distinct_2")
FEWER_IS_BETTER = ("perplexity", "duplicate_share", "empty_share")
JUDGED_BY = {"emotion": "emo_acc", "intent": "intent_acc"}
DETAIL_NOTE = (
    "Published: as the systems UniCRS and ECR count. A squared difference (diff-EPITOME) is often lowest for a reply that "
    "shows no empathy at all: read it beside the row of level 0 and the correlation. `docs/figures.md` says what each "
    "figure is and how it misleads."
)


@dataclass
class Prediction:
    """What a model makes of a row.

    Attributes:
        completion: its text.
        likelihood: of the reference, see `perplexity`; None where there is none.
        unavailable_reason: the reason then.
    """

    completion: str
    likelihood: Likelihood | None = None
    unavailable_reason: str | None = None


class ReplyEvaluator(Evaluator):
    """Kind `replies`: completions that reply to somebody, judged by the recipe's rewards, and by what a hacked reward would move."""

    title = "Replying"
    hub_task = ("text-generation", "empathetic replies")
    rows_task = "grpo"
    main_metric = "reward"
    main_metric_title = "mean reward"
    reference_column = "reference"
    note = (
        "95 % intervals (bootstrap; of counts of different n-grams, jackknife). `reward` is the "
        "weighted total with the weights of the end of training. Duplicates are replies that other rows get too. A reward that rises while the other columns move "
        "away from those of the reference replies is being hacked."
    )

    def predict(self, model, tokenizer, stage, rows, batch_size: int | None, **how) -> list[Prediction]:
        """Return one completion per row, and how likely the model finds the reference; `how` is that of `generate_shared`.

        Raises:
            UserError: a classifier that is to judge the replies, or the encoder of BERTScore, cannot be used.
        """
        prompts, references = list(rows["prompt"]), list(rows["reference"])
        if PartialState().is_main_process:
            scorers = load_classifiers(stage.reply_classifiers)  # now, and not after an hour of generation
            if "emotion" in scorers and "emotion" in rows.column_names:
                check_emotions(scorers["emotion"], rows["emotion"])
            if stage.evaluation.bertscore:
                check_bertscore(stage.evaluation.bertscore)
        completions = generate_shared(model, tokenizer, prompts, batch_size, stage, **how)
        if (why := unavailable_reason(model, tokenizer, prompts, references)) is not None:
            return [Prediction(completion, unavailable_reason=why) for completion in completions]
        likelihoods = reference_likelihoods(model, tokenizer, prompts, references, batch_size)
        return [Prediction(*each) for each in zip(completions, likelihoods, strict=True)]

    def score(self, stage, rows, train, predictions: list[Prediction], rewards: dict) -> tuple[dict, list[dict]]:
        """Return `metrics`, `baselines`, `judged_by`, `classifiers` and `left_out`, and one row per example.

        Metrics: `reward`, `reward_<name>` for every reward, and those of `TITLES` and `DETAIL_TITLES` that could be measured;
        `left_out` says of others why not. The baselines are the reference replies, and for what classifiers say also the
        majority class and the constant level 0; a reward that reads more than the reply (a format, a length of reasoning) has
        no value for the references. `judged_by` says by which rewards: name -> parameters, and the weight at the end of
        training; `classifiers` by which other models (`judges`).

        Raises:
            UserError: no reward applies to any row; a classifier does not fit the data; and what rewards and BERTScore raise.
        """
        columns = {name: list(rows[name]) for name in rows.column_names if name != "prompt"}
        prompts, references = list(rows["prompt"]), columns["reference"]
        completions = [prediction.completion for prediction in predictions]
        read, (human, readable) = self.reader(rewards), self.reference_completions(rows, rewards)
        replies = [read(completion) for completion in completions]
        earned = explain_rewards(rewards, prompts, completions, progress=1.0, **columns).rows
        if all(row["total"] is None for row in earned):
            raise UserError(
                f"rewards: none ({', '.join(rewards) or 'there are none'}) applies to any of the {len(prompts)} rows"
            )
        kept = {name: rewards[name] for name in readable}
        earned_by_references = (
            explain_rewards(kept, prompts, human, progress=1.0, **columns).rows if train is not None else []
        )
        scorers, emotions = load_classifiers(stage.reply_classifiers), columns.get("emotion")
        judged = judge_replies(scorers, prompts, replies, references, emotions)
        slots = "recommends" in columns and any(PLACEHOLDER in reference for reference in references)
        placeholder = PLACEHOLDER if slots else None

        by_row = (
            _rewards_by_row(earned, ["total", *rewards]) | row_metrics(replies, references, placeholder) | judged.rows
        )
        by_row |= {"thought_words": thoughts} if (thoughts := thought_words(completions)) else {}
        of_references = _rewards_by_row(earned_by_references, kept) | row_metrics(references, references, placeholder)
        asked = {kind: (name, scorers[kind].model) for kind, name in stage.reply_classifiers.items()}
        if encoder := stage.evaluation.bertscore:
            scorer = load_bertscore(encoder)
            by_row["bertscore"] = bert_scores(scorer, replies, references)
            asked["bertscore"] = encoder, scorer._model
        by_row, of_references = by_row | self.format_values(completions), of_references | self.format_values(human)
        metrics = mean_figures(by_row) | corpus_metrics(replies, references) | judged.metrics
        likelihoods = [each.likelihood for each in predictions if each.likelihood is not None]
        if likelihoods:
            metrics["perplexity"] = perplexity(likelihoods)
        if train is not None:
            judged.baselines["reference"] |= mean_figures(of_references) | corpus_metrics(references, references)
        result = {
            "metrics": metrics,
            "baselines": {name: figures for name, figures in judged.baselines.items() if figures},
            "judged_by": _judged_by(rewards),
            "classifiers": recorded(asked),
            "left_out": _without_rows(by_row, rewards)
            | judged.left_out
            | ({} if likelihoods else {"perplexity": predictions[0].unavailable_reason}),
        }
        texts = {"text": columns["text"], "completion": completions, "reply": replies, "reference": references}
        texts |= {"likelihood": [list(each) for each in likelihoods]} if len(likelihoods) == len(predictions) else {}
        return result, _table(texts, earned, by_row, rewards)

    def directions(self, stage, rewards: dict) -> dict[str, bool]:
        """Return metric -> whether more is better, of those by which the best checkpoint can be chosen."""
        names = ["reward", *(f"reward_{name}" for name in rewards), *RANKED, *ROUGE]
        names += [JUDGED_BY[kind] for kind in stage.reply_classifiers if kind in JUDGED_BY]
        names += ["bertscore"] if stage.evaluation.bertscore else []
        return dict.fromkeys(names, True) | dict.fromkeys(FEWER_IS_BETTER, False)

    def reader(self, rewards: dict) -> Callable[[str], str]:
        """Return the function from a completion to its reply, "" where it has none: what the rewards take for it."""
        tags = next(iter(_reading(rewards).values()), REPLY_TAGS)
        return lambda completion: reply_text(completion, tags)

    def reference_completions(self, rows, rewards: dict) -> tuple[list[str], list[str]]:
        """Return what people wrote, one completion per row, and the names of the rewards that can read it.

        What reads the reply alone can read a person's reply too; without tags, so that the whole text is the reply.
        """
        return list(rows["reference"]), list(_reading(rewards))

    def format_values(self, completions: list[str]) -> dict[str, list]:
        """Return metric -> one value per completion of what only its format shows: nothing."""
        return {}

    def summary(self, result: dict) -> list[str]:
        """Return the lines of a plain-text table: a line per metric, the model beside its baselines."""
        named = [result["metrics"], *result["baselines"].values()]
        heads = [row_name(result), *(NAMES[name] for name in result["baselines"])]
        lines = [f"{'':<56}" + "".join(f"{head:<28}" for head in heads).rstrip()]
        for key, heading in (self.column_titles(result) | _detail_titles(result)).items():
            cells = "".join(f"{with_interval(metrics[key]) if key in metrics else '':<28}" for metrics in named)
            lines.append(f"{heading:<56}{cells}".rstrip())
        return [*lines, *_reasons(result)]

    def column_titles(self, evaluation: dict) -> dict[str, str]:
        """Return metric -> heading of the table in which a report sets stages side by side."""
        metrics = evaluation["metrics"]
        rewards = {key: key.removeprefix("reward_") for key in metrics if key.startswith("reward_")}
        return {"reward": "reward"} | rewards | {key: heading for key, heading in TITLES.items() if key in metrics}

    def details(self, stages: list) -> dict[str, str]:
        """Return heading -> text of what a report says beyond that table: all other figures, a row for each."""
        last = stages[-1].evaluation
        named = {in_markdown(stage.name): stage.evaluation["metrics"] for stage in stages}
        named |= {NAMES[name]: metrics for name, metrics in last["baselines"].items()}
        rows = [["", *named, "n"]]
        for key, heading in _detail_titles(last).items():
            cells = [with_interval(metrics[key]) if key in metrics else "" for metrics in named.values()]
            rows.append([heading, *cells, last["metrics"][key]["n"]])
        parts = [markdown(rows), "n: rows of the last stage that have a value. " + DETAIL_NOTE]
        return {"More figures": "\n\n".join([*parts, *(f"- {line}" for line in _reasons(last))])}

    def row_values(self, evaluation: dict, rows: list[dict]) -> dict[str, list]:
        """Return metric -> one value per row, None where it does not apply; the metric is the mean of the others."""
        columns = [row.get("metrics", {}) for row in rows]  # older files have none
        return {name: [column.get(name) for column in columns] for name in columns[0]}

    def statistics(self, evaluation: dict, rows: list[dict]) -> dict[str, tuple]:
        """Return how to resample -> names and function of the metrics that are no means over rows."""
        replies, references = ([row[key] for row in rows] for key in ("reply", "reference"))
        parts = [bleu_statistics(replies, references), level_statistics(rows)]
        if all("likelihood" in row for row in rows):  # not in earlier versions
            parts.append(perplexity_statistics([row["likelihood"] for row in rows]))
        names = [name for named, _ in parts for name in named]
        joined = lambda numbers: np.concatenate([of(numbers) for _, of in parts], axis=-1)
        return {"bootstrap": (names, joined), "jackknife": variety_statistics(replies)}

    def row_score(self, row: dict) -> float | None:
        """Return how good the reply of a row is, None where no reward applies; the mean over the others is the main metric."""
        return row["reward"]

    def question(self, row: dict) -> list[tuple[str, str]]:
        """Return what an example is about, as (name, text)."""
        return [("turn", row["text"]), ("reference", row["reference"])]

    def answer(self, row: dict) -> str:
        """Return what the model said."""
        reward = "no reward" if row["reward"] is None else f"{row['reward']:.3f}"
        return f"{reward}: {row['completion']}"


class StagedReplyEvaluator(ReplyEvaluator):
    """Kind `staged`: replies that react, respond and reflect (see `tags`), judged as `replies` are, and by their format.

    What is counted and held against the reference (length, distinct-2, BLEU, chrF) is the part that is spoken. Rewards
    read whole turns, of the model and of people; the perplexity is that of the whole turn, too. `format_adherence` is
    the share of completions that are well-formed.
    """

    title = "Reacting, responding, reflecting"
    hub_task = ("text-generation", "replies that react, respond and reflect")

    def predict(self, model, tokenizer, stage, rows, batch_size: int | None, **how) -> list[Prediction]:
        """Return one completion per row, and how likely the model finds the whole turn of the data."""
        whole = rows.remove_columns("reference").rename_column("turn", "reference")
        return super().predict(model, tokenizer, stage, whole, batch_size, **how)

    def reader(self, rewards: dict) -> Callable[[str], str]:
        """Return the function from a completion to the part of it that is spoken."""
        return lambda completion: part_text(completion, RESPOND)

    def reference_completions(self, rows, rewards: dict) -> tuple[list[str], list[str]]:
        """Return the whole turns of the data, which every reward can read."""
        return list(rows["turn"]), list(rewards)

    def directions(self, stage, rewards: dict) -> dict[str, bool]:
        """Return metric -> whether more is better, of those by which the best checkpoint can be chosen."""
        return super().directions(stage, rewards) | {"format_adherence": True}

    def format_values(self, completions: list[str]) -> dict[str, list]:
        """Return whether each completion is well-formed."""
        return {"format_adherence": [read_parts(completion) is not None for completion in completions]}


def _reading(rewards: dict) -> dict[str, list[str]]:
    """Return reward -> the tags it looks for, of those that read the reply alone."""
    return {name: reward.reply_tags for name, reward in rewards.items() if reward.reply_tags is not None}


def _table(texts: dict[str, list], earned: list[dict], by_row: dict[str, list], rewards) -> list[dict]:
    """Return one row per example: its texts, what they earned, and its value of every metric that is a mean."""
    return [
        {name: column[number] for name, column in texts.items()}
        | {"rewards": {name: row[name] for name in rewards}, "reward": row["total"]}
        | {"metrics": {name: _plain(values[number]) for name, values in by_row.items()}}
        for number, row in enumerate(earned)
    ]


def _plain(value: float | bool | None) -> float | None:
    """Return a row's value as a number: whether something holds is 1 or 0."""
    return None if value is None else float(value)


def _judged_by(rewards: dict) -> dict[str, dict]:
    """Return reward -> what decides its figures: parameters, weight, and of a model that it asks a digest of the weights."""
    entries = {}
    for name, reward in rewards.items():
        entries[name] = {**reward.params, "weight": weight_at(reward.weight, 1.0), "import": reward.import_path}
        scorer = reward.load() if reward.loads_model else None
        if scorer is not None:
            entries[name]["weights"] = weights_digest(scorer.model)
    return entries


def _without_rows(by_row: dict[str, list], rewards) -> dict[str, str]:
    """Return metric -> reason of the rewards that have no value: a figure that is missing should not look forgotten."""
    values = {f"reward_{name}": by_row[f"reward_{name}"] for name in rewards}
    return {
        metric: f"it applies to none of the {len(column)} rows"
        for metric, column in values.items()
        if all(value is None for value in column)
    }


def _rewards_by_row(judged: list[dict], names) -> dict[str, list]:
    """Return `reward` (of "total") and `reward_<name>`: one value per row, None where the reward does not apply."""
    return {"reward" if name == "total" else f"reward_{name}": [row[name] for row in judged] for name in names}


def _detail_titles(evaluation: dict) -> dict[str, str]:
    """Return metric -> heading of what the main table leaves out."""
    return {key: heading for key, heading in DETAIL_TITLES.items() if key in evaluation["metrics"]}


def _reasons(evaluation: dict) -> list[str]:
    """Return a line for every metric that could not be measured."""
    words = TITLES | DETAIL_TITLES
    return [f"{words.get(key, key)}: none, because {reason}" for key, reason in evaluation["left_out"].items()]
