"""Task name -> (trainer config class, build function), and `run_recipe`, which runs the stages of a recipe.

A build function takes a `StageRun` and returns a trainer that is ready to `.train()`. To add a task, write one
function, add one line to `TASKS`, and add its config class to `recipe.schema.CONFIG_CLASSES`.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from jinja2.exceptions import TemplateError
from peft import PeftModel
from transformers import get_scheduler, set_seed
from trl import SFTTrainer

from empathy_trl.cli import OUTPUTS, check_writable
from empathy_trl.data import read_split
from empathy_trl.data.tables import WEIGHT
from empathy_trl.engine import (
    Engine,
    check_engine,
    fail_together,
    hold_together,
    join_processes,
    part_processes,
    set_timeout,
    use_all_cores,
)
from empathy_trl.errors import UserError
from empathy_trl.evaluation import evaluator
from empathy_trl.evaluation.base import UNTRAINED, eval_path, predictions_path
from empathy_trl.evaluation.compare import seed_folder
from empathy_trl.evaluation.evaluate import check_before_training, check_lengths, evaluate_model, kind_of
from empathy_trl.evaluation.held_out import add_held_out, check_held_out
from empathy_trl.evaluation.plots import draw_training
from empathy_trl.evaluation.report import summary, write_report
from empathy_trl.evaluation.seeds import FILES, write_seeds
from empathy_trl.evaluation.seeds import summary as seeds_summary
from empathy_trl.hub.card import write_card
from empathy_trl.hub.push import PushCheckpoints, check_pushes, push
from empathy_trl.io import json_or_none, remove_unfinished, user_path, write_text
from empathy_trl.models.adapters import (
    adapted,
    check_target_names,
    check_targets,
    exclude_images,
    with_merged_base,
)
from empathy_trl.models.batching import check_prompts, release_memory
from empathy_trl.models.classifier import new_classifier
from empathy_trl.models.hub_files import MERGED_BASE
from empathy_trl.models.label_schema import pairs_of
from empathy_trl.models.limits import Limits, token_lengths, truncation
from empathy_trl.models.load import base_dtype, cast_base, check_tags, generator_class, load_or_build, lora_config
from empathy_trl.models.templates import NO_END, check_learned_prompts, check_template_arguments, teaches_no_end
from empathy_trl.recipe import Recipe, load_recipe, load_seeds
from empathy_trl.recipe.provenance import RUN_FILE, ResourceUsage, check_precision, check_used, provenance
from empathy_trl.recipe.schema import CONFIG_CLASSES
from empathy_trl.recipe.stages import (
    StageRun,
    archive_other_run,
    fit_rows,
    last_checkpoint,
    remove_broken_checkpoints,
    saved_by,
    stage_runs,
)
from empathy_trl.rewards import load_rewards
from empathy_trl.trainers.callbacks import (
    MetricsLog,
    ResourceLog,
    SamplePages,
    StopAtSigterm,
    messages_above_progress,
    show_progress,
)
from empathy_trl.trainers.classify import (
    HeldOut,
    LabelTrainer,
    MergeAdapter,
    held_out_labels,
    held_out_pairs,
    label_parts,
    pair_parts,
)
from empathy_trl.trainers.encoder_decoder import CompletionLoss, EmpathySeq2SeqTrainer, collator, encode, trainer_class
from empathy_trl.trainers.exact_resume import EpochOrderMixin, FiniteUpdatesMixin, WholeRunMixin
from empathy_trl.trainers.grpo import EmpathyGRPOTrainer, OnCpuMixin
from empathy_trl.trainers.ppo import EmpathyPPOTrainer

logger = logging.getLogger(__name__)
LEARNED = ("prompt", "completion", WEIGHT)  # columns that sft reads


@dataclass(frozen=True)
class Task:
    """One kind of training.

    Attributes:
        config: `module:Class` of the trainer's config; its fields are the keys of `trainer:` in a recipe.
        build: `StageRun` -> trainer.
    """

    config: str
    build: Callable


class EmpathySFTTrainer(EpochOrderMixin, FiniteUpdatesMixin, WholeRunMixin, OnCpuMixin, SFTTrainer):
    """`trl.SFTTrainer` that stops on a loss that is not finite, and whose resumed runs log the figures of the whole run.

    TRL would count tokens from 0 again, and forget what is not logged yet; `_running_sums` and `_continue_sums` of
    `WholeRunMixin` also hold these.
    """

    def _running_sums(self) -> dict:
        figures = {name: list(values) for name, values in self._metrics["train"].items()}
        return super()._running_sums() | {"tokens": self._total_train_tokens, "figures": figures}

    def _continue_sums(self, sums: dict):
        super()._continue_sums(sums)
        if "tokens" in sums:  # not in a checkpoint of an earlier version
            self._total_train_tokens = sums["tokens"]
            self._metrics["train"].update(sums["figures"])


def build_sft(run: StageRun):
    """Supervised fine-tuning on the columns `prompt` and `completion`: `trl.SFTTrainer`, or for an encoder-decoder
    `transformers.Seq2SeqTrainer`."""
    config, train = run.trainer_config(), run.dataset("train")
    model, tokenizer, adapter = _policy(run, train)
    train = _fitting(run, config, model, tokenizer, train)
    make = partial(_seq2seq_trainer, run) if model.config.is_encoder_decoder else EmpathySFTTrainer
    if make is EmpathySFTTrainer:
        check_learned_prompts(tokenizer, train)
        if teaches_no_end(tokenizer):
            logger.warning("stages.%s: the chat template %s", run.name, NO_END)
    return make(
        model=model,
        args=config,
        train_dataset=train.select_columns([name for name in LEARNED if name in train.column_names]),
        processing_class=tokenizer,
        peft_config=adapter,
    )


def _seq2seq_trainer(run: StageRun, model, args, train_dataset, processing_class, peft_config):
    """Return the trainer of an encoder-decoder, for the arguments of `SFTTrainer`."""
    config = run.trainer_config("empathy_trl.trainers.encoder_decoder:Seq2SeqConfig")
    _refuse_data_parallel(config)
    model = _with_adapter(model, peft_config, run.stage.seed)
    return EmpathySeq2SeqTrainer(
        model=model,
        args=config,
        train_dataset=encode(train_dataset, processing_class, config.max_length),
        processing_class=processing_class,
        data_collator=collator(processing_class, model, config.pad_to_multiple_of),
        compute_loss_func=CompletionLoss(config.label_smoothing_factor),
    )


def build_grpo(run: StageRun):
    """Group-relative policy optimisation with the recipe's rewards."""
    return _reward_trainer(EmpathyGRPOTrainer, run)


