"""The evaluation commands: `evaluate` models, `compare` two evaluations, `explain` rewards, and `score` responses."""

import argparse
import errno
import gc
import os
import re
from pathlib import Path

import empathy_trl
from empathy_trl.cli import (
    OUTPUTS,
    SAMPLING_HELP,
    add_quiet,
    check_writable,
    command_parser,
    exit_status,
    json_object,
    name_flag,
    parse_with_overrides,
    path_flag,
    positive,
)
from empathy_trl.engine import fail_together, hold_together, join_processes, part_processes
from empathy_trl.errors import UserError
from empathy_trl.evaluation import evaluator
from empathy_trl.evaluation.compare import write_comparison
from empathy_trl.evaluation.metrics.bootstrap import with_interval
from empathy_trl.evaluation.score import score_file
from empathy_trl.io import json_or_none, user_path
from empathy_trl.models.api import PREFIX, ApiModel, as_flag
from empathy_trl.models.hub_files import check_exists, has_chat_template, split_revision
from empathy_trl.recipe import Model, Recipe, Stage, load_recipe
from empathy_trl.recipe.layers import LABEL_TASKS, TOP_KEYS
from empathy_trl.recipe.stages import stage_runs
from empathy_trl.rewards.explain import explain_rewards, read_completions, write_csv
from empathy_trl.rewards.llm_judge import LLMJudge


def evaluate(arguments: list[str] | None = None) -> int:
    """Evaluate models on the data of a recipe's stage: a table on the screen, and files in a folder for each.

        empathy-trl evaluate --recipe ed4_tiny --model outputs/ed4_tiny/grpo --split test
        empathy-trl evaluate --recipe ed4_gemma --model google/gemma-2-2b-it outputs/ed4_gemma/grpo --limit 200
        empathy-trl evaluate --recipe ed4_tiny --model openai:NAME --base_url http://localhost:8000/v1
        accelerate launch --num_processes 2 -m empathy_trl.commands evaluate --recipe ed4_gemma --model USER/ed4-gemma-2b

    Any key of the recipe can be overridden, as in `empathy-trl run`: --data.path my_folder
    The same command goes on with an evaluation that was interrupted; no row is generated twice.
    """
    options, overrides = parse_with_overrides(_evaluate_parser(), arguments, TOP_KEYS)
    return exit_status(
        lambda: _evaluate_or_report_full_disk(options, overrides),
        interrupted="interrupted; the same command continues with the remaining rows",
        quiet=options.quiet,
    )


def _evaluate_parser() -> argparse.ArgumentParser:
    """Return the parser; flags it does not know are overrides of recipe keys."""
    parser = command_parser("evaluate", evaluate.__doc__)
    add_quiet(parser)
    parser.add_argument(
        "--recipe", required=True, help="YAML file, the name of a shipped recipe, or hub:USER/REPO[@revision]"
    )
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="let a recipe from the Hub import Python code; read it first"
    )
    parser.add_argument(
        "--model",
        required=True,
        nargs="+",
        type=name_flag,
        help="one or more, evaluated one after another: folder of a saved model, a Hub id[@revision], or openai:NAME on a server",
    )
    parser.add_argument(
        "--base_url",
        help="address of the server for openai:NAME (default: $OPENAI_BASE_URL, or OpenAI's); its key: $OPENAI_API_KEY",
    )
    parser.add_argument("--sampling", type=json_object, default={}, help=SAMPLING_HELP)
    parser.add_argument("--stage", help="stage whose data and settings are used (default: the last)")
    parser.add_argument("--split", choices=("train", "valid", "test"), help="split to evaluate (default: the recipe's)")
    parser.add_argument("--batch_size", type=positive, help="batch size (default: the recipe's)")
    parser.add_argument(
        "--backend",
        choices=("auto", "transformers", "vllm"),  # `models.generate.CHOICES`, which would import torch
        default="auto",
        help="back end: padded batches or vLLM; auto: vLLM on a GPU if it is installed, else padded batches",
    )
    parser.add_argument("--limit", type=positive, help="evaluate this many rows, drawn once (default: the recipe's)")
    parser.add_argument(
        "--output_dir",
        type=path_flag,
        help="default: outputs/<recipe>/evaluations/<model name>; with several models, each gets a subfolder",
    )
    return parser


