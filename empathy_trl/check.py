"""The dry run that `run.py --check` prints: what a recipe will do.

Nothing is downloaded and no weights are created: parameters are counted on PyTorch's meta device. The size of a
pretrained model comes from its config.json, in a folder or in the Hub's cache. Without that file, the size is unknown.
"""

import copy
import dataclasses
import logging
import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from huggingface_hub import constants
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from empathy_trl.cli import existing_parent, in_words
from empathy_trl.engine import Engine
from empathy_trl.errors import UserError
from empathy_trl.evaluation.compare import seed_folder
from empathy_trl.evaluation.evaluate import check_judged, check_lengths
from empathy_trl.evaluation.held_out import check_held_out, plan
from empathy_trl.io import is_cached, is_gguf, json_or_none, nearest_path, on_hub
from empathy_trl.memory import UNKNOWN_PROMPT, Size, evaluation_memory, largest_batch, training_memory
from empathy_trl.models.adapters import (
    adapted,
    adapter_changes,
    adapter_file,
    adapter_here,
    as_new,
    check_target_names,
    check_targets,
    exclude_images,
)
from empathy_trl.models.batching import check_prompts, prompt_tokens
from empathy_trl.models.classifier import build_encoder_tokenizer, encoder_config
from empathy_trl.models.gguf import read as read_gguf
from empathy_trl.models.hub_files import (
    NO_CODE,
    adapter_base,
    join_revision,
    load_tokenizer,
    tokenizer_of_adapter,
)
from empathy_trl.models.label_schema import pairs_of
from empathy_trl.models.limits import Limits, Truncation, check_vocabulary, token_lengths, truncation
from empathy_trl.models.load import base_dtype, check_writes, generator_class, lora_config, whole_weights
from empathy_trl.models.templates import (
    NO_END,
    check_learned_prompts,
    check_template_arguments,
    pin_template_arguments,
    set_template,
    teaches_no_end,
)
from empathy_trl.models.tiny import build_tokenizer, model_config
from empathy_trl.recipe.layers import LABEL_TASKS, REWARD_TASKS, stage_of
from empathy_trl.recipe.provenance import RUN_FILE, check_precision
from empathy_trl.recipe.schema import CONFIG_CLASSES
from empathy_trl.recipe.stages import StageRun, fit_rows, stage_runs
from empathy_trl.recipe.validate import import_class
from empathy_trl.rewards.base import PASSED, check_parameters
from empathy_trl.tags import repairs_in
from empathy_trl.tasks import unused_rows
from empathy_trl.trainers.shared_prefix.packing import COMPILED, decide, unsupported

logger = logging.getLogger(__name__)

SAMPLED = 5000  # most rows whose tokens are counted, which takes a few seconds
COMPARED_LATER = "prompts are compared with the model's positions when the run starts"