def build_ppo(run: StageRun):
    """Proximal policy optimisation: the same rewards, and a critic that learns what to expect."""
    return _reward_trainer(EmpathyPPOTrainer, run)


def _reward_trainer(base, run: StageRun):
    """Return a trainer that learns from the recipe's rewards: `base`, or its variant for an encoder-decoder."""
    config, train = run.trainer_config(), run.dataset("train")
    rewards = load_rewards(run.resolved.rewards)  # copies: what the trainer notes on them, its policy, ends with it
    for reward in rewards:
        reward.load()  # a model that cannot be loaded stops the run now, not in its first step
    model, tokenizer, adapter = _policy(run, train)
    train = _fitting(run, config, model, tokenizer, train)
    trainer = trainer_class(base, model)(
        model=model,
        args=config,
        train_dataset=train,
        processing_class=tokenizer,
        peft_config=adapter,
        reward_funcs=rewards,
    )
    trainer.add_callback(SamplePages(run.folder, trainer))
    return trainer


def build_labels(run: StageRun):
    """Regression, comparison or classification of texts: an encoder with a head, trained by `transformers.Trainer`."""
    config, seed = run.trainer_config(), run.stage.seed
    _refuse_data_parallel(config)
    train, valid = run.dataset("train"), run.dataset("valid")
    section, (texts, _) = run.resolved.model, run.tokenizer_texts(train)
    model, tokenizer = new_classifier(section, run.targets, seed=seed, texts=texts)
    fit_rows(run.resolved, train, "train", model, tokenizer, config)
    _count_rows(run, config, tokenizer, train=train, valid=valid)
    # the model's config says how texts were prepared, so that every user of the model prepares them alike
    model.config.text_max_length = config.max_length
    model.config.text_normalization = run.corpus.normalization(run.stage.data)
    model = _with_adapter(model, lora_config(section.lora, "SEQ_CLS", section.revision), seed)
    parts, note = (pair_parts, held_out_pairs) if run.stage.is_pairwise else (label_parts, held_out_labels)
    trainer = LabelTrainer(
        model=model,
        args=config,
        processing_class=tokenizer,
        **parts(config, run.targets, train, valid, tokenizer),
    )
    trainer.add_callback(MergeAdapter(trainer))
    trainer.add_callback(HeldOut(trainer, note))
    return trainer


