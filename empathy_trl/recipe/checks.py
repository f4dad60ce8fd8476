"""Checks of a recipe that need other keys, the rest of the package, or the disk.

`validate` checks types and the fields of a trainer's config. Every check here yields problems, (path of the key,
message), and raises nothing, so that all problems of a recipe are reported at once.
"""

import copy
import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from empathy_trl.data import CORPORA, corpus
from empathy_trl.data.tables import SUFFIXES
from empathy_trl.engine import NO_ENCODER_DECODER, Engine
from empathy_trl.errors import UserError, show, suggestion
from empathy_trl.io import is_gguf, json_or_none, nearest_path, on_hub, user_name
from empathy_trl.models.hub_files import CRITIC_CONFIG, saved_critic, split_revision
from empathy_trl.recipe.layers import LABEL_TASKS, REWARD_TASKS, Layers, stage_of, starts_pretrained
from empathy_trl.recipe.schema import CONFIG_CLASSES, RECIPES, SAMPLE, Classifiers, Data, FromScratch, Stage, hint
from empathy_trl.recipe.validate import Key, Problem, check_mapping, check_trainer, check_value, fields_of, import_class
from empathy_trl.rewards import REWARDS
from empathy_trl.rewards.base import Reward
from empathy_trl.tags import CHAT_TEMPLATES, template_file

FOR_ALL_CORPORA = ("name", "builder", "path", "revision", "on_bad_rows", "portion")  # keys of `data`
# architectures of models from scratch
DECODERS, ENCODER_DECODERS, ENCODERS = ("qwen2", "llama", "gemma2"), ("t5",), ("roberta",)
TABLES = (*SUFFIXES, ".gz")  # a name that ends so is a file, not a Hub id
# sections that newcomers write as a text or a list -> how to write them
EXAMPLES = {
    "model": "write {name_or_path: USER/REPO}",
    "data": "write {name: ed4}",
    "rewards": "write names with their parameters, such as {format: {weight: 0.2}}",
}
A_MODEL = "expected stage:<name>, a folder, a file *.gguf, or a Hub id such as user/name"


def check_top(layers: Layers, stages: dict[str, dict]) -> Iterator[str]:
    """Yield what is wrong with the keys that belong to the whole recipe; `stages` is stage name -> keys."""
    name = layers.name
    if name is not None and not (isinstance(name, str) and name and Path(name).name == name != ".."):
        yield f"name: {show(name)} cannot be a folder's name"
    if "seed" in layers.top:
        yield from (f"seed: {message}" for _, message in check_value(layers.top["seed"], fields_of(Stage)["seed"].type))
    tasks = {keys.get("task") for keys in stages.values() if isinstance(keys.get("task"), str)}
    if layers.top.get("rewards") and tasks <= set(CONFIG_CLASSES) and not tasks & set(REWARD_TASKS):
        yield f"rewards: no stage learns from rewards; tasks that do: {', '.join(REWARD_TASKS)}"
    asks = [name for name, keys in stages.items() if _section(keys, "evaluation").get("untrained") is True]
    origins = {name: _section(stages[name], "model").get("name_or_path") for name in asks}
    if asks and not any(starts_pretrained(stages[name].get("task"), origin) for name, origin in origins.items()):
        yield (
            f"{layers.label(asks[0], ('evaluation', 'untrained'))}: has no effect, because no stage starts from a pretrained "
            "model that generates text; leave it out"
        )
    pushed: dict[str, str] = {}
    for name, keys in stages.items():
        repo_id = _section(keys, "hub").get("repo_id")
        if isinstance(repo_id, str) and (earlier := pushed.setdefault(repo_id, name)) != name:
            yield f"stages.{name}.hub.repo_id: {repo_id} is the repository of stage {earlier}; expected a different one for each stage"


