"""A stage of a run: everything it is made of (`StageRun`), and what its output folder already holds (`StageFolder`).

`run.json` in the folder records the settings (as a fingerprint) and the progress of the training. A stage is skipped if
it is complete for the same fingerprint, and resumes if it was interrupted.
"""

import importlib.util
import json
import os
import re
import shutil
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError, safe_open

from empathy_trl.data import CORPORA, build, corpus, read_split
from empathy_trl.engine import Engine, device_count, several_on_cpu
from empathy_trl.errors import UserError, show, suggestion
from empathy_trl.io import (
    digest,
    is_empty,
    is_gguf,
    json_or_none,
    on_hub,
    read_text,
    remove_unfinished,
    user_name,
    user_path,
    write_text,
)
from empathy_trl.models.label_schema import Targets, is_bi_encoder, label_names, listed
from empathy_trl.recipe.layers import LABEL_TASKS, RECIPE_FILE, read_yaml, stage_of, starts_pretrained
from empathy_trl.recipe.provenance import RUN_FILE
from empathy_trl.recipe.schema import CONFIG_CLASSES
from empathy_trl.recipe.validate import fields_without_effect, import_class, refusal
from empathy_trl.rewards import REWARDS
from empathy_trl.tags import template_file

# optional package -> the extra in setup.cfg that installs it
EXTRAS = {"vllm": "vllm", "bitsandbytes": "quantization", "bert_score": "bertscore", "deepspeed": "deepspeed"}
# values of trainer.report_to that are the name of the package they need
TRACKERS = (
    "clearml",
    "codecarbon",
    "comet_ml",
    "dvclive",
    "mlflow",
    "neptune",
    "swanlab",
    "tensorboard",
    "trackio",
    "wandb",
)
# evaluation and publishing do not change the weights
NOT_IN_FINGERPRINT = ("evaluation", "hub")
# keys of `evaluation` that do not change the result of an evaluation, and those that do not change which checkpoint is best
NOT_IN_EVALUATION = ("untrained", "every", "rows", "best", "patience")
NOT_IN_CHOICE = ("split", "batch_size", "limit", "untrained")