TASKS = {
    "sft": Task(CONFIG_CLASSES["sft"], build_sft),
    "grpo": Task(CONFIG_CLASSES["grpo"], build_grpo),
    "ppo": Task(CONFIG_CLASSES["ppo"], build_ppo),
    "regress": Task(CONFIG_CLASSES["regress"], build_labels),
    "classify": Task(CONFIG_CLASSES["classify"], build_labels),
}


def _fitting(run: StageRun, config, model, tokenizer, train):
    """Return the training rows with prompts that fit into the model's positions, and record their counts in `run.rows`.

    Raises:
        UserError: a prompt of the training or of the evaluation after it does not fit; nothing is left to learn from.
    """
    train, cut = fit_rows(run.resolved, train, "train", model, tokenizer, config)
    check_lengths(run.resolved, model, tokenizer)
    _count_rows(run, config, tokenizer, model.config.is_encoder_decoder, train=train)
    if cut:
        note = f"{cut} prompts lose their oldest turns, because the model has {Limits.of(model)}"
        run.rows["train"] |= {"summary": f"{run.rows['train']['summary']}; {note}", "prompts_cut": cut}
        if PartialState().is_main_process:
            logger.warning("[%s] train: %s", run.name, note)
    return train


def _count_rows(run: StageRun, config, tokenizer, reads_apart: bool = False, **splits) -> None:
    """Record the counts of every split's rows in `run.rows`, and warn if the trainer cuts or drops some.

    Raises:
        UserError: nothing is left to learn from.
    """
    for split, rows in splits.items():
        counted = truncation(config, token_lengths(tokenizer, rows, reads_apart), reads_apart)
        counted.check(f"stages.{run.name}.trainer.max_length")
        report = read_split(run.stage.data, split)[1]
        data = {key: value for key, value in asdict(report).items() if key != "source"}  # a path of this machine
        unused = unused_rows(run, config, rows, counted.dropped) if split == "train" else []
        summary = "; ".join([report.counts, str(counted), *unused])
        run.rows[split] = {"summary": summary, "data": data, "tokens": asdict(counted)}
        if counted.cuts and PartialState().is_main_process:
            logger.warning("[%s] %s: %s", run.name, split, counted)