def describe(recipe, folder: Path, seeds: dict | None = None) -> str:
    """Return the plan of a recipe: per stage model, data, rewards, batch, memory; then downloads, uploads, gaps.

    Args:
        recipe: a checked `Recipe`.
        folder: where its run would go; with several seeds, the folder of all of them.
        seeds: seed -> recipe, of a run with several seeds, of which `recipe` is the first.

    Raises:
        UserError: what would stop the run and can be seen now, such as a data file with bad rows.
    """
    check_precision(recipe, Engine.here())
    place, sizes, needed, obstacles = folder, {}, 0.0, []
    folder = seed_folder(folder, recipe.seed) if seeds else folder
    lines = [f"recipe {recipe.name} ({recipe.path}), seed {recipe.seed}, output {folder}"]
    runs = stage_runs(recipe, folder)
    for name, run in runs.items():
        check_judged(run)
        run.check_reward_models(ask_hub=False)
        check_held_out(run)
        # in float32, because half precision is refused where there is no GPU, and that is no fault of the recipe
        config = run.trainer_config(bf16=False, fp16=False)
        obstacles += run.vllm_problems(config)
        try:
            run.trainer_config()
        except UserError:
            obstacles.append("half precision (trainer.bf16 or fp16) needs a GPU; set it to false to train without one")
        stage, rows = run.stage, run.local_rows()
        size = sizes[name] = model_size(run, rows, sizes)
        train = run.dataset("train") if rows else None
        prompt, options = _prompt_tokens(stage, train, size), trainer_options(stage)
        options["examples"] = None if train is None else _examples(stage, train)
        options["rows_per_prompt"] = _rows_per_prompt(name, options, size)
        lines += ["", f"stage {name}: {stage.task}", *_stage_lines(stage, rows, options, prompt)]
        available = len(run.dataset("valid")) if rows and stage.evaluation.every else None
        lines += [_line("held-out", watched)] if (watched := plan(run, _steps(options), available)) else []
        if stage.task in REWARD_TASKS:
            lines.append(_line("rollouts", _rollouts_line(options, size, Engine.here(stage.trainer))))
            lines += [_line("resampling", _resampling_line(config))] if config.dynamic_sampling else []
            lines += [_line("solved", _solved_line(config))] if config.skip_solved else []
        if train is not None:
            _check_rewards(stage, train)
        counted = None
        if prompt is not None:
            counted, counts = _count_lengths(run, config, train, size)
            lines += [_line("lengths", each) for each in counts]
        if size is None:
            lines.append(_line("parameters", _unknown(stage, len(recipe.stages))))
            lines.append(_line("context", f"unknown; {COMPARED_LATER}"))
            continue
        batch = largest_batch(stage, options, size, prompt or UNKNOWN_PROMPT, counted)
        parts = training_memory(stage, options, size, batch, Engine.here(stage.trainer), torch.cuda.is_available())
        later = evaluation_memory(stage, options, size, counted)
        beside = later + (parts.get("optimizer", 0) if stage.evaluation.every else 0)  # its state stays in memory
        needed = max(needed, sum(parts.values()), beside)
        share = f"{size.trainable:,} of {size.total:,} trained ({size.trainable / size.total:.2%})"
        lines += [_line("adapter", size.adapter)] if size.adapter else []
        lines += [*_template_lines(size, train), _line("context", _context_line(run, config, train, size))]
        lines += [_line("parameters", share), _line("memory", _memory_line(options, parts, later))]
    if seeds:
        lines[:0] = [*_seed_lines(seeds, place, sizes), ""]
    missing = sorted({line for run in runs.values() for line in run.missing_packages()})
    downloads = _downloads(recipe, sizes)
    engines = dict.fromkeys(str(Engine.here(stage.trainer)) for stage in recipe.stages.values())
    pushes = [f"{name} -> {_push(stage.hub)}" for name, stage in recipe.stages.items() if stage.hub]
    lines += [
        "",
        f"downloads: {', '.join(_download_line(*each) for each in downloads.items()) or 'nothing'}",
        f"pushes:    {', '.join(pushes) or 'nothing'}",
        f"missing:   {', '.join(missing) or 'nothing'}",
        f"engine:    {'; '.join(engines)}",
        f"machine:   {_machine()}",
        "",
        _verdict(missing, obstacles, needed, downloads),
    ]
    return "\n".join(lines)