class StageRun:
    """One stage of a run: its settings, its folder, and everything that follows from them.

    Attributes:
        recipe: the whole `Recipe`.
        stage: the `recipe.Stage` as the recipe has it, in which a model may be `stage:<name>`.
        folder: where its model goes.
        runs: stage name -> `StageRun`, for all stages of the recipe.
        rows: split -> counts of its rows, as in `run.json`; filled when the trainer is built.
    """

    def __init__(self, recipe, stage, folder: Path, runs: dict[str, "StageRun"]):
        self.recipe, self.stage, self.folder, self.runs = recipe, stage, folder, runs
        self.name, self.task, self.is_labelled = stage.name, stage.task, stage.task in LABEL_TASKS
        self.rows: dict[str, dict] = {}

    @cached_property
    def resolved(self):
        """The stage with the folder of the named stage in place of every `stage:<name>`."""
        stage = self.stage
        rewards = {
            name: reward
            if stage_of(model := reward.params.get("model")) is None
            else reward.with_model(self._folder_of(model))
            for name, reward in stage.rewards.items()
        }
        changes = {
            "model": stage.model.model_copy(update={"name_or_path": self._folder_of(stage.model.name_or_path)}),
            "rewards": rewards,
            "trainer": dict(stage.trainer),
        }
        if "critic_name_or_path" in stage.trainer:
            changes["trainer"]["critic_name_or_path"] = self._folder_of(stage.trainer["critic_name_or_path"])
        if (classifiers := stage.evaluation.classifiers) is not None:
            folders = {kind: self._folder_of(model) for kind, model in classifiers}
            classifiers = classifiers.model_copy(update=folders)
            changes["evaluation"] = stage.evaluation.model_copy(update={"classifiers": classifiers})
        return stage.model_copy(update=changes)

    def _folder_of(self, model):
        """Return the folder of the stage that `stage:<name>` names; anything else as it is."""
        name = stage_of(model)
        return model if name is None else str(self.runs[name].folder)

    def trainer_config(self, config_class: str | None = None, **changes):
        """Return the trainer's config object: the recipe's `trainer:` section, the seed and the folder.

        Args:
            config_class: `module:Class`, if it is not the one of the task.
            **changes: replace settings of the recipe.

        Raises:
            UserError: what the config class itself refuses, in its own words; the best checkpoint is to be chosen by an
                unknown figure.
        """
        settings = {
            "report_to": "none",
            **self.resolved.trainer,
            "seed": self.stage.seed,
            "output_dir": str(self.folder),
        }
        settings |= changes
        if several_on_cpu():
            settings["use_cpu"] = True  # the config class joins the processes again, and on a CPU only if told to
        kind = import_class(config_class or CONFIG_CLASSES[self.task])
        try:
            config = kind(**settings)
        except (ValueError, ImportError) as error:
            keys, message = refusal(error, self.stage.trainer, kind)
            raise UserError(f"{'.'.join(('stages', self.name, 'trainer', *keys))}: {message}") from error
        chosen_by = config.metric_for_best_model
        if self.is_labelled and chosen_by and chosen_by.removeprefix("eval_") not in self.targets.figures:
            raise UserError(
                f"stages.{self.name}.trainer.metric_for_best_model: unknown figure "
                f"{show(chosen_by)}{suggestion(chosen_by, self.targets.figures)}"
            )
        return config

    def missing_packages(self) -> list[str]:
        """Return a line for every optional package that the stage needs and that is not installed: what to install."""
        stage = self.stage
        needed = {
            "vllm": stage.trainer.get("use_vllm"),
            "bitsandbytes": stage.model.load_in_4bit,
            "bert_score": stage.evaluation.bertscore,
            "deepspeed": Engine.here(stage.trainer).name.startswith("ZeRO"),
        }
        lines = {
            package: f'{package} (pip install "empathy-trl[{EXTRAS[package]}]")'
            for package, is_needed in needed.items()
            if is_needed
        }
        if stage.trainer.get("use_liger_kernel"):
            lines["liger_kernel"] = (
                "liger_kernel (pip install liger-kernel; TRL is about to replace it by the kernels of the Hub)"
            )
        trackers = stage.trainer.get("report_to") or []
        lines |= {
            name: f"{name} (pip install {name})"
            for name in ([trackers] if isinstance(trackers, str) else trackers)
            if name in TRACKERS
        }
        return [line for package, line in lines.items() if importlib.util.find_spec(package) is None]

    # Data

    @property
    def corpus(self):
        """The `data.base.Corpus` of the stage."""
        return corpus(self.stage.data.name, self.stage.data.builder)

    def dataset(self, split: str):
        """Return one split as the task needs it, a `datasets.Dataset`."""
        return build(self.stage.data, split, self.task)

    def local_rows(self) -> dict[str, tuple]:
        """Return split -> (rows, report) for the splits of training and evaluation; empty for data on the Hub.

        Raises:
            DataError: a file or a row cannot be used.
            UserError: from `targets`.
        """
        if self.is_labelled:
            self.targets  # noqa: B018 - what the labels do not allow is an error here
        if on_hub(self.stage.data.path, needs_owner=True):
            return {}
        watched = ["valid"] if self.stage.evaluation.every else []
        return {split: read_split(self.stage.data, split) for split in dict.fromkeys([*self._splits, *watched])}

    @property
    def _splits(self) -> list[str]:
        """The splits that a training without `evaluation.every` and the evaluation after it read."""
        chooses = ["valid"] if self.is_labelled else []  # the best checkpoint
        return list(dict.fromkeys(["train", *chooses, self.stage.evaluation.split]))

    @cached_property
    def row_digests(self) -> dict[str, str | None]:
        """Digests of the rows of `train` and, with `evaluation.every`, of `valid` (None for data on the Hub), and of `all` rows."""
        rows = self.local_rows()
        return {
            "train": digest(rows["train"][0]) if rows else None,
            "valid": digest(rows["valid"][0]) if rows and self.stage.evaluation.every else None,
            "all": digest([rows[split][0] for split in self._splits] if rows else []),
        }

    @cached_property
    def targets(self) -> Targets:
        """What a stage with task regress or classify learns to put out.

        Raises:
            UserError: pairs are to be learned from data without contexts, or from several ratings at once.
        """
        names = self.corpus.targets(self.stage.data)
        if not self.stage.is_pairwise:
            return Targets(self.task, names)
        key = f"stages.{self.name}.trainer.objective: pairwise"
        if not self.corpus.comparable:
            fitting = ", ".join(name for name in CORPORA if corpus(name).comparable)
            raise UserError(
                f"{key} compares replies to one context, and {self.stage.data.name} has none (data that do: {fitting})"
            )
        if len(names) != 1:
            raise UserError(f"{key} compares by one rating, not by {', '.join(names)}; name it with data.ranges")
        return Targets("compare", names)

    def tokenizer_texts(self, train) -> tuple[list[str], list[str]]:
        """Return the texts from which a tokenizer from scratch learns, and the tags that occur in prompts."""
        if self.is_labelled:
            return [text for column in ("text", "pair") if column in train.column_names for text in train[column]], []
        parts = [column for column in ("prompt", "completion") if column in train.column_names]
        texts = [message["content"] for row in train for part in parts for message in row[part]]
        return texts, sorted({tag for text in texts for tag in re.findall(r"</(\w+)>", text)})

    # Rewards and other judges

    def rewards_to_explain(self) -> dict:
        """Return name -> `Reward` of the stage, for `rewards.explain`.

        Raises:
            UserError: the stage has no rewards, or one asks the model of a stage that is not trained.
        """
        if not self.stage.rewards:
            having = [name for name, run in self.runs.items() if run.stage.rewards]
            raise UserError(f"--stage {self.name}: has no rewards (stages that have: {', '.join(having) or 'none'})")
        for name, reward in self.stage.rewards.items():
            judge = stage_of(reward.params.get("model"))
            if judge is not None and not self.runs[judge].folder.is_dir():
                flag = f"--stages.{self.name}.rewards.{name}.model"
                raise UserError(
                    f"rewards.{name}.model: stage {judge} has no model in {self.runs[judge].folder}; train it with "
                    f"empathy-trl run, name its folder with {flag} FOLDER, or leave the reward out with "
                    f"{flag.removesuffix('.model')} null"
                )
        return self.resolved.rewards

    def check_devices(self) -> None:
        """Raise UserError if the model of a reward is to be on a device that this machine does not have."""
        from empathy_trl.models.scorer import resolve_device

        for reward in self.stage.rewards.values():
            if reward.loads_model:
                try:
                    resolve_device(reward.device)
                except UserError as error:
                    raise UserError(f"stages.{self.name}.rewards.{reward.__name__}.{error}") from error

    def check_reward_models(self, ask_hub: bool = True) -> None:
        """Raise UserError if the model of a reward, unless a stage trains it, cannot be found or is of another kind.

        Args:
            ask_hub: with False, only folders are looked at.
        """
        from empathy_trl.models.classifier import check_scorer

        for name, reward in self.stage.rewards.items():
            model = reward.model if reward.loads_model else None
            if model and stage_of(model) is None and (ask_hub or user_path(model).is_dir()):
                try:
                    check_scorer(model, getattr(reward, "revision", None))
                except UserError as error:
                    raise UserError(f"stages.{self.name}.rewards.{name}.model: {error}") from error

    def vllm_problems(self, config, wait: bool = False) -> list[str]:
        """Return why vLLM cannot generate the completions of this stage here, one line for each reason.

        Args:
            config: `trainer_config()`.
            wait: wait for a server as long as the recipe's `vllm_server_timeout` says.
        """
        if not getattr(config, "use_vllm", False):
            return []
        from empathy_trl.models.generate import server_problem

        key, problems = f"stages.{self.name}.trainer", []
        if self.stage.model.from_scratch is not None:
            problems.append(
                f"{key}.use_vllm: true needs a saved model, and this one is made from scratch; train it in a stage before"
            )
        elif is_gguf(self.stage.model.name_or_path):
            problems.append(f"{key}.use_vllm: true reads no GGUF file; name the folder or the Hub id of the model")
        elif config.vllm_mode == "server":
            fields = ["base_url"] if config.vllm_server_base_url else ["host", "port"]
            address = config.vllm_server_base_url or f"http://{config.vllm_server_host}:{config.vllm_server_port}"
            seconds = self.stage.trainer.get("vllm_server_timeout", 0) if wait else 0
            if problem := server_problem(address.rstrip("/"), self._served_names(), seconds):
                problems.append(f"{', '.join(f'{key}.vllm_server_{field}' for field in fields)}: {problem}")
        if Engine.here().on_cpu or device_count() == 0:
            reason = (
                "receive trained weights with NCCL" if config.vllm_mode == "server" else "take over trained weights"
            )
            problems.append(f"{key}.use_vllm: true needs a GPU, because vLLM cannot {reason} on a CPU; set it to false")
        return problems

    def _served_names(self) -> list[str]:
        """Return the models that a vLLM server may serve for this stage: what it starts from, the earliest first."""
        from empathy_trl.models.hub_files import ADAPTER_FILE, adapter_base

        names, run = [], self
        while (source := stage_of(run.stage.model.name_or_path)) is not None:
            run = self.runs[source]
            names.insert(0, str(run.folder))
        if name := run.stage.model.name_or_path:
            names.insert(0, name)
            if (adapter := user_path(name) / ADAPTER_FILE).is_file():
                names.insert(0, adapter_base(adapter, name)[0])
        return names

    @property
    def _judge(self) -> "StageRun | None":
        """The stage whose rewards judge the replies: this one, or the next one that has rewards.

        A warm start is judged by the rewards of the stage that follows, so that the two can be compared.
        """
        later = list(self.runs)[list(self.runs).index(self.name) :]
        return next((self.runs[name] for name in later if self.runs[name].stage.rewards), None)

    @property
    def is_judged(self) -> bool:
        """Whether its completions are replies, which rewards judge in an evaluation."""
        return not self.is_labelled and self.corpus.evaluation in ("replies", "staged")

    @property
    def judging_rewards(self) -> dict:
        """Name -> `Reward` of the rewards that judge the replies in an evaluation."""
        return {} if self._judge is None else self._judge.resolved.rewards

    @property
    def judging_stages(self) -> set[str]:
        """The stages whose models judge the replies; they have to be trained before this one can be evaluated."""
        if self.is_labelled:
            return set()
        rewards = {} if self._judge is None else self._judge.stage.rewards
        models = [*self.stage.reply_classifiers.values(), *(reward.params.get("model") for reward in rewards.values())]
        return {stage_of(model) for model in models} - {None}

    # The folder

    @cached_property
    def fingerprint(self) -> str:
        """See `fingerprint`."""
        content = self.recipe.resolved()["stages"][self.name]
        earlier = self._fingerprints_before(self.name)
        if content["evaluation"].get("best") is not None:
            content["chosen_by"] = self._choice(content["evaluation"], earlier)
        return known_fingerprint(self.folder, content, earlier, self.row_digests["train"])

    def _choice(self, evaluation: dict, earlier: dict[str, str]) -> dict:
        """Return what decides which checkpoint `evaluation.best` keeps: settings, rows and judges."""
        decisive = {key: value for key, value in evaluation.items() if key not in NOT_IN_CHOICE}
        judges = self._judged_by(earlier) if self.is_judged else None
        return {"settings": decisive, "rows": self.row_digests["valid"], "judged_by": judges}

    def _fingerprints_before(self, name: str | None) -> dict[str, str]:
        names = list(self.runs)
        return {each: self.runs[each].fingerprint for each in names[: None if name is None else names.index(name)]}

    def read_folder(self) -> "StageFolder":
        """Return what the folder holds now; see `inspect_stage`."""
        return inspect_stage(self.folder, self.fingerprint)

    @property
    def evaluates_untrained(self) -> bool:
        """Whether its pretrained model is also evaluated before the training."""
        return self.stage.evaluation.untrained and starts_pretrained(self.task, self.stage.model.name_or_path)

    def evaluation_settings(self) -> dict:
        """Return what decides the results of the evaluation, as `run.json` notes it: settings, rows and judges."""
        settings = self.recipe.resolved()["stages"][self.name]["evaluation"]
        settings = {key: value for key, value in settings.items() if key not in NOT_IN_EVALUATION}
        judged_by = self._judged_by(self._fingerprints_before(None))
        return settings | {"rows": self.row_digests["all"], "judged_by": judged_by}

    def _judged_by(self, fingerprints: dict[str, str]) -> str:
        """Return a digest of the rewards and models that judge the replies; `fingerprints` are those of the stages."""
        contents = self.recipe.resolved()["stages"]
        judges = [judges_in(content["rewards"], fingerprints) for content in contents.values()]
        classifiers = {kind: {"model": model} for kind, model in self.stage.reply_classifiers.items()}
        judges.append(judges_in(classifiers, fingerprints))
        rewards = {
            name: {
                "weight": reward.as_yaml()["weight"],
                "params": dict(reward.params),
                "import_path": reward.import_path,
            }
            for name, reward in self.judging_rewards.items()
        }
        return digest([rewards, judges])

    def in_dtype_of_training(self, model):
        """Return a `recipe.Model` with the dtype that `auto` was under the adapter in the training, as `run.json` notes it."""
        if model.dtype != "auto" or model.lora is None:
            return model
        return model.model_copy(update={"dtype": self.read_folder().record.get("dtype", "auto")})

    def load_model(self, model=None) -> tuple:
        """Return a trained model and its tokenizer; for task regress or classify, its `Scorer` in place of the model.

        Args:
            model: `recipe.Model` that says which one; by default the stage's own, in its folder.

        Raises:
            UserError: it cannot be loaded, or its outputs are not those of the stage.
        """
        from empathy_trl.models.load import load_or_build
        from empathy_trl.models.scorer import shared_scorer

        if model is None:
            changes = {"name_or_path": str(self.folder), "revision": None, "from_scratch": None}
            model = self.in_dtype_of_training(self.stage.model.model_copy(update=changes))
        if not self.is_labelled:
            return load_or_build(model, seed=self.stage.seed, is_trainable=False)
        scorer = shared_scorer(model.name_or_path, model.revision)
        self._check_outputs(scorer.config, model.name_or_path)
        return scorer, scorer.tokenizer

    def _check_outputs(self, config, name: str) -> None:
        """Raise UserError unless a model has the outputs of the stage in the same order; LABEL_0, LABEL_1 … fit any."""
        names, expected = label_names(config), self.targets.names
        unnamed = all(re.fullmatch(r"LABEL_\d+", each) for each in names)
        if names != expected and not (unnamed and len(names) == len(expected)):
            what = (
                "its output is a bi-encoder's cosine" if is_bi_encoder(config) else f"its outputs are {listed(names)}"
            )
            raise UserError(f"{name}: {what}; those of stage {self.name} ({self.task}) are {listed(expected)}")


