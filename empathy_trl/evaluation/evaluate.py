"""Evaluation of one model: predict, score, compare with baselines, write the files.

The kind of the stage determines how predictions are made and scored. Each kind is a `base.Evaluator`: `emotions`
(completions that answer with a label), `replies` (completions that reply to somebody), `staged` (replies that react, respond
and reflect), `labels` (task classify), `ratings` (task regress) and `pairs` (task regress with objective pairwise).

With several processes, each one holds the whole model and predicts its share of the rows; the main process scores and
writes, and all of them return its result. (A model that is sharded over processes has to be loaded again, whole.)

The files of an evaluation have public formats; leaderboards, cards and reports read nothing else:

* `eval_<split>.json`: `{"recipe", "stage", "model", "kind", "data": {"name", "source", "revision", "split", "n", "rows",
  "dropped", "shortened", …}, "metrics": {name: {"value", "low", "high", "n"}}, "baselines": {name: metrics}, "seed",
  "metrics_version", "versions"}`.
  In `data`, `rows` is a digest of the inputs and references: results with the same digest saw the same rows, whatever the
  folder was called. `dropped` counts unusable rows of the split, and `shortened` rows that `data.max_words` shortened. `limit`
  is there if only that many rows were drawn. A model with a head adds `cut`, the texts that were truncated to its maximum
  length. Completions add `decoding` (in words), `cut_off` (completions that were cut off), `prompts_cut` (prompts that lost
  their oldest turns, if any) and, for a server, `sampling` (the settings of its requests).
  Within a kind, metrics of different `metrics_version` have different definitions. Each kind adds keys after the baselines:
  emotions `confusion` (`{"rows", "columns", "counts"}`), labels `confusions`
  (group -> the same), ratings and pairs `ratings` (their names), replies `judged_by` (reward -> its parameters, its weight at
  the end of training and, if it uses a model, a digest as `weights`), `classifiers` (epitome, emotion, intent or
  bertscore -> its model, see `metrics.reply_classifiers`) and `left_out` (metric -> why it has no value). A
  perplexity also has `tokens`.
* `predictions_<split>.jsonl`: one row per example. `index` is the row in the whole split and `text` the input; the rest
  depends on the kind:
  emotions `{"label", "prediction", "correct", "grounded", "completion"}`, `prediction` being null when the answer is invalid,
  `grounded` whether the reasoning is (`tags.is_grounded`), and `next_word` if the metric `next_word_accuracy` was asked for;
  labels `{"label", "prediction", "correct"}`, the labels of several groups separated by " / ", `correct` a share;
  ratings `{"label", "prediction", "error"}`, the first two rating -> number, `error` their mean absolute difference;
  pairs `{"label", "prediction", "right_share"}`, the first two rating -> number, the last null for a reply without a pair;
  replies `{"completion", "reply", "reference", "likelihood", "rewards", "reward", "metrics"}`, `likelihood` minus the
  log-probability of the reference and its tokens, if there is a perplexity, `rewards` reward -> number or null,
  `reward` null if no reward applies, and `metrics` name -> number or null for every metric that is a mean over rows.
* `predictions_<split>.partial.jsonl`: the completions of an unfinished evaluation, see `generation`.
* `confusion_<split>.png` (emotions, labels; with several groups `confusion_<group>_<split>.png`), `ratings_<split>.png`

Every file except the partial one is written atomically.
"""

import random
from pathlib import Path
from types import SimpleNamespace

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

import empathy_trl.data
from empathy_trl import evaluation
from empathy_trl.cli import check_writable
from empathy_trl.engine import hold_together
from empathy_trl.errors import UserError
from empathy_trl.evaluation.answers import NEXT_WORD
from empathy_trl.evaluation.base import Evaluator, write_eval, write_predictions
from empathy_trl.evaluation.generation import count_cut_off, decoding, partial_path, remove_partial
from empathy_trl.evaluation.metrics.bootstrap import mean_figure
from empathy_trl.evaluation.metrics.reply_classifiers import check_configs
from empathy_trl.io import digest, user_path
from empathy_trl.models.limits import token_lengths, truncation
from empathy_trl.recipe.layers import LABEL_TASKS, stage_of
from empathy_trl.recipe.provenance import versions
from empathy_trl.recipe.schema import Recipe
from empathy_trl.recipe.stages import fit_rows

TASKS = ("sft", "grpo", "ppo", "regress", "classify")