def check_stage(name: str, stages: dict[str, dict], training: bool) -> Iterator[Problem]:
    """Yield what is wrong with the keys that hold for a stage, but for its rewards, which `read_rewards` reads.

    Args:
        name: of the stage.
        stages: stage name -> keys, of this stage and those before it.
        training: see `load_recipe`.
    """
    keys = stages[name]
    earlier = {stage: content.get("task") for stage, content in stages.items() if stage != name}
    fields = fields_of(Stage) | {"task": Key(str), "rewards": Key(dict), "trainer": Key(dict)}
    del fields["name"]
    task = keys.get("task")
    known = isinstance(task, str) and task in CONFIG_CLASSES
    for path, message in check_mapping(keys, fields):
        if path[0] not in fields and known and path[0] in fields_of(import_class(CONFIG_CLASSES[task])):
            message = f"unknown key; did you mean trainer.{path[0]}?"
        elif path[0] in EXAMPLES and isinstance(keys.get(path[0]), str | list):
            message = f"{show(keys[path[0]])} is not a mapping; {EXAMPLES[path[0]]}"
        yield path, message
    if "task" not in keys:
        yield ("task",), f"missing{suggestion('', CONFIG_CLASSES)}"
    elif isinstance(task, str) and task not in CONFIG_CLASSES:
        yield ("task",), f"unknown task {show(task)}{suggestion(task, CONFIG_CLASSES)}"
    yield from _under("model", _check_model(name, stages, task if known else None, earlier))
    yield from _under("data", _check_data(_section(keys, "data"), task if known else None))
    yield from _under("evaluation", _check_held_out(name, _section(keys, "evaluation"), _section(keys, "trainer")))
    if task not in LABEL_TASKS:  # replies are judged, not labels
        yield from _under("evaluation", _check_evaluation(_section(keys, "evaluation"), earlier))
    if known:
        yield from _under("rewards", _check_weights(keys, task))
        yield from _under("hub", _check_hub(keys))
        yield from _under("trainer", _check_trainer(name, stages, task, earlier, training))


# Keys of a stage that hold a path, or a name that may be one; those of rewards are found in `with_user_paths`
PATHS = (
    ("model", "name_or_path"),
    ("model", "chat_template"),
    ("data", "path"),
    ("data", "emotions"),
    *(("trainer", key) for key in ("critic_name_or_path", "chat_template_path", "deepspeed", "fsdp_config")),
    ("evaluation", "bertscore"),
    *(("evaluation", "classifiers", kind) for kind in Classifiers.model_fields),
)


def with_user_paths(keys: dict) -> tuple[dict, list[Problem]]:
    """Return a stage's keys with every path as `io.user_name` returns it, and a problem for each path that it refuses."""
    keys, problems, places = copy.deepcopy(keys), [], list(PATHS)
    for name in _section(keys, "rewards"):
        own = REWARDS.get(name)
        places += [("rewards", name, key) for key, has in (("model", own and own.loads_model), ("file", own)) if has]
    for *sections, key in places:
        section = functools.reduce(_section, sections, keys)
        if isinstance(value := section.get(key), str):
            try:
                path = user_name(value)
            except UserError as error:
                problems.append(((*sections, key), str(error)))
            else:
                section[key] = f"./{SAMPLE}" if path == SAMPLE != value else path
    return keys, problems


def _section(keys: dict, name: str) -> dict:
    """Return a section, or an empty one where it is not a mapping, which `check_mapping` reports."""
    return keys[name] if isinstance(keys.get(name), dict) else {}


def _under(section: str, problems: Iterable[Problem]) -> Iterator[Problem]:
    return (((section, *path), message) for path, message in problems)


def _check_model(name: str, stages: dict[str, dict], task: str | None, earlier: dict[str, Any]) -> Iterator[Problem]:
    """Yield whether the model is where the recipe says, as far as the disk knows, and of a kind that the task trains."""
    model = _section(stages[name], "model")
    origin, source = model.get("name_or_path"), stage_of(model.get("name_or_path"))
    alike = [other for other in CONFIG_CLASSES if (other in LABEL_TASKS) == (task in LABEL_TASKS)]
    if source is not None:
        yield from _under("name_or_path", _check_source(source, earlier, alike))
    elif isinstance(origin, str) and not _may_be_model(origin):
        yield ("name_or_path",), f"{_missing(origin)}; {A_MODEL}"
    if isinstance(origin, str) and model.get("load_in_4bit") is True and not _has_adapter(name, stages):
        yield ("load_in_4bit",), "needs model.lora; 4-bit weights cannot be trained themselves"
    if task is None:
        return
    if task in LABEL_TASKS and model.get("load_in_4bit") is True:
        yield ("load_in_4bit",), f"task {task} trains encoders, which need no quantisation; expected false"
    architecture = _section(model, "from_scratch").get("architecture")
    trained = ENCODERS if task in LABEL_TASKS else (*DECODERS, *ENCODER_DECODERS)
    known = get_args(FromScratch.model_fields["architecture"].annotation)
    if architecture in known and architecture not in trained:
        kinds = {**dict.fromkeys(ENCODERS, "an encoder"), **dict.fromkeys(DECODERS, "a decoder")}
        kind = kinds.get(architecture, "an encoder-decoder")
        message = f"{architecture} is {kind}, which task {task} does not train{suggestion('', trained)}"
        yield ("from_scratch", "architecture"), message
    if isinstance(template := model.get("chat_template"), str):
        for message in _template_problems(template, task, _is_encoder_decoder(name, stages)):
            yield ("chat_template",), message