def _seed_lines(recipes: dict, folder: Path, sizes: dict[str, Size | None]) -> list[str]:
    """Return what a run with several seeds does beyond the plan of one: which seeds are left, and time and disk for them.

    Args:
        recipes: seed -> recipe.
        folder: of all seeds.
        sizes: stage -> size of its model, if it is known.
    """
    runs = {seed: stage_runs(recipe, seed_folder(folder, seed)).values() for seed, recipe in recipes.items()}
    done = [seed for seed, each in runs.items() if all(run.read_folder().status == "complete" for run in each)]
    left = [seed for seed in runs if seed not in done]
    records = [json_or_none(run.folder / RUN_FILE) or {} for seed in done for run in runs[seed]]
    free = shutil.disk_usage(existing_parent(folder)).free
    if done:
        seconds = sum(record.get("train_seconds", 0) for record in records) / len(done)
        size = sum(
            file.stat().st_size for seed in done for file in seed_folder(folder, seed).rglob("*") if file.is_file()
        )
        time = f"about {in_words(seconds * len(left))} for the training of {_counted(len(left), 'seed')}, as of those that are complete"
        size, kept = size / len(done), "as of those that are complete"
    else:
        time, kept = "unknown until one seed is complete", "for the models, without checkpoints"
        size = sum(_saved_bytes(each) for each in sizes.values()) if None not in sizes.values() else None
    disk = "unknown" if size is None else f"about {size * len(left) / 1e9:.2g} GB {kept}"
    lines = [
        f"seeds {', '.join(map(str, recipes))}, one after the other, each in its folder in {folder}; the plan is that of the first",
        _line(
            "to run",
            (", ".join(map(str, left)) or "nothing") + (f"; complete: {', '.join(map(str, done))}" if done else ""),
        ),
    ]
    if left:
        lines += [_line("time", time), _line("disk", f"{disk}; {free / 1e9:.0f} GB are free")]
    names = next(iter(recipes.values())).stages
    fixed = [name for name in names if len({each.stages[name].seed for each in recipes.values()}) < len(recipes)]
    if fixed:
        lines.append(
            _line("fixed", f"{', '.join(fixed)}: the recipe gives the stage a seed of its own, the same in all runs")
        )
    return lines


def _saved_bytes(size: Size) -> int:
    """Return how large the saved weights of a stage are: of an adapter these alone."""
    if size.trainable < size.total:
        return 4 * size.trainable
    return size.total * getattr(torch, size.dtype, torch.float32).itemsize


def model_size(run: StageRun, rows: dict, earlier: dict[str, Size | None]) -> Size | None:
    """Return the size of a stage's model, or None where it cannot be known without a download.

    Args:
        run: of the stage.
        rows: split -> (rows, report); empty where the data is not at hand.
        earlier: stage name -> what this function returned for it.
    """
    stage = run.stage
    if (source := stage_of(stage.model.name_or_path)) is not None:
        made = earlier[source]
        return made and _count(run, made.config, made.tokenizer, made.dtype)
    if stage.model.from_scratch is None:
        return _pretrained_size(run)
    if not rows:
        return None
    scratch, tokenizer = stage.model.from_scratch, _scratch_tokenizer(run)
    if stage.task in LABEL_TASKS:
        return _count(run, encoder_config(scratch, tokenizer, run.targets), tokenizer, "float32")
    config = model_config(scratch, tokenizer)
    _set_template(stage.model, tokenizer, "model.from_scratch", config)
    return _count(run, config, tokenizer, "float32")


def _pretrained_size(run: StageRun) -> Size | None:
    """Return the size of a model in a folder or in the Hub's cache; None for one that is in neither."""
    stage, name = run.stage, run.stage.model.name_or_path
    source = {"revision": stage.model.revision, "local_files_only": True, **NO_CODE}
    adapter = adapter_file(stage.model)
    base, revision = adapter_base(adapter, name) if adapter else (name, stage.model.revision)
    own_config, tokenizer = read_gguf(Path(base)) if is_gguf(base) else (None, None)
    try:
        config = own_config or AutoConfig.from_pretrained(base, **source | {"revision": revision})
    except (OSError, ValueError) as error:  # ValueError: files that are there, and are no model's
        if Path(base).is_dir():
            raise UserError(f"model.name_or_path: {base} cannot be read: {error}") from error
        return None
    if is_gguf(name):
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    elif Path(name).is_dir():
        tokenizer = load_tokenizer(*(tokenizer_of_adapter(name, None, base, revision) if adapter else (name, None)))
    else:
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **source)
        except (OSError, ValueError):  # not in the cache
            tokenizer = None
    if stage.task not in LABEL_TASKS:
        check_writes(base, config)
    if stage.task not in LABEL_TASKS and tokenizer is not None:
        _set_template(stage.model, tokenizer, name, config)
    return _count(run, config, tokenizer, str(config.dtype).removeprefix("torch."))


