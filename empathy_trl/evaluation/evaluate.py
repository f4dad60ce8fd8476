"""Evaluation of one model on the emotion task: generate, score, compare with baselines, write the artefacts.

Under several processes every process holds the whole model and generates for its share of the rows; the main
process scores and writes, and all of them return its result. (A model that is sharded over processes has to
be loaded anew for this, whole.)
"""

import importlib
import random
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

import empathy_trl.data
from empathy_trl.errors import UserError
from empathy_trl.evaluation import artefacts
from empathy_trl.evaluation.baselines import NAMES, score_baselines
from empathy_trl.evaluation.generate import generate_completions
from empathy_trl.evaluation.intervals import with_interval
from empathy_trl.evaluation.plots import draw_confusion
from empathy_trl.evaluation.score import score_emotions
from empathy_trl.stages import versions

TASKS = ("sft", "grpo")


def evaluate_model(
    *,
    model,
    tokenizer,
    stage,
    recipe_name: str,
    split: str,
    output_dir: str | Path,
    model_name: str,
    limit: int | None = None,
    batch_size: int | None = None,
) -> dict:
    """Evaluate a model, write the three files that `artefacts` describes, and print a table.

    Args:
        model, tokenizer: the whole model, which is moved to the device of this process, and its tokenizer.
        stage: a `recipe.Stage` with task sft or grpo; gives data, seed and the evaluation settings.
        recipe_name, model_name: noted in the artefacts.
        split: train, valid or test.
        output_dir: folder for the files; made when missing.
        limit: evaluate this many rows, drawn once for all models; None takes the stage's own limit.
        batch_size: prompts generated together; None takes the stage's own.

    Returns the content of `eval_<split>.json`, in every process.

    Raises:
        UserError: a task without emotion answers, or a limit or batch size below 1.
        DataError: from the data builder.
    """
    settings = stage.evaluation
    limit = settings.limit if limit is None else limit
    batch_size = settings.batch_size if batch_size is None else batch_size
    check_settings(stage, limit, batch_size)

    dataset = empathy_trl.data.build(stage.data, split, "grpo")
    index = chosen_rows(len(dataset), limit)
    rows = dataset.select(index)
    # a quantised model was put on its device when it was loaded, and refuses to be moved
    if not getattr(model, "is_quantized", False):
        model.to(PartialState().device)
    prompts = list(rows["prompt"])
    completions = _generate_shared(model, tokenizer, prompts, batch_size, settings.max_new_tokens)
    result = None
    if PartialState().is_main_process:
        about = {"recipe": recipe_name, "stage": stage.name, "model": model_name}
        result = _score_and_write(about, stage, split, Path(output_dir), index, rows, completions)
    return broadcast_object_list([result])[0]


def check_settings(stage, limit: int | None = None, batch_size: int | None = None) -> None:
    """Raise UserError for a stage, limit or batch size that `evaluate_model` cannot do; needs no model."""
    if stage.task not in TASKS:
        raise UserError(
            f"stages.{stage.name}.task: a model for {stage.task!r} gives no emotion answers to evaluate "
            f"(evaluated tasks: {', '.join(TASKS)})"
        )
    for name, value in (("limit", limit), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UserError(f"{name}: got {value}, expected a whole number above 0")


def chosen_rows(n: int, limit: int | None) -> list[int]:
    """Return row numbers, ascending: all, or `limit` of them, drawn the same for every model.

    Not the first ones: a split may be sorted by label.
    """
    if limit is None or limit >= n:
        return list(range(n))
    return sorted(random.Random(0).sample(range(n), limit))


def _generate_shared(model, tokenizer, prompts, batch_size: int, max_new_tokens: int) -> list[str]:
    """Generate, each process for its share of the prompts; all processes return all completions."""
    state = PartialState()
    own = range(state.process_index, len(prompts), state.num_processes)
    texts = generate_completions(
        model,
        tokenizer,
        [prompts[row] for row in own],
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        progress=state.is_main_process,
    )
    return [text for _, text in sorted(gather_object(list(zip(own, texts, strict=True))))]


def _score_and_write(
    about: dict, stage, split: str, folder: Path, index: list[int], rows, completions: list[str]
) -> dict:
    labels = importlib.import_module(empathy_trl.data.BUILDERS[stage.data.name]).LABELS
    gold = list(rows["label"])
    metrics, predictions, confusion = score_emotions(completions, gold, labels)
    # The whole training split, whatever part of it this stage saw: what classical tools make of all labels.
    train = empathy_trl.data.build(stage.data.model_copy(update={"portion": (0.0, 1.0)}), "train", "grpo")
    result = about | {
        "data": {"source": stage.data.path, "split": split, "n": len(gold)},
        "metrics": metrics,
        "baselines": score_baselines(train["text"], train["label"], rows["text"], gold, labels),
        "confusion": confusion,
        "seed": stage.seed,
        "versions": versions(),
    }
    columns = zip(index, rows["text"], gold, predictions, completions, strict=True)
    table = [
        {
            "index": number,
            "text": text,
            "label": label,
            "prediction": prediction,
            "correct": prediction == label,
            "completion": completion,
        }
        for number, text, label, prediction, completion in columns
    ]
    accuracy = metrics["accuracy"]["value"]
    title = f"{about['recipe']} / {about['stage']} on {split}: accuracy {accuracy:.3f}, n = {len(gold)}"
    draw_confusion(artefacts.confusion_path(folder, split), confusion, f"{title}\n{about['model'][-60:]}")
    artefacts.write_predictions(folder, split, table)
    artefacts.write_eval(folder, split, result)  # last: where it is, the others are
    print(summary_table(result), flush=True)
    return result


def summary_table(result: dict) -> str:
    """Return the plain-text table of an evaluation: the model above its baselines, with 95 % intervals."""
    data, metrics = result["data"], result["metrics"]
    named = [(result["stage"], metrics), *((NAMES[key], row) for key, row in result["baselines"].items())]
    invalid, words = metrics["invalid_share"]["value"], metrics["mean_reasoning_words"]["value"]
    return "\n".join(
        [
            f"{result['recipe']} / {result['stage']}: {data['split']} of {data['source']} (n = {data['n']})",
            f"{'':<30}{'accuracy [95 %]':<24}macro-F1 [95 %]",
            *(f"{name:<30}{with_interval(row['accuracy']):<24}{with_interval(row['macro_f1'])}" for name, row in named),
            f"invalid answers {invalid:.1%}, reasoning {words:.1f} words on average",
        ]
    )