def stage_runs(recipe, folder: Path | dict[str, Path]) -> dict[str, StageRun]:
    """Return stage name -> `StageRun`, in the order of the recipe.

    Args:
        recipe: a checked `Recipe`.
        folder: of the run, with one folder per stage; or stage name -> its folder.
    """
    runs = {}
    for name, stage in recipe.stages.items():
        runs[name] = StageRun(recipe, stage, folder[name] if isinstance(folder, dict) else folder / name, runs)
    return runs


def fit_rows(stage, rows, split: str, model, tokenizer, config=None, numbers=()) -> tuple:
    """Shorten prompts until they fit into a model's positions; return the rows and how many prompts lost their oldest turns.

    Args:
        stage: a `recipe.Stage`.
        rows: a `datasets.Dataset`.
        split: name of the split, for messages.
        model, tokenizer: those of the stage; the model may be on the meta device.
        config: config of the trainer; None for an evaluation.
        numbers: row numbers in the split, if the rows are a selection.

    Raises:
        UserError: a prompt is still too long, or the trainer cuts texts to more tokens than the model reads.
    """
    from empathy_trl.models.limits import Limits, fit_prompts  # imports torch

    limits, max_length = Limits.of(model), getattr(config, "max_length", None)
    longest = min((each for each in (limits.reads, limits.writes) if each), default=None)
    is_cut = longest is None or (max_length is not None and max_length <= longest)  # by the trainer, which counts that
    fills_rows = getattr(config, "packing", False) and config.packing_strategy == "wrapped"
    if stage.task in LABEL_TASKS or fills_rows:
        if not is_cut:
            key = f"stages.{stage.name}.trainer.max_length"
            raise UserError(
                f"{key}: {max_length} is too much, because the model has {limits}; expected at most {longest}"
            )
        return rows, 0
    if config is None:
        completion, knob = stage.evaluation.max_new_tokens, "lower evaluation.max_new_tokens"
    elif stage.task != "sft":
        behind = [text for reward in stage.rewards.values() for text in reward.continuations]
        asked = max((len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in behind), default=0)
        completion, knob = (config.max_completion_length or 0) + asked, "lower trainer.max_completion_length"
    elif is_cut:
        return rows, 0
    else:
        completion, knob = None, f"set trainer.max_length: {longest}, which cuts it"
    settings = corpus(stage.data.name, stage.data.builder).settings
    knobs = [f"lower data.{key}" for key in ("max_words", "context_tokens") if key in settings]
    larger = "choose a model with more positions (from scratch: raise model.from_scratch.max_length)"
    advice = ", ".join([*knobs, knob, f"or {larger}"])
    where = f"stages.{stage.name}: {split}"
    return fit_prompts(model, tokenizer, rows, completion, where=where, advice=advice, numbers=numbers)