def _template_problems(template: str, task: str, is_encoder_decoder: bool | None) -> Iterator[str]:
    """Yield what is wrong with a chosen chat template; None as the last argument if the kind of model is not known."""
    if task in LABEL_TASKS:
        yield f"{show(template)} has no effect: task {task} reads texts, not chats; leave it out"
    elif template in CHAT_TEMPLATES:
        if template == "godel" and is_encoder_decoder is False:
            yield f"{show(template)} is the input of an encoder-decoder; leave it out"
    elif (file := template_file(template)) is not None:
        if not file.is_file():
            yield f"no file {template!r}{nearest_path(template)}"
    elif not _may_exist(template.partition("@")[0], needs_owner=True):
        choices = f"{', '.join(CHAT_TEMPLATES)}, a .jinja file, or the Hub id or folder of a model with a chat template"
        yield f"unknown choice {template!r} (choices: {choices})"


def _check_source(stage: str, earlier: dict[str, Any], tasks: Iterable[str]) -> Iterator[Problem]:
    """Yield whether the stage of `stage:<name>` is an earlier one with one of some tasks."""
    if not earlier:
        yield (), f"unknown stage {stage!r}: no stage comes before this one"
    elif stage not in earlier:
        yield (), f"unknown stage {stage!r}{suggestion(stage, earlier)}"
    elif earlier[stage] not in tasks:
        yield (), f"{stage} is a stage with task {earlier[stage]}; expected one with {', '.join(tasks)}"


def _may_be_model(name: str) -> bool:
    """Return whether a name may be that of a model: a folder that is there, or a Hub id, with `@revision` or without."""
    try:
        plain, _ = split_revision(name)
    except UserError:  # the model section reports it
        return True
    return _may_exist(plain)


def _may_exist(place: str, needs_owner: bool = False) -> bool:
    """Return whether a folder or a GGUF file exists, or the text may be a Hub id."""
    return os.path.isdir(place) or (is_gguf(place) and os.path.isfile(place)) or on_hub(place, needs_owner)


def _missing(name: str) -> str:
    """Say that a model's folder or file is not there."""
    return f"no {'file' if is_gguf(name) else 'folder'} {name!r}{nearest_path(name)}"


def _has_adapter(name: str, stages: dict[str, dict]) -> bool:
    """Return whether a stage trains an adapter: the one of `lora:`, or the one that its model already has."""
    model = _section(stages.get(name, {}), "model")
    origin = model.get("name_or_path")
    if model.get("lora") or not isinstance(origin, str):
        return bool(model.get("lora"))
    if (source := stage_of(origin)) is not None:
        return _has_adapter(source, {stage: keys for stage, keys in stages.items() if stage != name})
    return os.path.isfile(os.path.join(origin, "adapter_config.json"))


def _is_encoder_decoder(name: str, stages: dict[str, dict]) -> bool | None:
    """Return whether a stage trains an encoder-decoder; None where only the Hub knows, or the section is wrong."""
    if name not in stages:
        return None
    model = _section(stages[name], "model")
    if scratch := _section(model, "from_scratch"):
        return scratch.get("architecture") in ENCODER_DECODERS
    origin = model.get("name_or_path")
    if (source := stage_of(origin)) is not None:
        others = {stage: keys for stage, keys in stages.items() if stage != name}  # a stage may name itself by mistake
        return _is_encoder_decoder(source, others)
    if not isinstance(origin, str):
        return None
    if is_gguf(origin):
        return False
    config = json_or_none(Path(origin, "config.json"))
    return None if config is None else bool(config.get("is_encoder_decoder", False))


def _check_data(data: dict, task: str | None) -> Iterator[Problem]:
    """Yield whether the corpus is known, has rows for the task, reads the keys given, and is where `path` says."""
    name, builder, path = data.get("name"), data.get("builder"), data.get("path", SAMPLE)
    if isinstance(name, str) and isinstance(builder, str | None):
        try:
            yield from _check_corpus(corpus(name, builder), data, task)
        except UserError as error:
            key, _, message = str(error).removeprefix("data.").partition(": ")
            yield (key,), message
    if isinstance(path, str) and data.get("revision") is not None and not on_hub(path, needs_owner=True):
        yield ("revision",), f"{path} is not on the Hub, and only data sets on the Hub have revisions; expected null"
    if not isinstance(path, str) or path == SAMPLE or os.path.isfile(path):
        return
    if path.endswith(TABLES):
        yield (
            ("path",),
            f"no file {path!r}{nearest_path(path)}; expected {SAMPLE}, a file, a folder, or a Hub id such as user/name",
        )
    elif not _may_exist(path, needs_owner=True):
        yield (
            ("path",),
            f"no folder {path!r}{nearest_path(path)}; expected {SAMPLE}, a folder, or a Hub id such as user/name",
        )


