"""The model card of a trained stage: the template `card.md.jinja`, filled with what lies in the stage's folder.

A card needs no network and nothing but the folder, so it can be made again at any time. What is missing there (an evaluation,
samples, a curve) is left out or said to be missing. Names, paths and parameters come from recipes of other people: they pass
through `stage_folder.text` or `stage_folder.code`, or through YAML in the metadata.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from empathy_trl.chat.setup import Prompts
from empathy_trl.data import on_hub
from empathy_trl.errors import UserError
from empathy_trl.evaluation import evaluator
from empathy_trl.evaluation.base import NAMES, markdown
from empathy_trl.evaluation.metrics.bootstrap import with_interval
from empathy_trl.hub.results import source_name, to_results
from empathy_trl.hub.stage_folder import StageFiles, code, fenced, lineage, local_name, origin, read_stage_files, text
from empathy_trl.recipe.layers import stage_of
from empathy_trl.recipe.schema import HUB_MODEL, SAMPLE
from empathy_trl.rewards import REWARDS
from empathy_trl.rewards.base import Reward

TEMPLATE = Path(__file__).with_name("card.md.jinja")
CITATIONS = Path(__file__).with_name("citations.bib")
CARD_FILE, NOTES_FILE = "README.md", "notes.md"
TAG = "empathy-trl"  # the tag of all our models on the Hub

# task, or objective of a reward model -> how the table of stages calls it
METHODS = {
    "sft": "imitation of examples (supervised fine-tuning)",
    "grpo": "reinforcement from rewards (GRPO)",
    "ppo": "reinforcement from rewards, with a learned critic (PPO)",
    "regress": "learning of ratings",
    "classify": "learning of labels",
    "pairwise": "learning of which reply is better (pairs)",
}
METHOD_CITATIONS = {"grpo": ("shao2024",), "ppo": ("schulman2017",)}
PAIRWISE = (
    "reads what somebody said and a reply to it, and gives the reply a score; of two replies, the better one gets the "
    "higher score"
)
# the settings of `trainer` that a reader looks for -> what they are called
SETTING_WORDS = {
    "learning_rate": "learning rate",
    "lr_scheduler_type": "learning rate schedule",
    "max_steps": "optimizer steps",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch per device",
    "gradient_accumulation_steps": "batches accumulated",
    "num_generations": "answers per prompt",
    "num_iterations": "passes over each batch of answers",
    "max_completion_length": "maximum tokens of an answer",
    "max_length": "maximum tokens of a text",
    "temperature": "temperature of the answers",
    "beta": "weight of the KL penalty",
    "kl_coef": "weight of the KL penalty",
    "epsilon": "clipping range",
    "loss_type": "loss",
    "loss": "loss",
    "bf16": "bfloat16",
}


def model_card(folder: Path, repo_id: str, merged: bool = False) -> str:
    """Return the text of README.md for a stage's model: metadata in YAML, and Markdown.

    Args:
        folder: the folder of the stage, as `run.py` leaves it.
        repo_id: the model's id on the Hub, now or later: `user/name`.
        merged: the adapter in the folder is published as a whole model.

    Raises:
        UserError: the folder is not the folder of a stage, or `repo_id` is not a Hub id.
    """
    if not HUB_MODEL.fullmatch(repo_id):
        raise UserError(f"{repo_id!r} is not a Hub id; expected name or user/name")
    files = read_stage_files(Path(folder))
    stages = lineage(files.recipe, files.name)
    sources = list(dict.fromkeys(training_data(stage["data"]) for stage in stages.values()))
    licence_keys, licence_words = licence(files.base, files.from_scratch, sources)
    is_adapter = files.is_adapter and not merged
    builder, record = files.data.get("name"), files.record
    notes = files.folder / NOTES_FILE
    card = ModelCard.from_template(
        _metadata(files, repo_id, is_adapter, sources, licence_keys),
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        # functions
        text=text, code=code, fenced=fenced, literal=_literal, stage_of=stage_of, method_of=_method_of,
        # the model and how to use it
        files=files, repo_id=repo_id, model_name=repo_id.split("/")[-1], is_adapter=is_adapter,
        start_of=origin(files.recipe, files.name), purpose=_purpose(files), system=SYSTEMS.get(builder),
        example=SCORED.get(builder, SCORED["emotions"]), messages=_example_messages(files), tags=TAGS.get(builder),
        sampling={"max_new_tokens": 300, "temperature": 0.0, "top_p": 1.0, "top_k": 0} | (files.stage.get("evaluation") or {}),
        is_last_stage=files.name == list(files.recipe["stages"])[-1],
        results=[_result(evaluation) for evaluation in files.evaluations.values()],
        # where it comes from
        sources=sources, licence=licence_words, stages=stages, methods=METHODS, setting_words=SETTING_WORDS,
        trainer=files.stage.get("trainer") or {}, rewards=_rewards(files.stage.get("rewards") or {}),
        hardware=_hardware(record), duration=duration(record.get("train_seconds")), energy=_energy(record),
        grams=emissions(record), versions=record["versions"] if isinstance(record.get("versions"), dict) else {},
        local_data=_local_data(stages), notes=notes.read_text(encoding="utf-8").strip() if notes.is_file() else "",
        citations=_citations(files, sources),
    )  # fmt: skip
    return f"{card.content.rstrip()}\n"


def _metadata(files: StageFiles, repo_id: str, is_adapter: bool, sources: list, licence_keys: dict) -> ModelCardData:
    """Return what the Hub and programs read."""
    grams = emissions(files.record)
    carbon = None if grams is None else {
        "emissions": grams,
        "source": "energy counters of the GPUs, times the carbon intensity that the author states",
        "training_type": "fine-tuning",
        "hardware_used": ", ".join(map(str, (files.record.get("hardware") or {}).get("gpus") or [])),
    }  # fmt: skip
    return ModelCardData(
        language="en",
        **licence_keys,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-classification" if files.scores_texts else "text-generation",
        base_model=files.base,
        base_model_relation=("adapter" if is_adapter else "finetune") if files.base else None,
        tags=[TAG, "trl", str(files.task)],
        datasets=list(dict.fromkeys(source.hub_id for source in sources if source.hub_id)) or None,
        co2_eq_emissions=carbon,
        model_name=repo_id.split("/")[-1],
        eval_results=[result for each in files.evaluations.values() for result in to_results(each)] or None,
    )


def _purpose(files: StageFiles) -> str:
    """Return what the model does, for a reader who does not know the project."""
    if files.is_pairwise:
        return PAIRWISE
    return (SCORES if files.scores_texts else WRITES).get(files.data.get("name"), "works on texts")


def _example_messages(files: StageFiles) -> list[dict]:
    """Return a prompt in the form that the model was trained on."""
    name = files.data.get("name")
    prompts = Prompts(name=name, data=files.data)
    return prompts.messages([{"role": "user", "content": SAYS.get(name, "I did not sleep last night.")}])


def _literal(value) -> str:
    """Return a text, or a sequence of texts, as Python source in double quotes."""
    return json.dumps(value, ensure_ascii=False)


def _method_of(stage: dict) -> str:
    """Return a key of `METHODS`."""
    objective = (stage.get("trainer") or {}).get("objective")
    return "pairwise" if objective == "pairwise" else str(stage.get("task"))


def _result(evaluation: dict) -> dict:
    """Return what the card says of one evaluation: its data, its source, the table, and the note below."""
    data, metrics, baselines = evaluation["data"], evaluation["metrics"], evaluation["baselines"]
    kind = evaluator(evaluation["kind"])
    try:
        titles = kind.column_titles(evaluation)
    except (KeyError, TypeError):  # an evaluation of another version
        titles = {key: key.replace("_", " ") for key in metrics}
    rows = [["", "**this model**", *(text(NAMES.get(name, name)) for name in baselines), "n"]]
    for key in [key for key in titles if key in metrics]:
        cells = [with_interval(row[key]) if key in row else "" for row in baselines.values()]
        rows.append([text(titles[key]), f"**{with_interval(metrics[key])}**", *cells, metrics[key]["n"]])
    source, name = source_name(data["source"]), code(data["name"])
    return {
        "data": data,
        "source": f"the embedded corpus {name}" if source == SAMPLE else f"{code(source)}, read as {name}",
        "table": markdown(rows),
        "note": kind.note.replace("`docs/figures.md`", "`docs/figures.md` of empathy-trl"),
    }


def _rewards(rewards: dict[str, dict]) -> list[dict]:
    """Return the rows of the table of rewards."""
    rows = []
    for name, entry in rewards.items():
        reward = REWARDS.get(name, Reward)
        pays_for, misses = reward.card, reward.misses
        if entry.get("import"):
            pays_for, misses = f"the author's own: {code(entry['import'])}", ""
        hidden = {"weight", "import", *reward.operational}
        settings = ", ".join(code(f"{key}: {value}") for key, value in entry.items() if key not in hidden)
        weight = entry.get("weight", 1.0)
        rows.append({"name": name, "weight": weight, "pays_for": pays_for, "misses": misses, "settings": settings})
    return rows


def _local_data(stages: dict[str, dict]) -> list[str]:
    """Return the local data that someone who repeats the run does not have."""
    paths = dict.fromkeys(str(stage["data"].get("path", SAMPLE)) for stage in stages.values())
    return [code(local_name(path)) for path in paths if path != SAMPLE and source_name(path) != path]


def _citations(files: StageFiles, sources: list) -> str:
    """Return the BibTeX entries of this package, the system, the method, the base model, the data and the rewards, each once."""
    entries = dict(
        re.findall(r"^(?=@\w+\{(\w+),)(.*?^\})$", CITATIONS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    )
    keys = ["empathy_trl", *OF_BUILDER.get(files.data.get("name"), ()), *METHOD_CITATIONS.get(files.task, ())]
    keys += ["peng2022"] if "GODEL" in (files.base or "") else []
    keys += [key for source in sources for key in source.citations]
    ours = [name for name, entry in (files.stage.get("rewards") or {}).items() if not entry.get("import")]
    keys += [key for name in ours for key in REWARDS.get(name, Reward).citations]
    return "\n\n".join(entries[key] for key in dict.fromkeys(keys))


# ---- what `run.json` says of the machine ----


def _hardware(record: dict) -> str:
    """Return the machine in words; "" where it is not known."""
    hardware = record.get("hardware") if isinstance(record.get("hardware"), dict) else {}
    gpus = [str(gpu) for gpu in hardware.get("gpus") or []]
    parts = [f"{gpus.count(name)} × {text(name)}" for name in dict.fromkeys(gpus)]
    if hardware and not parts:
        parts = ["no GPU"]
    if hardware.get("cpu"):
        parts.append(f"{text(hardware.get('cores'))} cores of {text(hardware['cpu'])}")
    if hardware.get("memory_gb"):
        parts.append(f"{text(hardware['memory_gb'])} GB of memory")
    return f"a machine with {', '.join(parts)}" if parts else ""


def duration(seconds: float | None) -> str:
    """Return seconds in words: `95 s`, `12 min`, `3.5 h`; "" for what is not a number."""
    if not _is_number(seconds):
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def emissions(record: dict) -> float | None:
    """Return grams of CO2-equivalent from measured energy; None where either factor is not known."""
    energy = _energy(record)
    if energy is None or not _is_number(energy.get("grams_per_kwh")):
        return None
    return round(energy["kwh"] * energy["grams_per_kwh"], 3)


def _energy(record: dict) -> dict | None:
    energy = record.get("energy")
    return energy if isinstance(energy, dict) and _is_number(energy.get("kwh")) else None


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# ---- training data and licences ----


@dataclass(frozen=True)
class TrainingData:
    """A row of the card's table of training data.

    Attributes:
        name: Markdown.
        licence: an identifier of the Hub, or None where it is not known.
        licence_words: Markdown, for people.
        origin: Markdown: who wrote the texts.
        citations: keys of `citations.bib`.
        hub_id: the Hub id, or None.
    """

    name: str
    licence: str | None
    licence_words: str
    origin: str
    citations: tuple[str, ...] = ()
    hub_id: str | None = None


_ED = "conversations of crowd workers about their feelings (Rashkin et al. 2019)"
# Hub id -> licence, words for it, source, citation
ON_HUB = {
    "facebook/empathetic_dialogues": ("cc-by-nc-4.0", "CC BY-NC 4.0: no commercial use", _ED, ("rashkin2019",)),
    "community-datasets/re_dial": (
        "cc-by-4.0",
        "CC BY 4.0",
        "conversations of crowd workers who recommend films to each other (ReDial, Li et al. 2018)",
        ("li2018",),
    ),
    "leonvanbokhorst/react-respond-reflect-v1": (
        None,
        "its page names none",
        "written dialogues, mostly by a language model, for the system EMPATH",
        (),
    ),
}
# builder -> what its files usually hold, for somebody who wonders about a local folder
USUAL = {
    "ed4": ("ED_easy_4, which comes from EmpatheticDialogues, CC BY-NC 4.0 applies", ("rashkin2019",)),
    "wassa": ("the turns of the WASSA shared task, they are to be had from its organisers only", ("giorgi2024",)),
    "dialogues": ("EmpatheticDialogues, CC BY-NC 4.0 applies", ("rashkin2019",)),
    "redial": ("ReDial, CC BY 4.0 applies", ("li2018",)),
    "empath": ("react-respond-reflect, see the licence of its repository", ()),
    "emotions": ("EmpatheticDialogues, CC BY-NC 4.0 applies", ("rashkin2019",)),
    "intents": ("EmpatheticIntents, which comes from EmpatheticDialogues, CC BY-NC 4.0 applies", ("welivita2020",)),
    "epitome": ("the pairs of EPITOME, they are to be had from their authors only", ("sharma2020",)),
}


def training_data(data: dict) -> TrainingData:
    """Return what is known of a `data` section of a resolved recipe."""
    builder, path = str(data.get("name")), str(data.get("path", SAMPLE))
    if path == SAMPLE:
        source = "written for empathy-trl; no texts of real people, labels and ratings by their authors"
        return TrainingData(f"embedded corpus {code(builder)} of empathy-trl", "apache-2.0", "Apache-2.0", source)
    if on_hub(path):
        licence, words, source, cite = ON_HUB.get(path, (None, "see its page", "see its page", ()))
        revision = f", revision {code(data['revision'])}" if data.get("revision") else ""
        return TrainingData(
            f"[{code(path)}](https://huggingface.co/datasets/{path}){revision}", licence, words, source, cite, path
        )
    usual, cite = USUAL.get(builder, (None, ()))
    hint = f"; if it is {usual}" if usual else ""
    name = f"local data {code(local_name(path))} (read as {code(builder)})"
    return TrainingData(name, None, f"not stated{hint}", "the author's own data", cite)


# what ask for no more than to be named
PERMISSIVE = ("apache-2.0", "mit", "cc-by-4.0")
# of the base models of our recipes; `bsd`, `gemma` and so on are the Hub's identifiers
OF_BASE = {
    "google/gemma-2-2b-it": "gemma",
    "Qwen/Qwen2.5-1.5B-Instruct": "apache-2.0",
    "Qwen/Qwen2.5-3B-Instruct": "qwen-research",
    "meta-llama/Llama-3.1-8B-Instruct": "llama3.1",
    "meta-llama/Llama-2-7b-chat-hf": "llama2",
    "microsoft/GODEL-v1_1-base-seq2seq": "mit",
    "FacebookAI/roberta-base": "mit",
    "roberta-base": "mit",
}
# licences for which the Hub has no identifier -> its page
NAMED = {"qwen-research": "https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/blob/main/LICENSE"}


def licence(base: str | None, from_scratch: bool, corpora: list[TrainingData]) -> tuple[dict, str]:
    """Return the front matter's keys about the licence, and a sentence for people.

    Args:
        base: Hub id of the base model, None for one that is not on the Hub.
        from_scratch: whether there is no base model at all.
        corpora: the training data.
    """
    of_base = OF_BASE.get(base)
    found = {corpus.licence for corpus in corpora} | (set() if from_scratch else {of_base})
    if None in found:
        gaps = [corpus.name for corpus in corpora if corpus.licence is None]
        gaps += ["the base model"] * (not from_scratch and of_base is None)
        known = f" That of the base model is {of_base}." if of_base else ""
        words = f"unknown, because nothing is recorded here of that of {', '.join(dict.fromkeys(gaps))}.{known}"
        return {"license": "unknown"}, f"{words} Ask the author before you use the model."
    strict = sorted(found.difference(PERMISSIVE))
    if len(strict) > 1:
        keys = {"license": "other", "license_name": "several"}
        return keys, f"several at once: {', '.join(strict)}. Keep to all of them."
    if strict and strict[0] in NAMED:
        return {"license": "other", "license_name": strict[0], "license_link": NAMED[strict[0]]}, f"{strict[0]}."
    only = strict[0] if strict else of_base or min(found, key=PERMISSIVE[::-1].index)
    careful = only == "cc-by-nc-4.0"
    words = f"{only}." + (
        " That is the licence of the training data; whether it binds a model is disputed, and this is the careful reading: no "
        "commercial use." if careful else ""
    )  # fmt: skip
    return {"license": only}, words


OF_BUILDER = {
    "ed4": ("you2025",),
    "wassa": ("giorgi2024",),
    "redial": ("zhang2024",),
    "epitome": ("sharma2020",),
    "intents": ("welivita2020",),
}


# data.name -> what a model that writes does
WRITES = {
    "ed4": "reads a short description of a situation, writes a line of reasoning, and names the emotion that the situation "
    "expresses: sad, joyful, angry or afraid",
    "wassa": "answers what somebody says, in one or two sentences that are meant to show empathy, after a line of reasoning",
    "dialogues": "answers what somebody tells in a conversation, in one or two sentences that are meant to show empathy",
    "redial": "talks with somebody who looks for a film, responds to how they feel, and recommends one",
    "empath": "answers in a conversation in three parts: a reaction that shows at once (face and posture), what is said, and a "
    "thought that is not said and that its next answer builds on",
}
# data.name -> what a model that scores does
SCORES = {
    "wassa": "reads one turn of a conversation and rates it: how intense the emotion is, whether it is positive or negative, and "
    "how much empathy it shows",
    "rated_replies": "reads what somebody said and a reply to it, and rates the reply",
    "emotions": "reads a short description of a situation and names which of 32 emotions it expresses",
    "intents": "reads what a listener answers and names what the answer does: console, question, encourage and so on, nine in all",
    "epitome": "reads the post of somebody in trouble and a response to it, and rates three ways in which the response may show "
    "empathy, each from 0 to 2: emotional reactions, interpretations, explorations",
}
# a published system that the builder's recipes follow
SYSTEMS = {
    "ed4": "RREC-Emotion on ED_easy_4",
    "wassa": "a system for the WASSA shared task on empathy",
    "dialogues": "RLHF-GODEL",
    "redial": "ECR (empathetic conversational recommendation)",
    "empath": "EMPATH (react, respond, reflect) by Leon van Bokhorst",
}

# data.name -> what somebody says, in an example
SAYS = {
    "ed4": "Somebody broke into our car last night and I still check every lock twice.",
    "wassa": "Our street was flooded, and my grandmother had to be carried out of her house.",
    "dialogues": "I did not get the job that I was hoping for.",
    "redial": "Hi! I had an awful week. Which film would cheer me up?",
    "empath": "I keep thinking about the exam that I failed yesterday.",
}
# data.name -> text, and its pair where the model reads two
SCORED = {
    "wassa": ("I am so sorry that you lost your home. Is your family safe?",),
    "emotions": ("I open the letter box every hour, although the answer is not due before Friday.",),
    "intents": ("That must have been a hard year for you.",),
    "epitome": ("I lost my job and nobody seems to care.", "I am so sorry. Which part of it weighs most on you?"),
    "rated_replies": ("I lost my job and nobody seems to care.", "I am so sorry. Which part of it weighs most on you?"),
}
PAIRED = ("epitome", "rated_replies")
TAGS = {"empath": ("react", "respond", "reflect"), "ed4": ("reasoning", "answer"), "wassa": ("reasoning", "answer")}