def unused_rows(run: StageRun, config, rows, dropped: int = 0) -> list[str]:
    """Return messages about training rows that are not used: rows without a pair, and rows that do not fill a batch.

    Args:
        config: config of the trainer.
        rows: a `datasets.Dataset`.
        dropped: how many of the rows `max_length` drops.

    Raises:
        UserError: the rows do not fill a single batch, so nothing would be trained; they have weights that the training would
            not heed.
    """
    if WEIGHT in rows.column_names:
        _check_weighted(run, config)
    if run.stage.is_pairwise:
        paired = {row for pair in pairs_of(rows["context"], rows["labels"]) for row in pair}
        alone = len(rows) - len(paired)
        return [f"{alone} of {len(rows)} replies are in no pair"] if alone else []
    if hasattr(config, "generation_batch_size"):
        size = config.generation_batch_size // config.num_generations
        advice = "lower trainer.per_device_train_batch_size or trainer.gradient_accumulation_steps"
    elif config.dataloader_drop_last and not getattr(config, "packing", False):
        size, advice = config.train_batch_size * config.world_size, "set trainer.dataloader_drop_last: false"
    else:
        return []
    usable = len(rows) - dropped
    if usable < size:
        raise UserError(
            f"stages.{run.name}: a batch needs {size} rows, but only {usable} can be used, so nothing would be trained; {advice}"
        )
    left = usable % size
    return [f"every epoch leaves out {left} of {usable} rows, which do not fill a batch of {size}"] if left else []


def _check_weighted(run: StageRun, config) -> None:
    """Raise UserError unless the training draws single rows at random, as a column `row_weight` needs it."""
    strategy = getattr(config, "train_sampling_strategy", "random")
    for setting, occurs, expected in (
        ("objective: pairwise", run.stage.is_pairwise, "regression"),
        ("packing: true", getattr(config, "packing", False), "false"),
        (f"train_sampling_strategy: {strategy}", strategy != "random", "random"),
    ):
        if occurs:
            raise UserError(
                f"stages.{run.name}.trainer.{setting} does not work with the data's column {WEIGHT}, which needs single rows that are "
                f"drawn at random; expected {expected}, or data without this column"
            )


def _policy(run: StageRun, train):
    """Load or create the stage's model; return model, tokenizer, and the LoRA config that has yet to be applied.

    An adapter that the model already has is trained further, unless the recipe has another `lora:`, see `with_merged_base`.
    """
    with PartialState().main_process_first():  # the first one merges, the others use what it wrote
        section = with_merged_base(run.resolved.model, run.folder / MERGED_BASE)
    texts, tags = run.tokenizer_texts(train) if section.from_scratch else (None, ())
    model, tokenizer = load_or_build(section, seed=run.stage.seed, texts=texts, tags=tags, is_trainable=True)
    _choose_dtype(run, model)
    check_template_arguments(tokenizer, section.chat_template_kwargs)
    check_prompts(tokenizer, train["prompt"])
    for name, reward in run.judging_rewards.items():
        check_tags({name: reward.tags}, tokenizer, optional=reward.reply_tags is not None)
    has_adapter, (_, kind) = isinstance(model, PeftModel), generator_class(model.config)
    adapter = model.active_peft_config if has_adapter else lora_config(section.lora, kind, section.revision)
    if adapter is not None:
        if not has_adapter:
            exclude_images(model, adapter)
            check_target_names(model, adapter)
        check_targets(model.config, adapter, run.stage.trainer.get("use_vllm", False))
    return model, tokenizer, None if has_adapter else adapter


def _choose_dtype(run: StageRun, model) -> None:
    """Give the weights under an adapter the dtype of `base_dtype`: in a resume that of the run so far, in all processes the same."""
    chosen = base_dtype(run.stage.model, model.config)
    if chosen == run.stage.model.dtype or Engine.here(run.stage.trainer).sharded:
        return
    if last_checkpoint(run.folder):
        chosen = (json_or_none(run.folder / RUN_FILE) or {}).get("dtype", "auto")  # older versions left it to the files
    [chosen] = broadcast_object_list([chosen])
    if chosen not in ("auto", _dtype(model)):
        PartialState().print(
            f"[{run.name}] the weights under the adapter are in {chosen}: dtype auto chose it for this CPU"
        )
        cast_base(model, chosen)


def _dtype(model) -> str:
    """Return the name of a model's dtype, without that of an adapter."""
    bare = model.get_base_model() if isinstance(model, PeftModel) else model
    return str(bare.dtype).removeprefix("torch.")


def _with_adapter(model, config, seed: int):
    """Return a model with a new LoRA adapter, for trainers that take no LoRA config; as it is if there is no config."""
    if config is None:
        return model
    set_seed(seed)  # the adapter's weights are drawn here, before the trainer sets its seed
    check_target_names(model, config)
    return adapted(model, config)