def _check_corpus(own, data: dict, task: str | None) -> Iterator[Problem]:
    for key, default in Data(name="").model_dump(mode="json").items():
        # a resolved recipe says all defaults
        if key in data and key not in (*FOR_ALL_CORPORA, *own.settings) and data[key] != default:
            readers = [name for name in CORPORA if key in corpus(name).settings]
            yield (key,), f"{data['name']} does not read it; corpora that do: {', '.join(readers)}"
    if task is not None and task not in own.tasks:
        fitting = [name for name in CORPORA if task in corpus(name).tasks]
        rows = ", ".join(own.tasks)
        yield ("name",), f"{data['name']} has rows for {rows}, not for {task}{suggestion('', fitting)}"


def check_reward_models(entries: Any, rewards: dict[str, Reward], earlier: dict[str, dict]) -> Iterator[Problem]:
    """Yield which models of a stage's rewards are not where `model` says.

    Args:
        entries: `rewards:` of the stage.
        rewards: what was read from it.
        earlier: the stages before this one, name -> keys.
    """
    tasks = {name: keys.get("task") for name, keys in earlier.items()}
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        model = entry.get("model") if isinstance(entry, dict) else None
        path = ("rewards", name, "model")
        if (stage := stage_of(model)) is not None:
            yield from ((path, message) for _, message in _check_source(stage, tasks, LABEL_TASKS))
        elif name in rewards and rewards[name].loads_model and model and not _may_be_model(model):
            yield path, f"{_missing(model)}; {A_MODEL}"


def _check_weights(keys: dict, task: str) -> Iterator[Problem]:
    """Yield whether rewards are there if the task learns from them, can teach anything, and read what the data writes."""
    rewards = keys.get("rewards")
    if task not in REWARD_TASKS:
        if rewards:
            yield (), f"task {task} learns from no rewards; tasks that do: {', '.join(REWARD_TASKS)}"
        return
    if not rewards:
        yield (), f"missing; task {task} needs at least one"
    entries = list(_section(keys, "rewards").values())
    if entries and all(isinstance(entry, dict) for entry in entries):
        weights = [entry.get("weight", 1.0) for entry in entries]
        ends = [
            (weight.get("start"), weight.get("end")) if isinstance(weight, dict) else (weight,) for weight in weights
        ]
        if all(end == 0 for pair in ends for end in pair):
            yield (), "all weights are 0, so nothing would be learned; expected at least one other weight"
        if _section(keys, "trainer").get("skip_solved") is not None and any(len(pair) > 1 for pair in ends):
            yield (
                (),
                "a weight follows a schedule, but trainer.skip_solved compares total rewards over the whole run; leave one of them out",
            )
    data, reward = _section(keys, "data"), _section(_section(keys, "rewards"), "recommendation")
    written, read = data.get("slots", "placeholder"), reward.get("slots", "placeholder")
    if reward and data.get("name") == "redial" and written != read and {written, read} <= {"placeholder", "title"}:
        yield ("recommendation", "slots"), f"{read}, but data.slots is {written}; expected the same in both"


def _check_evaluation(evaluation: dict, earlier: dict[str, Any]) -> Iterator[Problem]:
    """Yield sampling settings without effect in greedy decoding, and missing models that judge replies."""
    for key, neutral in (("top_p", 1), ("top_k", 0)):
        if "temperature" not in evaluation and evaluation.get(key, neutral) != neutral:
            yield (
                (key,),
                f"{show(evaluation[key])} has no effect without temperature (the default is 0: greedy decoding); set both",
            )
    for kind, origin in _section(evaluation, "classifiers").items():
        path = ("classifiers", kind)
        if kind not in RECIPES or not isinstance(origin, str):
            continue  # `check_mapping` reports it
        if (stage := stage_of(origin)) is not None:
            yield from ((path, message) for _, message in _check_source(stage, earlier, ("classify",)))
        elif not _may_be_model(origin):
            yield path, f"no folder {origin!r}; expected stage:<name>, a folder, or a Hub id; {hint(kind)}"
    encoder = evaluation.get("bertscore")
    if isinstance(encoder, str) and encoder and not _may_exist(encoder):
        yield ("bertscore",), f"no folder {encoder!r}; expected a folder, or a Hub id such as roberta-large"