def _set_template(section, tokenizer, name: str, config):
    """Give a tokenizer the chat template and its arguments as a training would."""
    set_template(tokenizer, section.chat_template, name, is_decoder=not config.is_encoder_decoder)
    pin_template_arguments(tokenizer, section.chat_template_kwargs)
    check_template_arguments(tokenizer, section.chat_template_kwargs)


@whole_weights()  # ZeRO-3 would divide the parameters that are counted
def _count(run: StageRun, config, tokenizer, dtype: str) -> Size:
    """Count parameters on the meta device, with the recipe's adapter, and see whether the model can share prompts."""
    stage = run.stage
    if stage.task in LABEL_TASKS:
        auto, kind = AutoModelForSequenceClassification, "SEQ_CLS"
        config = copy.deepcopy(config)
        run.targets.write(config)
    else:
        auto, kind = generator_class(config)
    chosen = stage.model.dtype if stage.task in LABEL_TASKS else base_dtype(stage.model, config)
    dtype = dtype if chosen == "auto" else chosen
    with whole_weights(), torch.device("meta"):  # without the shards of ZeRO-3, which all processes would have to make
        network = auto.from_config(config, dtype=getattr(torch, dtype, torch.float32))
        if stage.model.attn_implementation:
            network.config._attn_implementation = stage.model.attn_implementation
        unshared = None if stage.task in LABEL_TASKS else unsupported(network)
    asked, brought = lora_config(stage.model.lora, kind), _adapter_before(run)
    changes = adapter_changes(asked, brought, config) if asked and brought else []
    adapter = brought if brought and not changes else asked
    if adapter is not None:
        if adapter is asked:
            exclude_images(network, adapter)
            check_target_names(network, adapter)
        if stage.task not in LABEL_TASKS:
            check_targets(config, adapter, stage.trainer.get("use_vllm", False))
        with torch.device("meta"):
            network = adapted(network, as_new(adapter))
    if tokenizer is not None:
        check_vocabulary(network, tokenizer, stage.model.name_or_path or "model.from_scratch")
    parameters = list(network.parameters())
    total = sum(each.numel() for each in parameters)
    trainable = sum(each.numel() for each in parameters if each.requires_grad)
    line = _adapter_line(stage.model, brought, changes)
    return Size(config, tokenizer, dtype, total, trainable, unshared, line, network)


def _adapter_before(run: StageRun):
    """Return the `peft.PeftConfig` of the adapter that a stage's model already has; None without one."""
    if run.is_labelled:
        return None
    if (source := stage_of(run.stage.model.name_or_path)) is not None:
        earlier = run.runs[source]
        return lora_config(earlier.stage.model.lora) or _adapter_before(earlier)
    return adapter_here(run.stage.model)


def _adapter_line(model, brought, changes: list[str]) -> str:
    """Return what happens to the adapter that a model already has."""
    if brought is None:
        return ""
    if not changes:
        rank = f" (rank {brought.r})" if hasattr(brought, "r") else ""
        return f"that of {model.name_or_path}{rank} is trained further"
    return f"that of {model.name_or_path} is merged, and a new one is trained ({', '.join(changes)})"


def _scratch_tokenizer(run: StageRun):
    """Return the tokenizer that a stage with `model.from_scratch` will get."""
    scratch = run.stage.model.from_scratch
    texts, tags = run.tokenizer_texts(run.dataset("train"))
    if run.is_labelled:
        return build_encoder_tokenizer(texts, scratch.vocab_size, scratch.max_length)
    return build_tokenizer(texts, scratch.vocab_size, tags)