def _evaluate_or_report_full_disk(options: argparse.Namespace, overrides: list[str]) -> None:
    try:
        _evaluate(options, overrides)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror}; the rows on disk are kept, and the same command continues"
        raise UserError(message) from error


def _evaluate(options: argparse.Namespace, overrides: list[str]) -> None:
    """Evaluate the models, each in place of the stage's own, on the data of the stage.

    All of them are checked before the first one is loaded. One that fails does not keep the others from being evaluated,
    unless several processes work together: they could not agree on where to go on.

    Raises:
        UserError: what is wrong with the arguments, or at the end which models failed and why.
    """
    with fail_together():  # a node may lack a file
        recipe = load_recipe(options.recipe, overrides, training=False, trust_remote_code=options.trust_remote_code)
        stage = recipe.choose_stage(options.stage)
        folders = _output_folders(options.model, recipe, options.output_dir)
        served = _check_models(options, stage, folders)
    process = join_processes()
    results, failed = {}, {}
    for number, (model, folder) in enumerate(folders.items(), start=1):
        if len(folders) > 1:
            process.print(f"model {number} of {len(folders)}: {model}", flush=True)
        try:
            with hold_together(folder):  # known before the model is loaded
                results[model] = _evaluate_one(options, recipe, stage, model, served[model], folder)
        except UserError as error:
            if len(folders) == 1 or process.num_processes > 1:  # others may wait for what this process did not reach
                raise
            failed[model] = str(error)
            process.print(f"failed: {model}: {error}", flush=True)
        else:
            process.print(f"written to {folder}")
    if len(folders) > 1:
        process.print(_table_of_all(results, failed))
    part_processes()
    if failed:
        raise UserError("\n".join(f"{model}: not evaluated: {why}" for model, why in failed.items()))


def _check_models(options: argparse.Namespace, stage: Stage, folders: dict[str, Path]) -> dict[str, object]:
    """Return model -> what `served_model` makes of it; UserError for what can be told before any model is loaded."""
    from empathy_trl.evaluation.evaluate import check_settings  # these two import torch
    from empathy_trl.models.generate import check_installed

    check_settings(stage)
    check_installed(options.backend)
    served = {model: _served_model(model, options, stage) for model in options.model}
    for model, folder in folders.items():
        check_writable(folder)
        if not served[model]:
            check_exists(model)
    return served


def _evaluate_one(
    options: argparse.Namespace, recipe: Recipe, stage: Stage, name: str, served, output_dir: Path
) -> dict:
    """Load a model, unless it is served, and evaluate it; its memory is free when this returns."""
    run = stage_runs(recipe, _stage_folders(name, recipe))[stage.name]
    model, tokenizer = (served, None) if served else run.load_model(_evaluated_model(stage.model, name))
    try:
        return empathy_trl.evaluate_model(
            model=model,
            tokenizer=tokenizer,
            stage=run.resolved,
            recipe_name=recipe.name,
            split=options.split or stage.evaluation.split,
            output_dir=output_dir,
            model_name=name,
            limit=options.limit,
            batch_size=options.batch_size,
            rewards=run.judging_rewards,
            backend=options.backend,
            next_word=stage.evaluation.untrained,
        )
    finally:
        del model
        _free_memory()