def _refuse_data_parallel(config):
    """Raise UserError if one process would spread a batch over several GPUs, which would multiply our losses."""
    if config.n_gpu > 1:
        raise UserError(f"one process sees {config.n_gpu} GPUs; start one for each with `accelerate launch`")


def run_recipe(
    recipe,
    overrides=(),
    *,
    output_dir: str | Path | None = None,
    fresh: bool = False,
    seeds: Sequence[int] | None = None,
) -> Path:
    """Train and evaluate all stages of a recipe, write the report, and push the stages with a `hub:` section.

    A stage that is complete for the same settings is skipped; an interrupted one resumes from its last checkpoint.

    Args:
        recipe: a `Recipe`, or an argument of `load_recipe`: a name such as "ed4_tiny", or a YAML file.
        overrides: overrides as on the command line, `["--seed", "1"]`; not for a `Recipe` that is already loaded.
        output_dir: folder of the run, with one folder per stage; outputs/<name of the recipe> by default.
        fresh: delete the results of an earlier run there.
        seeds: run the recipe once for each of these seeds, see `run_seeds`; not for a `Recipe` that is already loaded.

    Returns:
        The folder, with `seeds`: of all of them. In that of one run, `<stage>/` has model, tokenizer, `metrics.jsonl` and `eval_<split>.json`; `report.md` is beside them.

    Raises:
        RecipeError: the recipe is wrong, with one line per problem.
        UserError: anything else that would stop a stage, reported before the first stage starts if possible; also if
            another command writes to the folder, or to one in it, or several processes do not share it.
    """
    if isinstance(recipe, Recipe) and overrides:
        raise UserError(f"overrides: {overrides!r} given with a loaded recipe; give them to load_recipe")
    if seeds is not None:
        if isinstance(recipe, Recipe):
            raise UserError("seeds: given with a loaded recipe, which has one seed; give its name or file instead")
        return run_seeds(load_seeds(recipe, overrides, seeds), output_dir=output_dir, fresh=fresh)
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    folder = OUTPUTS / recipe.name if output_dir is None else user_path(output_dir)
    process = _join(recipe)
    with _finished_run(recipe, folder, fresh) as runs:
        part_processes()
        if process.is_main_process:  # alone: the others would not wait for a long upload
            push_stages(runs)
    return folder


def run_seeds(recipes: dict[int, Recipe], *, output_dir: str | Path | None = None, fresh: bool = False) -> Path:
    """Run a recipe for several seeds, one after the other, and report every figure over seeds and rows.

    Each seed is an ordinary run in a folder of its own, `seed_1` and so on, in which nothing differs from a run with `--seed 1` alone.
    Beside these folders, `evaluation.seeds` writes `seeds.json`, `seeds.md` and `seeds.png`. Complete seeds are skipped.

    Args:
        recipes: seed -> recipe, as from `load_seeds`.
        output_dir, fresh: as for `run_recipe`; only the folders of these seeds are deleted.

    Returns:
        The folder with those of the seeds.

    Raises:
        UserError: as `run_recipe`, for the first seed that fails; the folders of the seeds before it stay.
    """
    first = next(iter(recipes.values()))
    folder = OUTPUTS / first.name if output_dir is None else user_path(output_dir)
    process, done = _join(first), []
    with fail_together():
        for seed in recipes:  # all of them before the first one is trained
            check_writable(seed_folder(folder, seed))
    with hold_together(folder):
        if process.is_main_process:
            for name in FILES.values():  # of an earlier run
                (folder / name).unlink(missing_ok=True)
        for seed, recipe in recipes.items():
            own = seed_folder(folder, seed)
            process.print(f"seed {seed}, {len(done) + 1} of {len(recipes)} ({own})", flush=True)
            try:
                with _finished_run(recipe, own, fresh):
                    done.append(seed)
            except UserError:
                complete = f"complete: {', '.join(map(str, done))}" if done else "no seed is complete"
                process.print(f"seed {seed} failed; {complete}. The same command continues", flush=True)
                raise
        if process.is_main_process:
            content = write_seeds(folder, list(recipes), list(first.stages.values())[-1].evaluation.split)
            print(seeds_summary(folder, content))
        part_processes()
    return folder


