"""Task name -> (trainer config class, build function): the only place that knows which trainer a task uses.

A build function takes a stage of a recipe and its output folder and returns a trainer that is ready to `.train()`.
Adding a task is adding one function and one line to `TASKS`, and its config to `recipe.schema.CONFIG_CLASSES`.
`run_recipe` runs the stages of a recipe one after the other.
"""

import dataclasses
import gc
import importlib
import importlib.util
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from empathy_trl.cli import check_writable, join_processes, part_processes, several_on_cpu, use_all_cores
from empathy_trl.errors import UserError
from empathy_trl.io import digest
from empathy_trl.recipe import Recipe, load_recipe
from empathy_trl.recipe.layers import LABEL_TASKS, stage_of
from empathy_trl.recipe.schema import CONFIG_CLASSES
from empathy_trl.recipe.stage_inputs import (
    classifiers_of,
    describe_input,
    is_pairwise,
    judging_rewards,
    judging_stages,
    label_targets,
    label_texts,
    local_rows,
    resolve_classifiers,
    resolve_critic,
    resolve_model,
    resolve_rewards,
    scratch_texts,
    stage_rows,
)
from empathy_trl.recipe.stages import Consumption, inspect_stage, judges_in, known_fingerprint, make_way, provenance
from empathy_trl.recipe.validate import import_class, refusal

# optional package -> the extra in setup.cfg that installs it
EXTRAS = {"bert_score": "bertscore", "vllm": "vllm", "bitsandbytes": "quantization", "deepspeed": "deepspeed"}


@dataclasses.dataclass(frozen=True)
class Task:
    """One kind of training.

    Attributes:
        config: `module:Class` of the trainer's config; its fields are the keys of `trainer:` in a recipe.
        build: `(stage, folder, stage_folders) -> trainer`.
    """

    config: str
    build: Callable


def build_sft(stage, folder: Path, stage_folders: dict[str, Path]):
    """Supervised fine-tuning on `prompt` and `completion` columns, of a decoder with `trl.SFTTrainer`.

    An encoder-decoder is trained by `transformers.Seq2SeqTrainer`.
    """
    from trl import SFTTrainer

    from empathy_trl.trainers.callbacks import MetricsLog, show_progress

    config, train = trainer_config(stage, folder), stage_rows(stage, "train")
    model, tokenizer, adapter = _policy(stage, train, stage_folders)
    make = partial(_seq2seq_trainer, stage) if model.config.is_encoder_decoder else SFTTrainer
    trainer = make(
        model=model,
        args=config,
        train_dataset=train.select_columns(["prompt", "completion"]),
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[MetricsLog(folder)],
    )
    show_progress(trainer)
    return trainer


def _seq2seq_trainer(stage, model, args, train_dataset, processing_class, peft_config, callbacks):
    """Return the trainer of an encoder-decoder, for the arguments of `SFTTrainer`."""
    from transformers import Seq2SeqTrainer

    from empathy_trl.trainers.encoder_decoder import CompletionLoss, collator, encode

    config = trainer_config(stage, Path(args.output_dir), "empathy_trl.trainers.encoder_decoder:Seq2SeqConfig")
    _refuse_data_parallel(config)
    model = _with_adapter(model, peft_config, stage.seed)
    return Seq2SeqTrainer(
        model=model,
        args=config,
        train_dataset=encode(train_dataset, processing_class, config.max_length),
        processing_class=processing_class,
        data_collator=collator(processing_class, model, config.pad_to_multiple_of),
        compute_loss_func=CompletionLoss(config.label_smoothing_factor),
        callbacks=callbacks,
    )


def build_grpo(stage, folder: Path, stage_folders: dict[str, Path]):
    """Group-relative policy optimisation with the recipe's rewards."""
    from empathy_trl.trainers.grpo import EmpathyGRPOTrainer

    return _reward_trainer(EmpathyGRPOTrainer, stage, folder, stage_folders)


def build_ppo(stage, folder: Path, stage_folders: dict[str, Path]):
    """Proximal policy optimisation: the same rewards, and a critic that learns what to expect."""
    from empathy_trl.trainers.ppo import EmpathyPPOTrainer

    return _reward_trainer(EmpathyPPOTrainer, stage, folder, stage_folders)


