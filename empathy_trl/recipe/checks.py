"""Checks of a recipe that need the rest of the package, other keys of the stage, or the disk.

`validate` checks types and the trainer's keys. Every check yields problems, (path of the key, message), and none raises, so
that all problems are reported at once.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from empathy_trl.errors import UserError, show, suggestion
from empathy_trl.io import on_hub
from empathy_trl.models.hub_files import CRITIC_CONFIG, saved_critic, split_revision
from empathy_trl.recipe.layers import LABEL_TASKS, REWARD_TASKS, Layers, stage_of
from empathy_trl.recipe.schema import CONFIG_CLASSES, RECIPES, SAMPLE, Data, FromScratch, Stage, hint
from empathy_trl.recipe.validate import (
    Key,
    Problem,
    check_mapping,
    check_trainer,
    check_value,
    fields_of,
    import_class,
)
from empathy_trl.rewards import read_rewards
from empathy_trl.rewards.base import Reward
from empathy_trl.tags import CHAT_TEMPLATES

FOR_ALL_CORPORA = ("name", "builder", "path", "revision", "on_bad_rows", "portion")  # keys of `data`
DECODERS, ENCODERS = ("qwen2", "llama", "gemma2"), ("roberta",)  # of the models that can be made from scratch


def check_top(layers: Layers, contents: dict[str, dict]) -> Iterator[str]:
    """Yield what is wrong with the keys that belong to the whole recipe."""
    name = layers.name
    if name is not None and not (isinstance(name, str) and name and Path(name).name == name != ".."):
        yield f"name: {show(name)} cannot be a folder's name"
    if "seed" in layers.top:
        yield from (f"seed: {message}" for _, message in check_value(layers.top["seed"], fields_of(Stage)["seed"].type))
    used = {content.get("task") for content in contents.values() if isinstance(content.get("task"), str)}
    if layers.top.get("rewards") and used <= set(CONFIG_CLASSES) and not used & set(REWARD_TASKS):
        yield f"rewards: no stage learns from rewards; tasks that do: {', '.join(REWARD_TASKS)}"
    yield from _check_repositories(contents)


def _check_repositories(contents: dict[str, dict]) -> Iterator[str]:
    """Yield which stages would overwrite what an earlier one pushes."""
    pushed: dict[str, str] = {}
    for name, content in contents.items():
        repo_id = hub.get("repo_id") if isinstance(hub := content.get("hub"), dict) else None
        if isinstance(repo_id, str) and (earlier := pushed.setdefault(repo_id, name)) != name:
            yield f"stages.{name}.hub.repo_id: {repo_id} is where stage {earlier} goes; expected one of its own for each stage"


def check_stage(content: dict, earlier: dict[str, dict], training: bool) -> Iterator[Problem]:
    """Yield what is wrong with the keys that hold for a stage.

    Args:
        content: the keys, from wherever the stage has them.
        earlier: the stages before this one, name -> keys.
        training: see `load_recipe`.
    """
    earlier = {name: keys.get("task") for name, keys in earlier.items()}
    fields = fields_of(Stage) | {"task": Key(str), "rewards": Key(dict), "trainer": Key(dict)}
    del fields["name"]
    yield from check_mapping(content, fields)
    sections = {key: value for key, value in content.items() if isinstance(value, dict)}
    labels = content.get("task") in LABEL_TASKS
    fitting = [task for task in CONFIG_CLASSES if (task in LABEL_TASKS) == labels]
    yield from _under("model", _check_origin(sections.get("model", {}), earlier, fitting))
    yield from _under("data", _check_source(sections.get("data", {})))
    if not labels:  # replies are judged, not labels
        yield from _under("evaluation", _check_classifiers(sections.get("evaluation", {}), earlier))
        yield from _under("evaluation", _check_encoder(sections.get("evaluation", {})))
    if "task" not in content:
        yield ("task",), f"missing{suggestion('', CONFIG_CLASSES)}"
    elif isinstance(content["task"], str):
        yield from _check_task(content["task"], content, earlier, training)


def _check_task(task: str, content: dict, earlier: dict[str, Any], training: bool) -> Iterator[Problem]:
    """Yield whether a task is known, has rewards if it learns from them, and what is wrong with its trainer's keys."""
    if task not in CONFIG_CLASSES:
        yield ("task",), f"unknown task {show(task)}{suggestion(task, CONFIG_CLASSES)}"
        return
    if task in REWARD_TASKS and not content.get("rewards"):
        yield ("rewards",), f"missing; task {task} needs at least one"
    elif task not in REWARD_TASKS and content.get("rewards"):
        yield ("rewards",), f"task {task} learns from no rewards; tasks that do: {', '.join(REWARD_TASKS)}"
    if task in REWARD_TASKS:
        yield from _under("rewards", _check_weights(content.get("rewards")))
        yield from _check_slots(content)
    yield from _under("model", _check_architecture(task, content.get("model")))
    if task in LABEL_TASKS and isinstance(content.get("model"), dict) and content["model"].get("load_in_4bit") is True:
        yield ("model", "load_in_4bit"), f"task {task} trains encoders, which need no quantisation; expected false"
    if task in LABEL_TASKS:
        yield from _check_length(content)
    yield from _under("data", _check_rows(task, content.get("data")))
    yield from _under("hub", _check_hub(content))
    trainer = content.get("trainer", {})
    if isinstance(trainer, dict):
        config_class = import_class(CONFIG_CLASSES[task])
        yield from _under("trainer", check_trainer(trainer, task, config_class, training))
        if task == "ppo":
            yield from _under("trainer", _check_critic(trainer, content.get("model"), earlier))