def fingerprint(stage: dict, earlier: dict[str, str], rows: str | None = None) -> str:
    """Return a hash of everything that decides a stage's weights, as far as it is known without reading a model.

    A model in a folder counts by the fingerprint of the run that made it: trained again with other settings, it is another
    model.

    Args:
        stage: the stage as resolved (`Recipe.resolved()["stages"][name]`).
        earlier: stage name -> fingerprint of the stages before it.
        rows: `digest` of the training rows, if they can be read before the run.
    """
    content = {key: value for key, value in stage.items() if key not in NOT_IN_FINGERPRINT}
    if content.get("rewards"):
        content["rewards"] = {name: _decisive(name, reward) for name, reward in content["rewards"].items()}
    parent = _made_by((stage["model"] or {}).get("name_or_path"), earlier)
    judges = judges_in(stage.get("rewards"), earlier)
    critic = _made_by((stage.get("trainer") or {}).get("critic_name_or_path"), earlier)
    more = ({"judges": judges} if judges else {}) | ({"critic": critic} if critic else {})
    template = template_file((stage["model"] or {}).get("chat_template"))
    if template is not None and template.is_file():
        more["chat_template"] = digest(read_text(template))
    return digest({**content, "parent": parent, "rows": rows} | more)


def known_fingerprint(path: Path, stage: dict, earlier: dict[str, str], rows: str | None) -> str:
    """Return `fingerprint`, or that of the run in a stage's folder if the two recipes differ only in form.

    Fingerprints of version 0.1 include trainer fields without effect, which are now refused. They also include paths as they
    were written, so that `model/` and `model` differed.
    """
    own, record = fingerprint(stage, earlier, rows), json_or_none(path / RUN_FILE)
    if record is None or record.get("fingerprint") == own:
        return own
    try:
        before = read_yaml(path / RECIPE_FILE)["stages"][record["stage"]]
        dropped = {
            key: before["trainer"][key] for key in fields_without_effect(stage["task"]) if key in before["trainer"]
        }
        written = _as_written(stage, before)
    except (UserError, KeyError, TypeError):  # not a run of ours, or cut short by a crash
        return own
    known = fingerprint({**written, "trainer": dropped | written["trainer"]}, earlier, rows)
    return known if known == record.get("fingerprint") else own