def _free_memory() -> None:
    """Give back what a model took that nobody refers to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _table_of_all(results: dict[str, dict], failed: dict[str, str]) -> str:
    """Return a plain-text table: the main figure of every model, in the order of the command line."""
    width = max(map(len, [*results, *failed])) + 2
    lines = []
    for model, result in results.items():
        shown_by = evaluator(result["kind"])
        if not lines:
            lines.append(f"{'model':<{width}}{shown_by.main_metric_title} [95 %], n = {result['data']['n']}")
        lines.append(f"{model:<{width}}{with_interval(result['metrics'][shown_by.main_metric])}")
    return "\n".join([*lines, *(f"{model:<{width}}failed" for model in failed)])


def _served_model(name: str, options: argparse.Namespace, stage: Stage) -> ApiModel | None:
    """Return the model that openai:NAME stands for, None for a folder or a Hub id.

    Raises:
        UserError: a task that needs a head of its own, a flag without a use, or what `ApiModel` raises.
    """
    for flag in ("base_url", "sampling"):
        if getattr(options, flag) and not any(model.startswith(PREFIX) for model in options.model):
            raise UserError(f"--{flag}: is for --model {PREFIX}NAME, got --model {' '.join(options.model)}")
    if not name.startswith(PREFIX):
        return None
    if options.backend != "auto":
        raise UserError(
            f"--backend {options.backend}: --model {name} generates on its server; leave --backend out, or the model"
        )
    if stage.task in LABEL_TASKS:
        raise UserError(
            f"--model {name}: stage {stage.name} has task {stage.task}, whose answers come from a head of the model; a server "
            "gives texts only. Expected a folder or a Hub id"
        )
    arguments = stage.model.chat_template_kwargs
    sampling = ({"chat_template_kwargs": arguments} if arguments else {}) | options.sampling
    return ApiModel(name.removeprefix(PREFIX), options.base_url, sampling=sampling, written=as_flag)


def _evaluated_model(config: Model, name: str) -> Model:
    """Return the model section of a stage with another model in place of its own, which keeps its own chat template."""
    plain, revision = split_revision(name)
    changes = {"name_or_path": plain, "from_scratch": None, "lora": None}
    if plain == config.name_or_path:
        revision = revision or config.revision
    elif config.chat_template is not None and has_chat_template(plain, revision):
        changes["chat_template"] = None
    changes["revision"] = revision
    return config.model_copy(update=changes)


def _stage_folders(model: str, recipe: Recipe) -> dict[str, Path]:
    """Return stage -> its folder: beside the model, where that comes from a run in another place; else outputs/<recipe>."""
    run = user_path(model).absolute().parent
    folders = {name: (run / name, OUTPUTS / recipe.name / name) for name in recipe.stages}
    return {name: beside if _is_stage_of(recipe, beside) else usual for name, (beside, usual) in folders.items()}


def _is_stage_of(recipe: Recipe, folder: Path) -> bool:
    """Say whether a run of this recipe made the folder."""
    record = json_or_none(folder / "run.json")
    return record is not None and record.get("recipe") == recipe.name


def _output_folders(models: list[str], recipe: Recipe, output_dir: Path | None) -> dict[str, Path]:
    """Return model -> the folder of its evaluation; no two are the same.

    Of a single model it is `output_dir` itself. Models whose names end alike get longer names: as many parts of the path
    as it takes.

    Raises:
        UserError: a model is named twice.
    """
    if twice := [model for model in models if models.count(model) > 1]:
        raise UserError(f"--model {twice[0]}: named twice; expected every model once")
    if output_dir and len(models) == 1:
        return {models[0]: output_dir}
    base = output_dir or OUTPUTS / recipe.name / "evaluations"
    parts = {model: _folder_parts(model) for model in models}
    for count in range(1, max(map(len, parts.values())) + 1):
        names = {model: "_".join(each[-count:]) for model, each in parts.items()}
        if len(set(names.values())) == len(models):
            return {model: base / name for model, name in names.items()}
    raise UserError(f"--model {' '.join(models)}: some of these are the same; expected every model once")


def _folder_parts(model: str) -> list[str]:
    """Return the parts of a model's name that can name a folder, without what does not belong into one."""
    served = model.startswith("openai:")
    path = model.removeprefix("openai:") if served else os.path.abspath(model)
    return [re.sub(r"[^\w.-]|^\.+", "_", part) for part in Path(path).parts if part != os.sep] or ["_"]