def trainer_options(stage) -> dict:
    """Return the settings a plan needs: the config class's defaults, the recipe's values, and what follows from them.

    Adds `processes` and `sequences` (per optimizer step, over all processes).
    """
    fields = dataclasses.fields(import_class(CONFIG_CLASSES[stage.task]))
    options = {field.name: field.default for field in fields} | stage.trainer
    options["processes"] = Engine.here().processes
    per_process = options["per_device_train_batch_size"] * options["gradient_accumulation_steps"]
    return options | {"sequences": per_process * options["processes"]}


def _unknown(stage, stages: int) -> str:
    """Return why the size of a stage's model is not known, and how to know it."""
    model = stage.model
    if model.from_scratch is not None:
        return "unknown until the data for its tokenizer is downloaded"
    if stage_of(model.name_or_path) is not None:
        return f"unknown, as those of {model.name_or_path} are"
    flag = "--model.name_or_path" if stages == 1 else f"--stages.{stage.name}.model.name_or_path"
    return f"unknown: the model is not in the Hub's cache; download it, or give a folder with {flag}"


def _prompt_tokens(stage, train, size: Size | None) -> float | None:
    """Return the mean length of a prompt or text in tokens, by the model's own tokenizer where it is at hand."""
    if train is None or size is None or size.tokenizer is None:
        return None
    data = train[:200]
    if stage.task in LABEL_TASKS:
        encoded = size.tokenizer(data["text"], *([data["pair"]] if "pair" in data else []))
    else:
        check_prompts(size.tokenizer, train["prompt"])
        encoded = {"input_ids": prompt_tokens(size.tokenizer, data["prompt"])}
    return sum(map(len, encoded["input_ids"])) / len(encoded["input_ids"])


def _check_rewards(stage, train) -> None:
    """Raise UserError if a reward does not take the columns of the training rows, which TRL passes to it."""
    columns = [column for column in train.column_names if column not in ("prompt", "completion")]
    for name, reward in stage.rewards.items():
        check_parameters(name, reward, [*PASSED, *columns])


def _template_lines(size: Size, train) -> list[str]:
    """Return lines about how the chat template changes prompts that it would otherwise refuse, and where it ends no reply."""
    if train is None or size.tokenizer is None or "prompt" not in train.column_names:
        return []
    rewritten = repairs_in(size.tokenizer.get_chat_template(), train["prompt"])
    lines = [_line("template", f"changes the prompts: {'; '.join(rewritten)}")] if rewritten else []
    learns = "completion" in train.column_names and not size.config.is_encoder_decoder
    if learns:
        check_learned_prompts(size.tokenizer, train)
    return lines + ([_line("template", NO_END)] if learns and teaches_no_end(size.tokenizer) else [])


def _count_lengths(run: StageRun, config, train, size: Size) -> tuple[Truncation, list[str]]:
    """Return the lengths of all rows or of `SAMPLED` evenly spaced ones, and lines about what the trainer cuts and leaves out.

    Raises:
        UserError: nothing is left to learn from.
    """
    step, reads_apart = math.ceil(len(train) / SAMPLED), size.config.is_encoder_decoder
    lengths = token_lengths(size.tokenizer, train.select(range(0, len(train), step)), reads_apart)
    counted = truncation(config, lengths, reads_apart)
    counted.check(f"stages.{run.name}.trainer.max_length")
    dropped = len(train) * counted.dropped // len(lengths)
    sampled = f" (counted on {len(lengths)} of {len(train)} rows)" if step > 1 else ""
    return counted, [f"{counted}{sampled}", *unused_rows(run, config, train, dropped)]