def _check_held_out(stage: str, evaluation: dict, trainer: dict) -> Iterator[Problem]:
    """Yield settings of the evaluation while training that have no effect, or that something else contradicts."""
    if evaluation.get("every") is None:
        # an override such as `--evaluation.every null` may leave the others in place
        for key in ("rows", "best", "patience") if "every" not in evaluation else ():
            if evaluation.get(key) is not None:
                what = "the steps between two evaluations while training"
                yield (key,), f"{show(evaluation[key])} has no effect without evaluation.every, {what}; set both"
        return
    if (name := Engine.here(trainer).name).startswith("FSDP"):
        yield ("every",), f"is not supported under {name}, which divides the weights; leave it out, or use DDP or ZeRO"
    best, patience = evaluation.get("best"), evaluation.get("patience")
    if best is None and patience is not None:
        yield (
            ("patience",),
            f"{show(patience)} has no effect without evaluation.best, the figure that has to improve; set both",
        )
    if best is not None and trainer.get("save_strategy") in ("no", False):
        what = f"needs checkpoints, but trainer.save_strategy of stage {stage} is 'no'"
        yield ("best",), f"{show(best)} {what}; expected steps there, or evaluation.best only for other stages"
    for key in ("metric_for_best_model", "greater_is_better"):
        if best is not None and trainer.get(key) is not None:
            yield ("best",), f"{show(best)} and trainer.{key} both choose the best checkpoint; delete one of them"


def _check_hub(keys: dict) -> Iterator[Problem]:
    """Yield whether `hub` asks to merge an adapter that cannot be there, or to push checkpoints that are not saved."""
    hub = _section(keys, "hub")
    if hub.get("merge_adapter") is True and _section(keys, "model").get("from_scratch"):
        yield ("merge_adapter",), "a model from scratch has no adapter; expected false"
    if hub.get("push") == "every_save" and _section(keys, "trainer").get("save_strategy") == "no":
        yield ("push",), "every_save, but trainer.save_strategy is 'no'; expected end, or that checkpoints are saved"


def _check_trainer(
    name: str, stages: dict[str, dict], task: str, earlier: dict[str, Any], training: bool
) -> Iterator[Problem]:
    """Yield what is wrong with the trainer's keys: with each, and beside the model."""
    trainer, model = _section(stages[name], "trainer"), _section(stages[name], "model")
    config_class = import_class(CONFIG_CLASSES[task])
    yield from check_trainer(trainer, task, config_class, training)
    if task == "ppo":
        yield from _check_critic(trainer, model, earlier)
    if _is_encoder_decoder(name, stages):
        from empathy_trl.models.load import decoder_settings  # imports torch

        if training and Engine.here(trainer).name == "FSDP2":
            yield (), NO_ENCODER_DECODER
        yield from (((key,), message) for key, message in decoder_settings(trainer, config_class))
    scratch = _section(model, "from_scratch")
    positions, longest = scratch.get("max_length", 512), trainer.get("max_length", 256)
    both = isinstance(positions, int) and isinstance(longest, int)
    if task in LABEL_TASKS and scratch and both and longest > positions:
        message = f"{longest} tokens are more than the model's {positions} positions (model.from_scratch.max_length)"
        yield ("max_length",), message


def _check_critic(trainer: dict, model: dict, earlier: dict[str, Any]) -> Iterator[Problem]:
    """Yield whether a critic starts from what is not there or does not fit, or reads a policy that it cannot train."""
    kind, origin = trainer.get("critic_kind", "head"), trainer.get("critic_name_or_path")
    path = ("critic_name_or_path",)
    if kind == "head" and model.get("load_in_4bit") is True:
        expected = "expected model, or model.load_in_4bit: false"
        yield ("critic_kind",), f"a head needs a policy whose weights are not quantised; {expected}"
    if (stage := stage_of(origin)) is not None:
        if stage not in earlier:
            yield path, f"unknown stage {stage!r}{suggestion(stage, earlier)}"
        elif kind == "head" and earlier[stage] != "ppo":
            yield (
                path,
                f"stage {stage} has task {earlier[stage]}, which saves no value head; expected one with task ppo",
            )
    elif isinstance(origin, str) and not _may_be_model(origin):
        yield path, f"{_missing(origin)}; {A_MODEL}"
    elif isinstance(origin, str) and kind == "head" and saved_critic(origin) is None:
        expected = "expected a folder that does"
        yield path, f"{origin} holds no critic ({CRITIC_CONFIG}) to initialise the head; {expected}"