def _check_critic(trainer: dict, model: Any, earlier: dict[str, Any]) -> Iterator[Problem]:
    """Yield whether a critic starts from what is not there or does not fit, or reads a policy that it cannot train."""
    kind, origin = trainer.get("critic_kind", "head"), trainer.get("critic_name_or_path")
    if kind == "head" and isinstance(model, dict) and model.get("load_in_4bit") is True:
        yield (
            ("critic_kind",),
            "a head needs a policy whose weights are not quantised; expected model, or model.load_in_4bit: false",
        )
    if not isinstance(origin, str):
        return
    path = ("critic_name_or_path",)
    if (stage := stage_of(origin)) is not None:
        if stage not in earlier:
            yield path, f"unknown stage {stage!r}{suggestion(stage, earlier)}"
        elif kind == "head" and earlier[stage] != "ppo":
            yield path, f"stage {stage} has task {earlier[stage]}, which leaves no head; expected one with task ppo"
    elif not _may_be_model(origin):
        yield path, f"no folder {origin!r}; expected stage:<name>, a folder, or a Hub id such as user/name"
    elif kind == "head" and saved_critic(origin) is None:
        yield (
            path,
            f"{origin} holds no critic ({CRITIC_CONFIG}) that a head could start from; expected a folder that does",
        )


def _check_weights(rewards: Any) -> Iterator[Problem]:
    """Yield whether there are rewards and all of them have the weight 0, now and at the end of a schedule."""
    if not (isinstance(rewards, dict) and rewards and all(isinstance(entry, dict) for entry in rewards.values())):
        return
    if all(end == 0 for entry in rewards.values() for end in _ends(entry)):
        yield (), "all weights are 0, so nothing would be learned; expected at least one that is not"


def _ends(entry: dict) -> tuple:
    """Return the weight of a reward, or the two ends of its schedule."""
    weight = entry.get("weight", 1.0)
    return (weight.get("start"), weight.get("end")) if isinstance(weight, dict) else (weight,)


def _check_slots(content: dict) -> Iterator[Problem]:
    """Yield whether a reward looks for films in another way than the data writes them: it would find none."""
    data, rewards = content.get("data"), content.get("rewards")
    entry = rewards.get("recommendation") if isinstance(rewards, dict) else None
    if not (isinstance(entry, dict) and isinstance(data, dict) and data.get("name") == "redial"):
        return
    written, read = data.get("slots", "placeholder"), entry.get("slots", "placeholder")
    if written != read and {written, read} <= {"placeholder", "title"}:
        yield ("rewards", "recommendation", "slots"), f"{read}, but data.slots is {written}; expected the same in both"


def _check_architecture(task: str, model: Any) -> Iterator[Problem]:
    """Yield whether a model from scratch is of a kind that the task does not train."""
    scratch = model.get("from_scratch") if isinstance(model, dict) else None
    name = scratch.get("architecture") if isinstance(scratch, dict) else None
    fitting = ENCODERS if task in LABEL_TASKS else (*DECODERS, *ENCODER_DECODERS)
    if name in get_args(FromScratch.model_fields["architecture"].annotation) and name not in fitting:
        kind = "an encoder" if name in ENCODERS else "a decoder" if name in DECODERS else "an encoder-decoder"
        yield (
            ("from_scratch", "architecture"),
            f"{name} is {kind}, which task {task} does not train{suggestion('', fitting)}",
        )


def _check_hub(content: dict) -> Iterator[Problem]:
    """Yield whether `hub` asks to merge an adapter that cannot be there, or to push checkpoints that are not saved."""
    hub, model, trainer = (
        value if isinstance(value := content.get(key), dict) else {} for key in ("hub", "model", "trainer")
    )
    if hub.get("merge_adapter") is True and model.get("from_scratch"):
        yield ("merge_adapter",), "a model from scratch has no adapter; expected false"
    if hub.get("push") == "every_save" and trainer.get("save_strategy") == "no":
        yield ("push",), "every_save, but trainer.save_strategy is 'no'; expected end, or that checkpoints are saved"