def _context_line(run: StageRun, config, train, size: Size) -> str:
    """Return how many positions a model has, after comparing them with up to `SAMPLED` of the longest prompts.

    Raises:
        UserError: a prompt is too long for the model.
    """
    limits = Limits.of(size.network)
    if limits.reads is None and limits.writes is None:
        return str(limits)
    if run.is_labelled:
        fit_rows(run.stage, train, "train", size.network, size.tokenizer, config)
        return f"{limits}, enough for max_length {config.max_length}"
    if train is None or size.tokenizer is None:
        return f"{limits}; {COMPARED_LATER}"
    characters = [sum(len(message["content"]) for message in prompt) for prompt in train["prompt"]]
    longest = sorted(sorted(range(len(train)), key=lambda row: -characters[row])[:SAMPLED])
    _, cut = fit_rows(run.stage, train.select(longest), "train", size.network, size.tokenizer, config, longest)
    check_lengths(run.stage, size.network, size.tokenizer)
    return f"{limits}; " + (f"{cut} training prompts lose their oldest turns" if cut else "every prompt fits")


def _examples(stage, train) -> int:
    """Return how many examples a stage learns from: rows as built, which may be fewer than were read, or pairs of them."""
    return len(pairs_of(train["context"], train["labels"])) if stage.is_pairwise else len(train)


def _rollouts_line(options: dict, size: Size | None, engine: Engine) -> str:
    """Return what generates the completions, and where prompts are shared."""
    plain = not options["use_vllm"] and not options["use_transformers_continuous_batching"]
    if options["use_vllm"] and options["vllm_mode"] == "server":
        address = options["vllm_server_base_url"] or f"{options['vllm_server_host']}:{options['vllm_server_port']}"
        by = f"generated by the vLLM server at {address}"
    elif options["use_vllm"]:
        by = f"generated by vLLM in each process, with {options['vllm_gpu_memory_utilization']:.0%} of its GPU"
    else:
        by = "generated by transformers"
    if not options["shared_prefix"]:
        return f"{by}; prompts are not shared (shared_prefix: false)"
    if reason := _unshared(options, size):
        return f"{by}; prompts are not shared: {reason}"
    if plain and "weights" not in engine.sharded:
        return f"{by}; generation and log-probabilities read each prompt once per group"
    apart = f", generation does not, because {engine.name} divides the weights" if plain else ""
    return f"{by}; log-probabilities read each prompt once per group{apart}"


def _resampling_line(config) -> str:
    """Return how many groups a rollout may generate at most; `config` is the trainer's."""
    groups = config.generation_batch_size // config.num_generations
    return (
        f"groups that teach nothing are replaced up to {_counted(config.max_resampling, 'time')} per rollout of {groups} groups, "
        f"which then generates at most {groups * (1 + config.max_resampling)}"
    )


def _solved_line(config) -> str:
    """Return which prompts an epoch leaves out; `config` is the trainer's."""
    visits = "their last visit" if config.skip_solved == 1 else f"each of their last {config.skip_solved} visits"
    text = f"an epoch leaves out prompts that were solved in {visits}; others take their places"
    epochs = math.ceil(config.num_train_epochs)
    if config.max_steps > 0 or epochs > config.skip_solved or config.dynamic_sampling:
        return text
    return f"{text}. None is left out in this training, which ends after epoch {epochs}"


def _unshared(options: dict, size: Size | None) -> str | None:
    """Return why prompts cannot be shared, None if they can or if the model is not known yet."""
    return COMPILED if options.get("torch_compile") else size and size.unshared


def _rows_per_prompt(name: str, options: dict, size: Size | None) -> int:
    """Return how many rows of a batch share one copy of their prompt."""
    against = _unshared(options, size)
    if not decide(options.get("shared_prefix", False), against, f"stages.{name}.trainer.shared_prefix"):
        return 1
    return math.gcd(options["num_generations"], options["per_device_train_batch_size"])


def _line(key: str, text: str) -> str:
    return f"  {key:10} {text}"