def _join(recipe: Recipe):
    """Join the processes of a run; returns accelerate's `PartialState`."""
    use_all_cores()
    process = join_processes()
    set_timeout(max(stage.trainer.get("ddp_timeout", 1800) for stage in recipe.stages.values()))
    return process


@contextmanager
def _finished_run(recipe: Recipe, folder: Path, fresh: bool) -> Iterator[dict[str, StageRun]]:
    """Train and evaluate all stages in a folder, and hold it while the body does what comes after."""
    process = PartialState()
    # Find out now what would stop a later stage, before an earlier run is moved or an hour is spent
    runs = stage_runs(recipe, folder)
    with fail_together():
        check_writable(folder)
    with hold_together(folder, (run.folder for run in runs.values())):
        with fail_together():
            _check(recipe, runs, folder)
        with process.main_process_first():
            if process.is_main_process:
                _archive_other_runs(runs, folder, fresh)
        _run_stages(recipe, runs, folder)
        yield runs


def _run_stages(recipe, runs: dict[str, StageRun], folder: Path) -> None:
    """Train and evaluate all stages, and write the report."""
    trained, waiting = set(), []
    for run in runs.values():
        train_stage(run)
        trained.add(run.name)
        waiting.append(run)
        for each in [each for each in waiting if each.judging_stages <= trained]:
            evaluate_stage(each)  # a warm start waits for the reward model that is trained after it
            waiting.remove(each)
    if PartialState().is_main_process:
        _write_report(recipe, folder)


def _check(recipe, runs: dict[str, StageRun], folder: Path) -> None:
    """Raise UserError for everything that would stop a stage and can be known before the first one starts."""
    if missing := [line for run in runs.values() for line in run.missing_packages()]:
        raise UserError(f"this recipe needs packages that are not installed: {', '.join(missing)}")
    check_precision(recipe, Engine.here())
    for run in runs.values():
        config = run.trainer_config()  # refuses what its class refuses
        asks = PartialState().is_main_process and run.read_folder().status != "complete"  # it alone talks to a server
        if asks and (problems := run.vllm_problems(config, wait=True)):
            raise UserError("\n".join(problems))
        run.check_devices()
        if run.read_folder().status != "complete":
            run.check_reward_models()
        check_before_training(run)
        check_held_out(run)
        run.row_digests  # noqa: B018 - reads every row
    check_pushes(recipe, folder)


def _archive_other_runs(runs: dict[str, StageRun], folder: Path, fresh: bool) -> None:
    remove_unfinished(folder)
    for run in runs.values():
        if message := archive_other_run(run.folder, run.fingerprint, fresh):
            print(message)
    for report in ("report.md", "report.png"):  # of an earlier run
        (folder / report).unlink(missing_ok=True)