def _reward_trainer(base, stage, folder: Path, stage_folders: dict[str, Path]):
    """Return a trainer that learns from the recipe's rewards: `base`, for an encoder-decoder as its kind of it."""
    from empathy_trl.rewards import load_rewards
    from empathy_trl.trainers.callbacks import MetricsLog, SamplePages, show_progress
    from empathy_trl.trainers.encoder_decoder import trainer_class

    config, train = trainer_config(stage, folder), stage_rows(stage, "train")
    resolve_critic(config, stage_folders)
    rewards = load_rewards(resolve_rewards(stage.rewards, stage_folders))
    for reward in rewards:
        reward.load()  # a model that cannot be loaded stops the run now, not in its first step
    model, tokenizer, adapter = _policy(stage, train, stage_folders)
    trainer = trainer_class(base, model)(
        model=model,
        args=config,
        train_dataset=train,
        processing_class=tokenizer,
        peft_config=adapter,
        reward_funcs=rewards,
        reward_weights=[reward.weight for reward in rewards],
        callbacks=[MetricsLog(folder)],
    )
    trainer.add_callback(SamplePages(folder, trainer))
    show_progress(trainer)
    return trainer


def build_labels(stage, folder: Path, stage_folders: dict[str, Path]):
    """Regression, comparison or classification of texts: an encoder with a head, trained by `transformers.Trainer`."""
    from transformers import Trainer

    from empathy_trl.models.classifier import new_classifier
    from empathy_trl.models.load import lora_config
    from empathy_trl.trainers.callbacks import MetricsLog, show_progress
    from empathy_trl.trainers.classify import HeldOut, MergeAdapter, held_out_labels, label_parts
    from empathy_trl.trainers.pairwise import held_out_pairs, pair_parts

    config, targets = trainer_config(stage, folder), label_targets(stage)
    _refuse_data_parallel(config)
    train, valid = stage_rows(stage, "train"), stage_rows(stage, "valid")
    section = resolve_model(stage.model, stage_folders)
    model, tokenizer = new_classifier(section, targets, seed=stage.seed, texts=label_texts(train))
    describe_input(model.config, stage, config.max_length)
    model = _with_adapter(model, lora_config(section.lora, "SEQ_CLS", section.revision), stage.seed)
    parts, note = (pair_parts, held_out_pairs) if is_pairwise(stage) else (label_parts, held_out_labels)
    trainer = Trainer(
        model=model,
        args=config,
        processing_class=tokenizer,
        callbacks=[MetricsLog(folder)],
        **parts(config, targets, train, valid, tokenizer),
    )
    trainer.add_callback(MergeAdapter(trainer))
    trainer.add_callback(HeldOut(trainer, note))
    show_progress(trainer)
    return trainer


TASKS = {
    "sft": Task(CONFIG_CLASSES["sft"], build_sft),
    "grpo": Task(CONFIG_CLASSES["grpo"], build_grpo),
    "ppo": Task(CONFIG_CLASSES["ppo"], build_ppo),
    "regress": Task(CONFIG_CLASSES["regress"], build_labels),
    "classify": Task(CONFIG_CLASSES["classify"], build_labels),
}