def _stage_lines(stage, rows: dict, options: dict, prompt: float | None) -> list[str]:
    """Return the lines about a stage that need no model."""
    data = "; ".join(f"{split} {report}" for split, (_, report) in rows.items()) or "known after the download"
    texts = {"model": _model_line(stage.model), "data": f"{stage.data.name} from {stage.data.path}: {data}"}
    if stage.rewards:
        texts["rewards"] = ", ".join(f"{name} × {_weight(reward.weight)}" for name, reward in stage.rewards.items())
    if "critic_kind" in options:
        texts["critic"] = _critic_line(options)
    texts |= {"batch": _batch_line(options), "tokens": _token_line(stage, options, prompt)}
    return [_line(key, text) for key, text in texts.items()]


def _model_line(model) -> str:
    if model.from_scratch is None:
        name = join_revision(model.name_or_path, model.revision)
        if is_gguf(name):
            name += f" ({Path(name).stat().st_size / 1e6:.0f} MB, converted into a folder when it is first loaded)"
    else:
        scratch = model.from_scratch
        name = f"from scratch: {scratch.architecture}, hidden size {scratch.hidden_size}, {scratch.layers} layers"
    lora = f", LoRA rank {model.lora.r}" if model.lora else ""
    return name + (", 4-bit" if model.load_in_4bit else "") + lora + f", {model.dtype}"


def _weight(weight) -> str:
    if isinstance(weight, (int, float)):
        return f"{weight:g}"
    return f"{weight.start:g}→{weight.end:g} by {weight.until:.0%}"


def _critic_line(options: dict) -> str:
    kinds = {"head": "a head on the policy's hidden states", "model": "a backbone of its own"}
    start = f" from {options['critic_name_or_path']}" if options["critic_name_or_path"] else ""
    alone = f", alone for {options['critic_warmup_steps']} steps" if options["critic_warmup_steps"] else ""
    return f"{kinds[options['critic_kind']]}{start}, learning rate {options['critic_learning_rate']:g}{alone}"


def _batch_line(options: dict) -> str:
    steps = _steps(options)
    unit = f"completions ({options['num_generations']} per prompt)" if "num_generations" in options else "examples"
    return (
        f"{options['sequences']} {unit} per optimizer step = {options['per_device_train_batch_size']} per device × "
        f"{options['gradient_accumulation_steps']} accumulated × {_counted(options['processes'], 'process', 'es')}; "
        + (_counted(steps, "step") if steps else _counted(options["num_train_epochs"], "epoch"))
    )


def _counted(number: float, noun: str, ending: str = "s") -> str:
    shown = number if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun}{ending if number != 1 else ''}"


def _steps(options: dict) -> int | None:
    """Return the number of optimizer steps, or None where the size of the data is not known yet."""
    if options["max_steps"] > 0:
        return options["max_steps"]
    if options["examples"] is None:
        return None
    per_step = options["sequences"] / options.get("num_generations", 1)
    return max(1, round(options["examples"] * options["num_train_epochs"] / per_step))


def _token_line(stage, options: dict, prompt: float | None) -> str:
    sequences, limit = options["sequences"], options.get("max_length")
    if stage.task in LABEL_TASKS:
        text = f"{min(prompt, limit):.0f}" if prompt else f"up to {limit}"
        both = "2 × " if stage.is_pairwise else ""
        return f"{sequences} × {both}{text} tokens per step; longer texts than {limit} are cut"
    new, rows = options.get("max_completion_length"), options["rows_per_prompt"]
    read = f"{prompt:.0f} prompt" if prompt else "prompt"
    if not new:
        return f"{sequences} × ({read} + completion) tokens per step"
    read += f" / {rows}" if rows > 1 else ""
    upper = f" = up to {sequences * (prompt / rows + new):,.0f}" if prompt else ""
    shared = f", each prompt read once for {rows} completions" if rows > 1 else ""
    return f"{sequences} × ({read} + at most {new} new){upper} tokens per step{shared}"