def evaluate_model(
    *,
    model,
    tokenizer,
    stage,
    output_dir: str | Path,
    split: str = "test",
    recipe_name: str = "python",
    model_name: str | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    rewards: dict | None = None,
    backend: str = "transformers",
    next_word: bool = False,
) -> dict:
    """Evaluate a model, write the files that `artefacts` describes, and print a table.

    Args:
        model, tokenizer: the whole model, which is moved to the device of this process, and its tokenizer; for a stage
            with task regress or classify, a `scorer.Scorer` in place of the model; for any other, it may be an
            `api.ApiModel`, which has no tokenizer.
        stage: a `recipe.Stage`; gives task, data, seed and the evaluation settings, in which no classifier is
            `stage:<name>` any more (`StageRun.resolved`).
        recipe_name, model_name: names recorded in the files; by default the name that the model was loaded by.
        split: train, valid or test.
        output_dir: folder for the files; created if missing.
        limit: evaluate this many rows, drawn once for all models; None takes the stage's own limit.
        batch_size: prompts per batch; None takes the stage's setting.
        rewards: name -> `Reward`, to score replies; None takes the stage's rewards.
        backend: back end for generation, one of `generate.CHOICES`.
        next_word: also ask for the label as the next word, if the corpus says how (`Corpus.next_word`): `next_word_accuracy`.

    Completions are written to `generation.partial_path` as they arrive, and an interrupted evaluation resumes from there. The
    file is deleted when the others are written. The perplexity of references is not saved: it takes one pass over each.

    Returns the content of `eval_<split>.json`, in every process.

    Raises:
        UserError: a task that cannot be evaluated, a limit or batch size below 1, a folder that another command holds, a
            prompt that is too long for the model.
        DataError: from the data builder.
    """
    output_dir = _check_arguments(model, stage, output_dir)
    settings = stage.evaluation
    limit = settings.limit if limit is None else limit
    batch_size = settings.batch_size if batch_size is None else batch_size
    check_settings(stage, limit, batch_size)
    is_module = isinstance(model, nn.Module)  # otherwise a Scorer or an ApiModel
    model_name = model_name or (model.name_or_path if is_module else model.name) or "a model"

    kind = kind_of(stage)
    evaluator = evaluation.evaluator(kind)
    rows, index = evaluated_rows(stage, split, limit)
    rows, cut = _fitting(model, tokenizer, stage, rows, split, index)
    if is_module and not getattr(model, "is_quantized", False):  # which was put on its device when it was loaded
        model.to(PartialState().device)
    partial = partial_path(output_dir, split)
    how = {} if stage.task in LABEL_TASKS else {"backend": backend, "partial": partial}
    with hold_together(output_dir):
        predictions = evaluator.predict(model, tokenizer, stage, rows, batch_size, **how)
        guesses = evaluator.next_words(model, tokenizer, stage, rows, batch_size) if next_word else None
        result = None
        if PartialState().is_main_process:
            # The whole training split, whatever part of it this stage saw: what classical tools make of all labels.
            whole = stage.data.model_copy(update={"portion": (0.0, 1.0)})
            train = empathy_trl.data.build(whole, "train", evaluator.rows_task)
            judges = stage.rewards if rewards is None else rewards
            scored, table = evaluator.score(stage, rows, train, predictions, judges)
            _add_next_words(scored["metrics"], table, guesses)
            about = {"recipe": recipe_name, "stage": stage.name, "model": str(model_name), "kind": kind}
            table = [{"index": number} | row for number, row in zip(index, table, strict=True)]
            digested = digest([[row["index"], row["text"], row[evaluator.reference_column]] for row in table])
            data = _rows_record(model, tokenizer, stage, split, rows, digested) | ({"prompts_cut": cut} if cut else {})
            data |= {"limit": limit} if limit == len(rows) else {}
            data |= {} if stage.task in LABEL_TASKS else {"cut_off": count_cut_off(partial)}
            made = {"seed": stage.seed, "metrics_version": evaluator.metrics_version, "versions": versions()}
            result = about | {"data": data} | scored | made
            _write(evaluator, output_dir, split, result, table)
            remove_partial(partial)
    return broadcast_object_list([result])[0]


def _add_next_words(metrics: dict, table: list[dict], guesses: list[str] | None) -> None:
    if guesses is None:
        return
    for row, guess in zip(table, guesses, strict=True):
        row["next_word"] = guess
    metrics[NEXT_WORD] = mean_figure([row["next_word"] == row["label"] for row in table])


def _rows_record(model, tokenizer, stage, split: str, rows, digested: str) -> dict:
    """Return the entry `data` of `eval_<split>.json`."""
    report = empathy_trl.data.read_split(stage.data, split)[1]
    record = {"name": stage.data.name, "source": stage.data.path, "revision": stage.data.revision, "split": split}
    record |= {"n": len(rows), "rows": digested}
    record |= {"dropped": sum(report.dropped.values()), "shortened": report.shortened}
    if stage.task not in LABEL_TASKS:
        return record | decoding(stage, model)
    limit = SimpleNamespace(max_length=model.max_length)
    return record | {"cut": truncation(limit, token_lengths(tokenizer, rows)).prompts}