def _as_written(content, before):
    """Return plain data with its paths written as in an earlier version of these data."""
    if isinstance(content, dict) and isinstance(before, dict):
        return {key: _as_written(value, before.get(key)) for key, value in content.items()}
    if isinstance(content, str) and isinstance(before, str) and before and user_name(before) == content:
        return before
    return content


def judges_in(rewards: dict | None, earlier: dict[str, str]) -> dict[str, str]:
    """Return reward -> fingerprint of the run that made its model, for rewards in a resolved section that have one.

    The model is that of an earlier stage, as in `model: stage:reward`, or lies in the folder of another run.
    """
    made = {name: _made_by(entry.get("model"), earlier) for name, entry in (rewards or {}).items()}
    return {name: fingerprint for name, fingerprint in made.items() if fingerprint is not None}


def _made_by(model, earlier: dict[str, str]) -> str | None:
    """Return the fingerprint of the run that made a model; None for a model from elsewhere."""
    if not isinstance(model, str):
        return None
    if (stage := stage_of(model)) is not None:
        return earlier.get(stage)
    record = json_or_none(user_path(model) / RUN_FILE)
    return None if record is None else record.get("fingerprint")


def _decisive(name: str, reward: dict) -> dict:
    """Return a reward without its `operational` parameters: with a longer timeout it is the same run."""
    operational = () if "import" in reward or name not in REWARDS else REWARDS[name].operational
    return {key: value for key, value in reward.items() if key not in operational}