def _memory_line(options: dict, parts: dict[str, float], evaluation: float) -> str:
    listed = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items())
    what = "resident memory" if "libraries" in parts else "GPU memory"
    text = f"about {sum(parts.values()) / 1e9:.1f} GB of {what} per process: {listed}; its evaluation {evaluation / 1e9:.1f} GB"
    if not options.get("use_vllm") or options["vllm_mode"] == "server":
        return text
    return f"{text}; vLLM takes {options['vllm_gpu_memory_utilization']:.0%} of the GPU on top"


def _downloads(recipe, sizes: dict[str, Size | None]) -> dict[str, str]:
    """Return what would be downloaded from the Hub: name and revision -> what it is."""
    found = {}
    for name, stage in recipe.stages.items():
        if on_hub(stage.data.path, needs_owner=True):
            found[join_revision(stage.data.path, stage.data.revision)] = "data"
        policy = stage.model.name_or_path
        if policy is not None and stage_of(policy) is None and sizes[name] is None and not Path(policy).is_dir():
            found[join_revision(policy, stage.model.revision)] = "model"
        rewards = {reward.model for reward in stage.rewards.values() if reward.loads_model}
        others = dict.fromkeys(rewards, "reward model") | dict.fromkeys(stage.reply_classifiers.values(), "classifier")
        others |= {stage.evaluation.bertscore: "BERTScore's"}
        found |= {model: kind for model, kind in others.items() if model is not None and _is_download(model)}
    return dict(sorted(found.items(), key=lambda entry: f"{entry[1]} {entry[0]}"))


def _is_download(model: str) -> bool:
    return stage_of(model) is None and not Path(model).is_dir() and not is_cached(model)


def _download_line(name: str, kind: str) -> str:
    """Return a download for the plan. The name may be a mistyped folder, so the nearest folder is suggested."""
    return f"{kind} {name}" + ("" if is_cached(name) else f" (not in the Hub's cache{nearest_path(name)})")


def _push(hub) -> str:
    private = ["private"] if hub.private else []
    merged = ["adapter merged"] if hub.merge_adapter else []
    checkpoints = ["every checkpoint"] if hub.push == "every_save" else []
    notes = ", ".join(private + merged + checkpoints)
    return hub.repo_id + (f" ({notes})" if notes else "")


def _machine() -> str:
    """Return what this machine has, to hold the memory estimates against."""
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return ", ".join(f"{gpu.name} with {gpu.total_memory / 1e9:.0f} GB" for gpu in gpus)
    return f"{os.cpu_count()} CPU cores with {_memory_here() / 1e9:.0f} GB, no GPU"


def _memory_here() -> float:
    """Return the bytes of the first GPU, or of the machine where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _verdict(missing: list[str], obstacles: list[str], needed: float, downloads: Iterable[str]) -> str:
    """Return the last line: a sound recipe may still ask for more than this machine has."""
    lacks = [*(f"{line.split()[0]} is not installed" for line in missing), *dict.fromkeys(obstacles)]
    if devices := Engine.here().missing_devices():
        lacks.append(devices)
    if constants.is_offline_mode() and (absent := [name for name in downloads if not is_cached(name)]):
        lacks.append(f"HF_HUB_OFFLINE is set, and the Hub's cache does not have {', '.join(absent)}")
    processes = 1 if torch.cuda.is_available() else Engine.here().local  # which share the memory of the machine
    if needed * processes > _memory_here():
        each = f" by {processes} processes" if processes > 1 else ""
        there = f"{_memory_here() / 1e9:.0f} GB are available"
        lacks.append(f"about {needed * processes / 1e9:.0f} GB of memory are needed{each}, {there}")
    return "The recipe is sound." + (f" It cannot run on this machine: {'; '.join(lacks)}." if lacks else "")