def train_stage(run: StageRun) -> None:
    """Train one stage, unless it is complete; resume it, if it was interrupted."""
    process, folder = PartialState(), run.read_folder()
    process.wait_for_everyone()  # before the main process writes, every process has read the same state
    if folder.status == "complete":
        process.print(f"[{run.name}] complete, skipped ({run.folder})")
        return
    process.print(
        f"[{run.name}] " + (f"resumes from {folder.checkpoint}" if folder.checkpoint else f"starts ({run.folder})")
    )
    engine = _checked_engine(run, folder)
    changes = _process_changes(run, folder)
    usage = ResourceUsage(folder.record)
    if process.is_main_process:
        about = {"recipe": run.recipe.name, "stage": run.name, "status": "running", "processes": process.num_processes}
        about["engine"] = engine
        about |= {"process_changes": changes} if changes else {}
        folder.save(**about, **provenance(run.stage.seed), **usage.so_far())
        write_text(run.folder / "recipe.yaml", run.recipe.to_yaml())
        remove_broken_checkpoints(run.folder)
    process.wait_for_everyone()
    trainer = _trainer(run, folder, usage)
    if process.is_main_process:
        folder.save(rows=run.rows, dtype=_dtype(trainer.accelerator.unwrap_model(trainer.model)))
    trainer.add_callback(stop := StopAtSigterm())  # last, because it ends the training when a checkpoint is saved
    try:
        with stop.listening(), messages_above_progress():
            trainer.train(resume_from_checkpoint=str(folder.checkpoint) if folder.checkpoint else None)
    finally:  # also if the session is stopped
        if process.is_main_process:
            folder.save(**usage.so_far())
    trainer.save_model(str(run.folder))  # with tokenizer
    if process.is_main_process:
        folder.save(status="complete")
        write_card(run.folder)
    process.wait_for_everyone()
    del trainer
    release_memory()


def _checked_engine(run: StageRun, folder) -> str:
    """Return the name of the engine; raise UserError if it cannot read the checkpoint of a resume.

    transformers would fail, or go on without the optimizer's state.
    """
    before, now = folder.record.get("engine"), Engine.here(run.stage.trainer).name
    if folder.checkpoint and before not in (None, now) and {before, now} != {"one process", "DDP"}:
        raise UserError(
            f"stages.{run.name}: {folder.checkpoint} was saved under {before}, whose optimizer state {now} cannot read. Launch "
            f"this stage with the config of {before} until it is complete, or start it again with --fresh"
        )
    saved, processes = saved_by(folder.checkpoint) if folder.checkpoint else 0, PartialState().num_processes
    if now.startswith("ZeRO") and saved not in (0, processes):
        raise UserError(
            f"stages.{run.name}: {folder.checkpoint} was saved by {saved} processes, and DeepSpeed cannot divide its optimizer state "
            f"between {processes}. Launch {saved} until this stage is complete, or start it again with --fresh"
        )
    return now


def _process_changes(run: StageRun, folder) -> list[dict]:
    """Return the record of resumes with another number of processes, with a warning if this one is such a resume."""
    changes, process = folder.record.get("process_changes", []), PartialState()
    before, now = saved_by(folder.checkpoint) if folder.checkpoint else 0, process.num_processes
    if before in (0, now):
        return changes
    process.print(
        f"[{run.name}] warning: {folder.checkpoint} was saved by {before} process{'es' * (before > 1)}, but the run continues "
        f"with {now}. The step stays the same, but each step now takes {now}/{before} of the rows, and the order of the rows and the "
        "random numbers change. To get the result of an uninterrupted run, launch the same number of processes as before"
    )
    return [*changes, {"step": int(folder.checkpoint.name.split("-")[-1]), "from": before, "to": now}]


def check_optimizer(trainer) -> None:
    """Create a trainer's optimizer and schedule for one weight, so that settings that they refuse are found before training.

    Raises:
        ValueError, ImportError: a setting such as `optim`, `adam_beta1` or `lr_scheduler_kwargs` is refused.
    """
    args, weight = trainer.args, torch.nn.Parameter(torch.zeros(1))
    kind, settings = trainer.get_optimizer_cls_and_kwargs(args, trainer.model)
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and "params" not in settings:
        kind([weight], **settings)
    warmup, kinds = args.get_warmup_steps(100), args.lr_scheduler_kwargs
    try:
        get_scheduler(args.lr_scheduler_type, torch.optim.SGD([weight]), warmup, 100, scheduler_specific_kwargs=kinds)
    except TypeError as error:  # an unknown key, named by the function that makes the schedule
        raise ValueError(f"trainer.lr_scheduler_kwargs: {error}") from error