@dataclass
class StageFolder:
    """One stage's output folder.

    Attributes:
        path: where the model and everything about it goes.
        status: `new`, `interrupted` or `complete`.
        checkpoint: the last usable checkpoint of an interrupted run, if there is one.
        record: the content of `run.json`.
    """

    path: Path
    status: str
    checkpoint: Path | None
    record: dict

    def save(self, **changes):
        """Write `run.json` with `changes`; the file is replaced in one go."""
        self.record.update(changes)
        write_text(self.path / RUN_FILE, json.dumps(self.record, indent=2) + "\n")


def inspect_stage(path: Path, fingerprint: str) -> StageFolder:
    """Look at a stage's output folder without changing it.

    Raises:
        UserError: the folder holds files, but no readable `run.json`: it was not made by this launcher.
    """
    record = _read_record(path)
    if record is None or record["fingerprint"] != fingerprint:
        return StageFolder(path, "new", None, {"fingerprint": fingerprint})
    if record["status"] == "complete":
        return StageFolder(path, "complete", None, record)
    return StageFolder(path, "interrupted", last_checkpoint(path), record)


def archive_other_run(path: Path, fingerprint: str, fresh: bool) -> str | None:
    """Clear the folder for a run with this fingerprint; returns what was done, None if nothing had to be.

    A run with other settings is renamed to `<folder>.<its fingerprint>`, and comes back when its settings do. `fresh`
    deletes the run in the folder. What a killed process left unfinished is deleted, too.
    """
    record = _read_record(path)
    if path.is_dir():
        remove_unfinished(path)
        if record is None:
            with suppress(OSError):
                path.rmdir()  # a kept run can then come back
    if record is not None and fresh:
        # renamed first: if the process is killed here, the rest would count as a complete stage, or as a user's own files
        doomed = path.rename(path.with_name(f".{path.name}.{os.getpid()}.tmp"))
        shutil.rmtree(doomed)
        return f"deleted {path} (--fresh)"
    messages = []
    if record is not None and record["fingerprint"] != fingerprint:
        archive = _unused(path.with_name(f"{path.name}.{record['fingerprint']}"))
        path.rename(archive)
        messages.append(f"{path} was made with other settings or data; it is kept as {archive}")
    archive = path.with_name(f"{path.name}.{fingerprint}")
    if not fresh and not path.exists() and archive.exists():
        archive.rename(path)
        messages.append(f"{path} was restored from {archive}")
    return "; ".join(messages) or None