def compare(arguments: list[str] | None = None) -> int:
    """Compare two results on the same rows: every metric, its change, an interval and a p-value; a table and a plot.

        empathy-trl compare outputs/ed4_tiny/sft outputs/ed4_tiny/grpo
        empathy-trl compare outputs/ed4_tiny/grpo outputs/ed4_tiny/evaluations/gpt-4o --split valid --output_dir comparison

    A and B are folders with eval_<split>.json and predictions_<split>.jsonl, which `run` and `evaluate` write. After a run with
    --seeds, outputs/ed4_tiny/sft is that stage over all seeds, and outputs/ed4_tiny the last stage.
    """
    parser = command_parser("compare", compare.__doc__)
    parser.add_argument("a", metavar="A", type=path_flag, help="folder of a result, or of a stage over several seeds")
    parser.add_argument("b", metavar="B", type=path_flag, help="folder of the result to compare it with")
    parser.add_argument("--split", choices=("train", "valid", "test"), default="test", help="default: %(default)s")
    parser.add_argument("--output_dir", type=path_flag, help="default: outputs/comparisons/<name of A>_<name of B>")
    options = parser.parse_args(arguments)
    return exit_status(lambda: print(_compare(options.a, options.b, options.split, options.output_dir)))


def _compare(a: Path, b: Path, split: str, output_dir: Path | None) -> str:
    """Write the comparison of two folders; returns its page, and where it is."""
    folder = output_dir or OUTPUTS / "comparisons" / f"{a.absolute().name}_{b.absolute().name}"
    try:
        path = write_comparison(a, b, split, folder)
    except OSError as error:
        raise UserError(f"--output_dir: cannot write to {folder}: {error.strerror}") from error
    return f"{path.read_text(encoding='utf-8')}\ntable: {path}\nplot:  {path.with_suffix('.png')}"


def explain(arguments: list[str] | None = None) -> int:
    """Show what every reward of a recipe gives to the completions in a file.

        empathy-trl explain --recipe ed4_tiny --completions replies.jsonl
        empathy-trl explain --recipe ed4_tiny --completions replies.jsonl --progress 0.5 --csv table.csv

    The file is a table (JSON Lines, JSON, CSV, TSV, parquet; also gzipped), or a folder that `datasets` saved. Its rows
    have `prompt` and `completion`, each a text or chat messages, and the columns that the rewards need, such as `label` or
    `reference`. Any key of the recipe can be overridden, as in `run`: --stages.grpo.rewards.format.weight 0.5, and
    --stages.grpo.rewards.format null leaves one out.
    """
    parser = command_parser("explain", explain.__doc__)
    add_quiet(parser)
    parser.add_argument("--recipe", required=True, help="YAML file, or the name of a shipped recipe")
    parser.add_argument(
        "--completions", required=True, type=path_flag, help="table with the columns prompt and completion"
    )
    parser.add_argument("--stage", help="stage whose rewards are shown (default: the last)")
    parser.add_argument(
        "--progress", type=float, default=0.0, help="training progress from 0 to 1, for scheduled weights"
    )
    parser.add_argument("--csv", type=path_flag, help="also write all rows to this file")
    options, overrides = parse_with_overrides(parser, arguments, TOP_KEYS)
    return exit_status(lambda: _explain(options, overrides), quiet=options.quiet)


def _explain(options: argparse.Namespace, overrides: list[str]) -> None:
    rows = read_completions(options.completions)
    recipe = load_recipe(options.recipe, overrides, training=False)
    runs = stage_runs(recipe, OUTPUTS / recipe.name)
    rewards = runs[recipe.choose_stage(options.stage).name].rewards_to_explain()
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    prompts, completions = columns.pop("prompt"), columns.pop("completion")
    table = explain_rewards(rewards, prompts, completions, options.progress, **columns)
    print(table)
    if options.csv:
        write_csv(options.csv, table)
        print(f"written to {options.csv}")