def _check_length(content: dict) -> Iterator[Problem]:
    """Yield whether an encoder from scratch has positions for the longest text."""
    sections = (content.get("model"), content.get("trainer") or {})
    scratch = sections[0].get("from_scratch") if isinstance(sections[0], dict) else None
    if not isinstance(scratch, dict) or not isinstance(sections[1], dict):
        return
    positions, longest = scratch.get("max_length", 512), sections[1].get("max_length", 256)
    if isinstance(positions, int) and isinstance(longest, int) and longest > positions:
        message = f"{longest} tokens are more than the model's {positions} positions (model.from_scratch.max_length)"
        yield ("trainer", "max_length"), message


def _check_rows(task: str, data: Any) -> Iterator[Problem]:
    """Yield whether the corpus has rows for the task."""
    from empathy_trl.data import CORPORA, corpus

    found = _corpus(data) if isinstance(data, dict) else None
    if found is not None and task not in found.tasks:
        fitting = [name for name in CORPORA if task in corpus(name).tasks]
        has = ", ".join(found.tasks)
        yield ("name",), f"{data['name']} has rows for {has}, not for {task}{suggestion('', fitting)}"


def _corpus(data: dict):
    """Return the corpus of a `data` section; None where its keys are wrong, which `_check_source` says."""
    from empathy_trl.data import corpus

    if not isinstance(data.get("name"), str) or not isinstance(data.get("builder"), str | None):
        return None
    try:
        return corpus(data["name"], data.get("builder"))
    except UserError:
        return None


def _under(section: str, problems: Iterable[Problem]) -> Iterator[Problem]:
    return (((section, *path), message) for path, message in problems)


def _check_origin(model: dict, earlier: dict[str, Any], fitting: Iterable[str]) -> Iterator[Problem]:
    """Yield whether a model is where `name_or_path` says, as far as that can be known without the network.

    Args:
        model: the section.
        earlier: stages before this one, name -> task.
        fitting: the tasks of stages whose models this one can go on with.
    """
    origin = model.get("name_or_path")
    if not isinstance(origin, str):
        return
    if (stage := stage_of(origin)) is not None:
        yield from _under("name_or_path", _check_stage_model(stage, earlier, fitting))
        return
    if not _may_be_model(origin):
        expected = "stage:<name>, a folder, or a Hub id such as user/name"
        yield ("name_or_path",), f"no folder {origin!r}; expected {expected}"
    has_adapter = model.get("lora") or os.path.isfile(os.path.join(os.path.expanduser(origin), "adapter_config.json"))
    if model.get("load_in_4bit") is True and not has_adapter:
        yield ("load_in_4bit",), "needs model.lora; 4-bit weights cannot be trained themselves"


def _check_stage_model(stage: str, earlier: dict[str, Any], fitting: Iterable[str]) -> Iterator[Problem]:
    """Yield whether the stage of `stage:<name>` is an earlier one with one of the fitting tasks."""
    if stage not in earlier:
        yield (), f"unknown stage {stage!r}{suggestion(stage, earlier)}"
    elif earlier[stage] not in fitting:
        yield (), f"{stage} is a stage with task {earlier[stage]}; expected one with {', '.join(fitting)}"


def _check_source(data: dict) -> Iterator[Problem]:
    """Yield whether the corpus is known, reads the keys given, and has its source where `path` says."""
    from empathy_trl.data import CORPORA, corpus

    name, builder, path = data.get("name"), data.get("builder"), data.get("path", SAMPLE)
    if isinstance(name, str) and isinstance(builder, str | None):
        try:
            corpus(name, builder)
        except UserError as error:
            key, _, message = str(error).removeprefix("data.").partition(": ")
            yield (key,), message
    if (found := _corpus(data)) is not None:
        for key, default in Data(name="").model_dump(mode="json").items():
            # a resolved recipe says all defaults
            if key in data and key not in (*FOR_ALL_CORPORA, *found.settings) and data[key] != default:
                readers = [other for other in CORPORA if key in corpus(other).settings]
                yield (key,), f"{name} does not read it; corpora that do: {', '.join(readers)}"
    is_file = isinstance(path, str) and os.path.isfile(os.path.expanduser(path))  # a single table
    if isinstance(path, str) and path != SAMPLE and not is_file and not _may_exist(path, needs_owner=True):
        yield ("path",), f"no folder {path!r}; expected {SAMPLE}, a folder, or a Hub id such as user/name"


def _may_exist(place: str, needs_owner: bool = False) -> bool:
    """Return whether a folder exists, or the text may be a Hub id."""
    place = os.path.expanduser(place)
    return os.path.isdir(place) or on_hub(place, needs_owner)