def _trainer(run: StageRun, folder, usage: ResourceUsage):
    """Return the trainer of a stage with all its callbacks."""
    try:
        trainer = TASKS[run.task].build(run)
        check_optimizer(trainer)
    except UserError:
        raise
    except TemplateError as error:  # of `trainer.chat_template_path`; `check_prompts` has seen the model's own
        raise UserError(f"stages.{run.name}: the chat template refuses the messages: {error}") from error
    except (ValueError, ImportError, OSError) as error:
        # what TRL and transformers say of settings that do not go together
        raise UserError(f"stages.{run.name}: the trainer refuses these settings: {error}") from error
    check_used(run.resolved, trainer)
    check_engine(trainer)
    held_out = add_held_out(run, trainer, folder)
    figure = _figure_shown(run, trainer, held_out)
    trainer.add_callback(MetricsLog(run.folder, partial(draw_training, held_out=figure)))
    trainer.add_callback(ResourceLog(folder, usage))
    if run.stage.hub is not None and run.stage.hub.push == "every_save":
        trainer.add_callback(PushCheckpoints(run.stage.hub))
    if run.task in ("grpo", "ppo"):
        trainer.advice.figure, trainer.advice.save = figure[0], lambda given: folder.save(advice=given)
        trainer.advice.more_is_better = held_out is None or held_out.more_is_better
    show_progress(trainer, run.name, figure)
    return trainer


def _figure_shown(run: StageRun, trainer, held_out) -> tuple[str, str]:
    """Return the key of the held-out figure to show in the logged rows, and what a reader calls it."""
    if held_out is not None:
        return f"eval_{held_out.figure}", f"{held_out.title} on valid"
    shown = evaluator(kind_of(run.stage))
    figure = getattr(trainer.args, "best_by", shown.main_metric)  # as a classifier's trainer calls it
    return f"eval_{figure}", f"{shown.main_metric_title} on valid"


def evaluate_stage(run: StageRun) -> None:
    """Evaluate a trained stage and, if the recipe says so, also its model before the training.

    An evaluation with the same settings of the same rows that is in the stage's folder is kept.
    """
    if run.evaluates_untrained:
        _evaluate(run, "untrained_evaluated", run.folder / UNTRAINED, run.in_dtype_of_training(run.resolved.model))
    _evaluate(run, "evaluated", run.folder)


def _evaluate(run: StageRun, key: str, output_dir: Path, section=None) -> None:
    """Evaluate a stage's model, or the one that `section` describes, unless `run.json` notes the same evaluation under `key`.

    It is made again if one of its files is missing or broken.
    """
    folder, settings, split = run.read_folder(), run.evaluation_settings(), run.stage.evaluation.split
    files = json_or_none(eval_path(output_dir, split)) is not None, predictions_path(output_dir, split).is_file()
    if folder.record.get(key) == settings and all(files):
        return
    model, tokenizer = run.load_model(section)
    evaluate_model(
        model=model,
        tokenizer=tokenizer,
        stage=run.resolved,
        recipe_name=run.recipe.name,
        split=split,
        output_dir=output_dir,
        model_name=str(run.folder) if section is None else section.name_or_path,
        rewards=run.judging_rewards,
        next_word=section is not None,
    )
    if PartialState().is_main_process:
        write_card(run.folder)
        folder.save(**{key: settings})  # last: after this, a restarted run skips the stage


def _write_report(recipe, folder: Path) -> None:
    """Write report.md and report.png, and print a summary of them."""
    write_text(folder / "recipe.yaml", recipe.to_yaml())
    split = list(recipe.stages.values())[-1].evaluation.split
    write_report(folder, split)
    print(summary(folder, split))


def push_stages(runs: dict[str, StageRun]) -> None:
    """Push the stages that have `hub:`. One that fails stops no other; a rerun tries again, without training."""
    failed = []
    for run in runs.values():
        if (hub := run.stage.hub) is not None:
            try:
                url = push(run.folder, hub.repo_id, private=hub.private, merge_adapter=hub.merge_adapter)
                print(f"[{run.name}] pushed to {url}")
            except UserError as error:
                failed.append(str(error))
    if failed:
        raise UserError("\n".join(failed))