def _check_arguments(model, stage, output_dir: str | Path) -> Path:
    """Return the folder; UserError for names in place of what they name, and for a folder that cannot be written to."""
    if isinstance(stage, str | Path | Recipe):
        raise UserError("stage: is a recipe; expected one of its stages, such as load_recipe(NAME).stages['grpo']")
    if isinstance(model, str | Path):
        raise UserError(f"model: {str(model)!r} is a name; expected a loaded model, which load_model returns")
    output_dir = user_path(output_dir)
    check_writable(output_dir)
    return output_dir


def evaluated_rows(stage, split: str, limit: int | None) -> tuple:
    """Return the rows of a split that are evaluated, a `datasets.Dataset`, and their numbers in the split."""
    dataset = empathy_trl.data.build(stage.data, split, evaluation.evaluator(kind_of(stage)).rows_task)
    index = chosen_rows(len(dataset), limit)
    return dataset.select(index), index


def _fitting(model, tokenizer, stage, rows, split: str, index: list[int]) -> tuple:
    """Return rows whose prompts fit into a loaded language model, and how many were shortened; servers are not checked."""
    if not isinstance(model, nn.Module):
        return rows, 0
    rows, cut = fit_rows(stage, rows, split, model, tokenizer, numbers=index)
    if cut:
        PartialState().print(f"{split}: {cut} of {len(rows)} prompts lose their oldest turns to fit into the positions")
    return rows, cut


def check_lengths(stage, model, tokenizer) -> None:
    """Raise UserError if a prompt of a stage's own evaluations does not fit into a model, which may be on the meta device."""
    if stage.task in LABEL_TASKS:
        return
    settings = stage.evaluation
    for split, limit in ((settings.split, settings.limit), *((("valid", settings.rows),) if settings.every else ())):
        rows, index = evaluated_rows(stage, split, limit)
        fit_rows(stage, rows, split, model, tokenizer, numbers=index)


def check_settings(stage, limit: int | None = None, batch_size: int | None = None) -> None:
    """Raise UserError for a stage, limit or batch size that `evaluate_model` cannot do; needs no model."""
    if stage.task not in TASKS:
        raise UserError(
            f"stages.{stage.name}.task: there is no evaluation of a model for {stage.task!r} "
            f"(evaluated tasks: {', '.join(TASKS)})"
        )
    for name, value in (("limit", limit), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UserError(f"{name}: got {value}, expected a whole number above 0")


def kind_of(stage) -> str:
    """Return how a stage's model is evaluated: by its task or, for completions, by its data."""
    if stage.task in LABEL_TASKS:
        return "pairs" if stage.is_pairwise else {"regress": "ratings", "classify": "labels"}[stage.task]
    return empathy_trl.data.corpus(stage.data.name, stage.data.builder).evaluation


def check_judged(run) -> None:
    """Raise UserError for a `StageRun` whose replies are evaluated and that no rewards judge."""
    if run.is_judged and not run.judging_rewards:
        raise UserError(
            f"stages.{run.name}: its replies would be judged by the rewards of a later stage, and no later stage has any; "
            "expected a later stage with task grpo or ppo"
        )


def check_before_training(run) -> None:
    """Raise UserError for what would stop the evaluation of a `StageRun` and is known before its training."""
    check_judged(run)
    check_configs({kind: model for kind, model in run.stage.reply_classifiers.items() if stage_of(model) is None})


def chosen_rows(n: int, limit: int | None) -> list[int]:
    """Return row numbers, ascending: all, or `limit` of them, drawn the same for every model.

    Not the first ones: a split may be sorted by label.
    """
    if limit is None or limit >= n:
        return list(range(n))
    return sorted(random.Random(0).sample(range(n), limit))


def _write(evaluator: Evaluator, folder: Path, split: str, result: dict, table: list[dict]) -> None:
    main = result["metrics"][evaluator.main_metric]["value"]
    about, n = f"{result['recipe']} / {result['stage']}", result["data"]["n"]
    write_predictions(folder, split, table)
    title = (
        f"{about} on {split}: {evaluator.main_metric.replace('_', ' ')} {main:.3f}, n = {n}\n{result['model'][-60:]}"
    )
    evaluator.draw(folder, split, result, table, title)
    write_eval(folder, split, result)  # last: where it is, the others are
    print(summary_table(evaluator, result), flush=True)


def summary_table(evaluator: Evaluator, result: dict) -> str:
    """Return the plain-text table of an evaluation: the model above its baselines, with 95 % intervals."""
    data = result["data"]
    head = f"{result['recipe']} / {result['stage']}: {data['split']} of {data['source']} (n = {data['n']})"
    cut_off = f"{data.get('cut_off')} of {data['n']} completions were cut off at the maximum length (evaluation.max_new_tokens)"
    return "\n".join([head, *evaluator.summary(result), *([cut_off] if data.get("cut_off") else [])])