def _may_be_model(name: str) -> bool:
    """Return whether a name may be that of a model: a folder that is there, or a Hub id, with `@revision` or without."""
    try:
        plain, _ = split_revision(name)
    except UserError:  # whoever reads the section says it better
        return True
    return _may_exist(plain)


def check_rewards(entries: Any, earlier: dict[str, dict]) -> tuple[dict[str, Reward], list[Problem]]:
    """Return the rewards that `rewards:` of a stage describes, and what is wrong with the other entries.

    Args:
        entries: the section.
        earlier: the stages before this one, name -> keys.
    """
    if not isinstance(entries, dict):
        return {}, []  # `check_stage` says so
    rewards, problems = read_rewards(entries)
    tasks = {name: keys.get("task") for name, keys in earlier.items()}
    for name, entry in entries.items():
        model = entry.get("model") if isinstance(entry, dict) else None
        if (stage := stage_of(model)) is not None:
            problems += [((name, "model"), message) for _, message in _check_stage_model(stage, tasks, LABEL_TASKS)]
        elif name in rewards and rewards[name].loads_model and model and not _may_be_model(model):
            expected = "stage:<name>, a folder, or a Hub id such as user/name"
            problems.append(((name, "model"), f"no folder {model!r}; expected {expected}"))
    return rewards, list(_under("rewards", problems))


def _check_classifiers(evaluation: dict, earlier: dict[str, Any]) -> Iterator[Problem]:
    """Yield whether the classifiers of an evaluation are where the recipe says; `earlier` are the stages before."""
    classifiers = evaluation.get("classifiers")
    if not isinstance(classifiers, dict):
        return
    for kind, origin in classifiers.items():
        path = ("classifiers", kind)
        if kind not in RECIPES or not isinstance(origin, str):
            continue  # `check_mapping` says what is wrong
        if (stage := stage_of(origin)) is not None:
            yield from ((path, message) for _, message in _check_stage_model(stage, earlier, ("classify",)))
        elif not _may_be_model(origin):
            yield path, f"no folder {origin!r}; expected stage:<name>, a folder, or a Hub id; {hint(kind)}"


def _check_encoder(evaluation: dict) -> Iterator[Problem]:
    """Yield whether the encoder of BERTScore may be where the recipe says."""
    name = evaluation.get("bertscore")
    if isinstance(name, str) and name and not _may_exist(name):
        yield ("bertscore",), f"no folder {name!r}; expected a folder, or a Hub id such as roberta-large"


ENCODER_DECODERS = ("t5",)  # of the models that can be made from scratch


def check_encoder_decoder(name: str, contents: dict[str, dict]) -> Iterator[Problem]:
    """Yield what does not go with the kind of model that a stage trains, where that can be known without the network.

    Args:
        name: of the stage.
        contents: stage name -> its keys, of this stage and those before it.
    """
    model, trainer, task = (contents[name].get(key) for key in ("model", "trainer", "task"))
    found = _is_encoder_decoder(model, contents)
    template = model.get("chat_template") if isinstance(model, dict) else None
    if isinstance(template, str) and template in CHAT_TEMPLATES and (found is False or task in LABEL_TASKS):
        yield ("model", "chat_template"), f"{show(template)} is the input of an encoder-decoder; leave it out"
    if found and isinstance(trainer, dict) and isinstance(task, str) and task in CONFIG_CLASSES:
        from empathy_trl.models.load import decoder_settings

        for key, message in decoder_settings(trainer, import_class(CONFIG_CLASSES[task])):
            yield ("trainer", key), message


def _is_encoder_decoder(model: Any, contents: dict[str, dict]) -> bool | None:
    """Return whether a `model:` section is an encoder-decoder; None where only the Hub knows, or the section is wrong."""
    if not isinstance(model, dict):
        return None
    if isinstance(scratch := model.get("from_scratch"), dict):
        return scratch.get("architecture") in ENCODER_DECODERS
    origin = model.get("name_or_path")
    if (stage := stage_of(origin)) is not None:
        content = contents.get(stage)
        others = {name: each for name, each in contents.items() if name != stage}  # a stage may name itself by mistake
        return None if content is None else _is_encoder_decoder(content.get("model"), others)
    return _config_says(origin) if isinstance(origin, str) else None


def _config_says(folder: str) -> bool | None:
    """Return what the config.json in a folder says, or None where there is none that can be read."""
    try:
        with open(os.path.join(os.path.expanduser(folder), "config.json"), encoding="utf-8") as file:
            config = json.load(file)
    except (OSError, ValueError):
        return None
    return bool(config.get("is_encoder_decoder", False)) if isinstance(config, dict) else None