ASPECTS = ("empathy", "informativeness", "recommendation", "engagement", "overall")


def score(arguments: list[str] | None = None) -> int:
    """Let a language model grade responses to contexts: one row of scores for every row of a file.

        empathy-trl score --input replies.jsonl --output scores.jsonl --base_url http://localhost:8000/v1 --model NAME
        empathy-trl score --input my_folder --output scores.jsonl --base_url https://api.openai.com/v1 --model NAME

    The input is a table (JSON Lines, CSV and so on) with `context` and `response` (or `prompt` and `completion`), a folder with
    contexts.json and responses.json, or the predictions_<split>.jsonl of an evaluation of replies. The output is
    written whole at the end of a run. Answers are kept in the judge's cache as they come: after a stop, the same
    command asks only what is missing. The flags from --base_url on are those of the reward `llm_judge`.
    """
    options = _score_parser().parse_args(arguments)
    return exit_status(
        lambda: print(_score(options)),
        interrupted="interrupted; the same command continues with the answers in the judge's cache",
        quiet=options.quiet,
    )


def _score_parser() -> argparse.ArgumentParser:
    parser = command_parser("score", score.__doc__)
    add_quiet(parser)
    parser.add_argument("--input", required=True, type=path_flag, help="file or folder with contexts and responses")
    parser.add_argument(
        "--output", required=True, type=path_flag, help="file of the scores, JSON Lines; an existing one is replaced"
    )
    parser.add_argument("--limit", type=positive, help="score only the first rows of the input, this many")
    parser.add_argument("--base_url", required=True, help="address of the server, without /chat/completions")
    parser.add_argument("--model", required=True, help="its name there")
    parser.add_argument(
        "--aspects", nargs="+", default=list(ASPECTS), help=f"aspects to score (default: {' '.join(ASPECTS)})"
    )
    parser.add_argument(
        "--api_key_env",
        type=_optional,
        default="OPENAI_API_KEY",
        help="NAME of the environment variable with the API key (default: %(default)s); null sends none",
    )
    parser.add_argument(
        "--structured", choices=("true", "false"), default="true", help="request answers that follow a JSON schema"
    )
    parser.add_argument("--sampling", type=json_object, default={}, help=SAMPLING_HELP)
    parser.add_argument("--concurrency", type=positive, default=8, help="concurrent requests (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for one request (default: %(default)g)")
    parser.add_argument("--retries", type=int, default=4, help="retries per request (default: %(default)s)")
    parser.add_argument(
        "--max_failure_share",
        type=float,
        default=0.2,
        help="stop if a larger share of a batch of rows gets no valid answer (default: %(default)g)",
    )
    parser.add_argument(
        "--cache_dir",
        type=_optional,
        default=argparse.SUPPRESS,
        help="folder of the judge's answers; null keeps none, so that a run which stops asks everything again",
    )
    return parser


def _score(options: argparse.Namespace) -> str:
    """Score the rows; returns what was done, for the screen."""
    settings = dict(vars(options), structured=options.structured == "true", reply_tags=[])  # the whole response
    source, output, limit, _ = (settings.pop(name) for name in ("input", "output", "limit", "quiet"))
    judge = LLMJudge(**settings)
    judge.written = as_flag
    done = score_file(judge, source, output, limit)
    lines = [f"{output}: {done.rows - done.missing} of {done.rows} rows have scores"]
    if done.empty:
        lines.append(f"{done.empty} with an empty response got the lowest scores without a request")
    if done.missing:
        lines.append(f"{done.missing} without a valid answer were left out; the same command requests them again")
    return "\n".join([*lines, *(f"{name:<20}{mean:.2f}" for name, mean in done.means.items())])


def _optional(text: str) -> str | None:
    return None if text == "null" else text