def _unused(path: Path) -> Path:
    number = 2
    free = path
    while free.exists():
        free = path.with_name(f"{path.name}-{number}")
        number += 1
    return free


def _read_record(path: Path) -> dict | None:
    if not path.exists() or (path.is_dir() and is_empty(path)):
        return None
    record = json_or_none(path / RUN_FILE)
    if record is None or not {"fingerprint", "status"} <= record.keys():
        raise UserError(
            f"{path}: exists, but has no {RUN_FILE} written by this launcher; move it away or choose another --output_dir"
        )
    return record


def last_checkpoint(path: Path) -> Path | None:
    """Return the newest `checkpoint-N` in `path` whose files are whole, or None."""
    return next((folder for folder in _newest_first(path) if _is_whole(folder)), None)


def _newest_first(path: Path) -> list[Path]:
    """Return the folders `checkpoint-N` in `path`."""
    checkpoints = [folder for folder in path.glob("checkpoint-*") if folder.name.split("-")[-1].isdigit()]
    return sorted(checkpoints, key=lambda folder: int(folder.name.split("-")[-1]), reverse=True)


def remove_broken_checkpoints(path: Path) -> None:
    """Delete the half-written and half-deleted checkpoints of a killed process in `path`.

    They would count towards `save_total_limit` instead of complete ones.
    """
    newest = last_checkpoint(path)
    for folder in _newest_first(path):
        if not _is_whole(folder) or _kinds_of_files(newest) - _kinds_of_files(folder):
            shutil.rmtree(folder)


def _kinds_of_files(checkpoint: Path) -> set[str]:
    """Return the names of a checkpoint's files without the numbers of processes and parts."""
    return {re.sub(r"\d+", "", file.name) for file in checkpoint.iterdir()}


def saved_by(checkpoint: Path) -> int:
    """Return how many processes saved their random states in a checkpoint."""
    return len(list(checkpoint.glob("rng_state*.pth")))


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end; the trainer writes `trainer_state.json` last."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        for file in checkpoint.glob("*.safetensors"):
            with safe_open(file, framework="numpy"):
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    return isinstance(state, dict) and all(zipfile.is_zipfile(file) for file in checkpoint.glob("*.pt*"))