def missing_extras(stage) -> list[str]:
    """Return one line for every optional package that a stage uses and that is not installed, with what to install."""
    used = [("vllm", stage.trainer.get("use_vllm")), ("bitsandbytes", stage.model.load_in_4bit)]
    used.append(("bert_score", stage.evaluation.bertscore))
    used.append(("deepspeed", os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"))
    return [
        f'{package} (pip install "empathy-trl[{EXTRAS[package]}]")'
        for package, needed in used
        if needed and importlib.util.find_spec(package) is None
    ]


def check_devices(stage):
    """Raise UserError if a reward's model is to sit on a device that is not here."""
    from empathy_trl.models.scorer import resolve_device

    for reward in stage.rewards.values():
        if reward.loads_model:
            try:
                resolve_device(reward.device)
            except UserError as error:
                raise UserError(f"stages.{stage.name}.rewards.{reward.__name__}.{error}") from error


def trainer_config(stage, folder: Path, config_class: str | None = None, **changes):
    """Return the trainer's config object for a stage: the recipe's `trainer:` section, its seed and its folder.

    Args:
        stage: of the recipe.
        folder: the stage's own.
        config_class: `module:Class`, where it is not that of the task.
        **changes: replace settings of the recipe.

    Raises:
        UserError: what the config class itself refuses, with its own words.
    """
    settings = {"report_to": "none", **stage.trainer, "seed": stage.seed, "output_dir": str(folder), **changes}
    if several_on_cpu():
        settings["use_cpu"] = True  # the config class joins the processes anew, and on a CPU only if told
    made_by = import_class(config_class or TASKS[stage.task].config)
    try:
        return made_by(**settings)
    except (ValueError, ImportError) as error:
        keys, message = refusal(error, stage.trainer, made_by)
        raise UserError(f"{'.'.join(('stages', stage.name, 'trainer', *keys))}: {message}") from error


def load_trained(stage, model):
    """Return the trained model of a stage, and its tokenizer; of task regress or classify, its `Scorer`.

    Args:
        stage: gives task and seed.
        model: the `recipe.Model` that says where it is; the stage's own says where it came from.

    Raises:
        UserError: it cannot be loaded, or it puts out something else than the stage is about.
    """
    if stage.task in LABEL_TASKS:
        from empathy_trl.models.scorer import shared_scorer

        scorer = shared_scorer(model.name_or_path, model.revision)
        _check_outputs(scorer.config, stage, model.name_or_path)
        return scorer, scorer.tokenizer
    from empathy_trl.models.load import load_or_build

    return load_or_build(model, seed=stage.seed, is_trainable=False)


def _refuse_data_parallel(config):
    """Raise UserError where one process would spread a batch over several GPUs: our losses would then be multiplied."""
    if config.n_gpu > 1:
        raise UserError(f"one process sees {config.n_gpu} GPUs; start one for each with `accelerate launch`")


def _check_outputs(config, stage, name: str):
    """Raise UserError unless a model's outputs are the stage's, in order; LABEL_0, LABEL_1 … are taken to be."""
    from empathy_trl.models.label_schema import label_names, listed

    found, expected = label_names(config), label_targets(stage).names
    unnamed = all(re.fullmatch(r"LABEL_\d+", each) for each in found)
    if found != expected and not (unnamed and len(found) == len(expected)):
        raise UserError(
            f"{name}: its outputs are {listed(found)}; those of stage {stage.name} ({stage.task}) are {listed(expected)}"
        )


def _policy(stage, train, stage_folders: dict[str, Path]):
    """Load or make the stage's model; returns model, tokenizer and the LoRA config that is still to be applied."""
    from peft import PeftModel

    from empathy_trl.models.load import generator_class, load_or_build, lora_config

    texts, tags = scratch_texts(train) if stage.model.from_scratch else (None, ())
    config = resolve_model(stage.model, stage_folders)
    model, tokenizer = load_or_build(config, seed=stage.seed, texts=texts, tags=tags, is_trainable=True)
    # the output of an earlier LoRA stage brings its adapter along, which is then trained on
    needs_adapter = stage.model.lora is not None and not isinstance(model, PeftModel)
    _, kind = generator_class(model.config)
    return model, tokenizer, lora_config(config.lora, kind, config.revision) if needs_adapter else None


def _with_adapter(model, config, seed: int):
    """Return a model with a new LoRA adapter, or as it is where there is no config, for trainers that take no config."""
    from peft import get_peft_model
    from transformers import set_seed

    if config is None:
        return model
    set_seed(seed)  # the adapter's weights are drawn here, before the trainer sets its seed
    return get_peft_model(model, config)


def trainer_options(stage) -> dict:
    """Return the settings a plan needs: the config class's defaults, the recipe's values, and what follows from them.

    Adds `processes` and `sequences` (per optimizer step, over all processes).
    """
    fields = dataclasses.fields(import_class(TASKS[stage.task].config))
    options = {field.name: field.default for field in fields} | stage.trainer
    options["processes"] = int(os.environ.get("WORLD_SIZE", "1"))
    per_process = options["per_device_train_batch_size"] * options["gradient_accumulation_steps"]
    return options | {"sequences": per_process * options["processes"]}


def run_recipe(recipe, overrides=(), *, output_dir: str | Path | None = None, fresh: bool = False) -> Path:
    """Train and evaluate all stages of a recipe, write the report, and push what the recipe wants pushed.

    A stage that is complete for the same settings is skipped; an interrupted one resumes from its last checkpoint.

    Args:
        recipe: a `Recipe`, or what `load_recipe` takes: a name such as "ed4_tiny", or a YAML file.
        overrides: of a recipe that is loaded here, as on the command line: `["--seed", "1"]`.
        output_dir: of the run, with one folder per stage; outputs/<name of the recipe> by default.
        fresh: delete what an earlier run left there.

    Returns:
        The folder: `<stage>/` has model, tokenizer, `metrics.jsonl` and `eval_<split>.json`; `report.md` is beside them.

    Raises:
        RecipeError: the recipe is wrong, with one line per problem.
        UserError: what else would stop a stage, as far as possible before the first one starts.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    elif overrides:
        raise UserError(f"overrides: {overrides!r} given with a loaded recipe; give them to load_recipe")
    folder = Path("outputs") / recipe.name if output_dir is None else Path(output_dir)

    use_all_cores()
    process = join_processes()
    rows = preflight(recipe, folder)
    fingerprints, folders = {}, {}
    for name, content in recipe.resolved()["stages"].items():
        folders[name] = folder / name
        fingerprints[name] = known_fingerprint(folders[name], content, fingerprints, rows[name]["train"])
    with process.main_process_first():
        if process.is_main_process:
            for name, path in folders.items():
                if cleared := make_way(path, fingerprints[name], fresh):
                    print(cleared)
            for report in ("report.md", "report.png"):  # of an earlier run
                (folder / report).unlink(missing_ok=True)
    trained, waiting = set(), []
    for name, stage in recipe.stages.items():
        train_stage(recipe, stage, fingerprints[name], folders)
        trained.add(name)
        waiting.append(stage)
        ready = [each for each in waiting if judging_stages(recipe, each) <= trained]
        for each in ready:  # a warm start waits here for a reward model that is trained after it
            evaluate_stage(recipe, each, fingerprints, folders, rows[each.name]["all"])
            waiting.remove(each)
    finish(recipe, folder)
    part_processes()
    if process.is_main_process:  # alone: the others would not wait for a long upload
        push_stages(recipe, folders)
    return folder


def push_stages(recipe, folders: dict[str, Path]):
    """Push the stages that have `hub:`. What goes wrong stops no other push; a rerun tries again, without training."""
    from empathy_trl.hub.push import push

    failed = []
    for name, stage in recipe.stages.items():
        if stage.hub is not None:
            try:
                url = push(
                    folders[name],
                    stage.hub.repo_id,
                    private=stage.hub.private,
                    merge_adapter=stage.hub.merge_adapter,
                )
                print(f"[{name}] pushed to {url}")
            except UserError as error:
                failed.append(str(error))
    if failed:
        raise UserError("\n".join(failed))


def preflight(recipe, folder: Path) -> dict[str, dict]:
    """Find now, before an earlier run is touched or an hour is spent, what would stop a later stage.

    Returns stage name -> `{"train", "all"}`: digests of its training rows (None for data on the Hub), and of those with
    the rows it is evaluated on.
    """
    from empathy_trl.evaluation.evaluate import kind_of
    from empathy_trl.evaluation.metrics.reply_classifiers import check_configs
    from empathy_trl.hub.push import check_pushes

    if missing := [line for stage in recipe.stages.values() for line in missing_extras(stage)]:
        raise UserError(f"this recipe needs packages that are not installed: {', '.join(missing)}")
    check_writable(folder)
    digests = {}
    for name, stage in recipe.stages.items():
        trainer_config(stage, folder / name)
        if kind_of(stage) in ("replies", "staged") and not judging_rewards(
            recipe, stage, dict.fromkeys(recipe.stages, folder)
        ):
            raise UserError(
                f"stages.{name}: its replies would be judged by the rewards of a later stage, and none has any"
            )
        check_devices(stage)
        check_configs({kind: model for kind, model in classifiers_of(stage).items() if stage_of(model) is None})
        rows = local_rows(stage)
        digests[name] = {
            "train": digest(rows["train"][0]) if rows else None,
            "all": digest([rows for rows, _ in rows.values()]),
        }
    check_pushes(recipe, folder)
    return digests


def train_stage(recipe, stage, fingerprint: str, folders: dict[str, Path]):
    """Train one stage, unless it is complete; resume it, if it was interrupted."""
    from accelerate import PartialState

    from empathy_trl.hub.card import write_card
    from empathy_trl.trainers.callbacks import ConsumptionLog

    path, process = folders[stage.name], PartialState()
    folder = inspect_stage(path, fingerprint)
    process.wait_for_everyone()  # before the main process writes, every process has read the same state
    if folder.status == "complete":
        process.print(f"[{stage.name}] complete, skipped ({path})")
        return
    checkpoint = folder.checkpoint
    consumption = Consumption(folder.record)
    process.print(f"[{stage.name}] " + (f"resumes from {checkpoint}" if checkpoint else f"starts ({path})"))
    if process.is_main_process:
        folder.save(
            recipe=recipe.name,
            stage=stage.name,
            status="running",
            processes=process.num_processes,
            **provenance(stage.seed),
            **consumption.so_far(),
        )
        (path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    process.wait_for_everyone()
    try:
        trainer = TASKS[stage.task].build(stage, path, folders)
    except UserError:
        raise
    except (ValueError, ImportError) as error:  # what TRL and transformers say of settings that do not go together
        raise UserError(f"stages.{stage.name}: the trainer refuses these settings: {error}") from error
    trainer.add_callback(ConsumptionLog(folder, consumption))
    if stage.hub is not None and stage.hub.push == "every_save":
        from empathy_trl.hub.push import PushCheckpoints

        trainer.add_callback(PushCheckpoints(stage.hub))
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:  # also of a session that is stopped
        if process.is_main_process:
            folder.save(**consumption.so_far())
    trainer.save_model(str(path))  # with tokenizer
    if process.is_main_process:
        folder.save(status="complete")
        write_card(path)
    process.wait_for_everyone()
    del trainer
    gc.collect()


def evaluate_stage(recipe, stage, fingerprints: dict[str, str], folders: dict[str, Path], rows: str):
    """Evaluate a trained stage, unless the same evaluation on the same rows (by their digest) is there already."""
    from accelerate import PartialState

    from empathy_trl.evaluation.evaluate import evaluate_model
    from empathy_trl.hub.card import write_card

    path, resolved = folders[stage.name], recipe.resolved()["stages"]
    folder = inspect_stage(path, fingerprints[stage.name])
    rewards = judging_rewards(recipe, stage, folders)
    judges = [judges_in(content["rewards"], fingerprints) for content in resolved.values()]
    classifiers = {kind: {"model": model} for kind, model in classifiers_of(stage).items()}
    judges.append(judges_in(classifiers, fingerprints))
    judged_by = digest([{name: _as_record(reward) for name, reward in rewards.items()}, judges])
    settings = resolved[stage.name]["evaluation"] | {"rows": rows, "judged_by": judged_by}
    if folder.record.get("evaluated") == settings and (path / f"eval_{stage.evaluation.split}.json").is_file():
        return
    section = stage.model.model_copy(update={"name_or_path": str(path), "revision": None, "from_scratch": None})
    model, tokenizer = load_trained(stage, section)
    evaluate_model(
        model=model,
        tokenizer=tokenizer,
        stage=resolve_classifiers(stage, folders),
        recipe_name=recipe.name,
        split=stage.evaluation.split,
        output_dir=path,
        model_name=str(path),
        rewards=rewards,
    )
    if PartialState().is_main_process:
        folder.save(evaluated=settings)
        write_card(path)


def _as_record(reward) -> dict:
    """Return what `run.json` has hashed of a reward since version 0.1."""
    return {"weight": reward.as_yaml()["weight"], "params": reward.params, "import_path": reward.import_path}


def finish(recipe, folder: Path):
    """Write report.md and report.png and say where they are."""
    from accelerate import PartialState

    from empathy_trl.evaluation.report import write_report

    if PartialState().is_main_process:
        (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        report = write_report(folder, list(recipe.stages.values())[-1].evaluation.split)
        print(report.read_text(encoding="utf-8"))
        print(f"report: {report}\nplot:   {report.with_suffix('.png')}")
