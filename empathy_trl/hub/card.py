"""The model card of a trained stage: the template `card.md.jinja`, filled from the files in the stage's folder.

A card needs only the folder and no network, so it can be written again at any time. A missing part (an evaluation,
samples, a curve) is left out or marked as missing. Names, paths and parameters come from other people's recipes, so
they are escaped by `stage_folder.text` or `stage_folder.code`, or by YAML in the metadata.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from huggingface_hub import ModelCard, ModelCardData

from empathy_trl.chat.prompts import Prompts
from empathy_trl.data import corpus
from empathy_trl.data.base import Corpus
from empathy_trl.data.sources import Published
from empathy_trl.errors import UserError
from empathy_trl.evaluation import evaluator
from empathy_trl.evaluation.base import NAMES, describe_cuts, markdown
from empathy_trl.evaluation.metrics.bootstrap import with_interval
from empathy_trl.hub.results import source_name, to_results
from empathy_trl.hub.stage_folder import StageFiles, code, fenced, lineage, local_name, origin, read_stage_files, text
from empathy_trl.io import is_hub_id, on_hub, user_path, write_text
from empathy_trl.recipe.layers import RECIPE_FILE, stage_of
from empathy_trl.recipe.schema import SAMPLE
from empathy_trl.rewards import REWARDS
from empathy_trl.rewards.base import Reward
from empathy_trl.tags import repairs_in
from empathy_trl.text import in_markdown

TEMPLATE = Path(__file__).with_name("card.md.jinja")
CITATIONS = Path(__file__).with_name("citations.bib")
CARD_FILE, NOTES_FILE = "README.md", "notes.md"
TAG = "empathy-trl"  # the tag of all our models on the Hub

METHOD_CITATIONS = {"grpo": ("shao2024",), "ppo": ("schulman2017",)}


def write_card(folder: Path) -> Path:
    """Write README.md into a stage's folder; a stage with `hub:` is called by its repository there, any other by its folder."""
    hub = read_stage_files(folder).stage.get("hub") or {}
    return write_text(folder / CARD_FILE, model_card(folder, hub.get("repo_id")))


def model_card(folder: Path, repo_id: str | None = None, merged: bool = False) -> str:
    """Return the text of README.md for a stage's model: metadata in YAML, and Markdown.

    Args:
        folder: the folder of the stage, as `run.py` leaves it.
        repo_id: the model's id on the Hub, now or later: `user/name`; None for a model that stays in its folder.
        merged: the adapter in the folder is published as a whole model.

    Raises:
        UserError: the folder is not the folder of a stage, or `repo_id` is not a Hub id.
    """
    if repo_id is not None and not is_hub_id(repo_id):
        raise UserError(f"{repo_id!r} is not a Hub id; expected name or user/name")
    folder = user_path(folder)
    files = read_stage_files(folder)
    stages = lineage(files.recipe, files.name)
    sources = list(dict.fromkeys(training_data(stage["data"]) for stage in stages.values()))
    licence_keys, licence_words = licence(files.base, files.from_scratch, sources)
    is_adapter = files.is_adapter and not merged
    known, record = _corpus(files.data) or Corpus, files.record
    title = repo_id.split("/")[-1] if repo_id else f"{files.recipe.get('name')}-{files.name}"
    notes = folder / NOTES_FILE
    card = ModelCard.from_template(
        _metadata(files, title, is_adapter, sources, licence_keys),
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        # functions
        text=text, code=code, fenced=fenced, literal=_literal, quote=quote, stage_of=stage_of, local_name=local_name,
        # the model and how to use it
        files=files, title=title, model=repo_id or str(folder), is_adapter=is_adapter,
        recipe=f"hub:{repo_id}" if repo_id else str(folder / RECIPE_FILE),
        start_of=origin(files.recipe, files.name), purpose=_purpose(files), system=known.follows,
        example=known.scored, messages=_example_messages(files), rewritten=_rewritten(files), tags=known.reply_tags,
        sampling={"max_new_tokens": 300, "temperature": 0.0, "top_p": 1.0, "top_k": 0} | (files.stage.get("evaluation") or {}),
        is_last_stage=files.name == list(files.recipe["stages"])[-1],
        results=[_result(each, *files.over_seeds(each)) for each in files.evaluations.values()],
        # where it comes from
        sources=sources, licence=licence_words, stages=stages,
        trainer=files.stage.get("trainer") or {}, rewards=_rewards(files.stage.get("rewards") or {}),
        advice=[f"step {each['step']}: {in_markdown(each['message'])}." for each in record.get("advice", [])],
        hardware=_hardware(record), duration=duration(record.get("train_seconds")), energy=_energy(record),
        grams=emissions(record), versions=record["versions"] if isinstance(record.get("versions"), dict) else {},
        local_data=_local_data(stages), notes=notes.read_text(encoding="utf-8").strip() if notes.is_file() else "",
        citations=_citations(files, sources),
    )  # fmt: skip
    return f"{card.content.rstrip()}\n"


def _metadata(files: StageFiles, title: str, is_adapter: bool, sources: list, licence_keys: dict) -> ModelCardData:
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
        base_model_relation=("adapter" if is_adapter and not files.local_base else "finetune") if files.base else None,
        tags=[TAG, "trl", str(files.task)],
        datasets=list(dict.fromkeys(source.hub_id for source in sources if source.hub_id)) or None,
        co2_eq_emissions=carbon,
        model_name=title,
        eval_results=[result for each in files.evaluations.values() for result in to_results(each)] or None,
    )


def _purpose(files: StageFiles) -> str:
    """Return what the model does, for a reader who does not know the project."""
    known = _corpus(files.data)
    purpose = (known.scores if files.scores_texts else known.writes) if known else ""
    return purpose or "works on texts"


def _example_messages(files: StageFiles) -> list[dict]:
    """Return a prompt in the form that the model was trained on."""
    known = _corpus(files.data)
    prompts = Prompts(name=files.data["name"], data=files.data) if known else Prompts()
    return prompts.messages([{"role": "user", "content": (known or Corpus).says}])


def _rewritten(files: StageFiles) -> list[str]:
    """Return how the model's chat template rewrites that prompt, see `tags.REPAIRS`."""
    path = files.folder / "chat_template.jinja"
    template = path.read_text(encoding="utf-8") if path.is_file() else ""
    return repairs_in(template, [_example_messages(files)]) if template else []


def _literal(value) -> str:
    """Return a text, or a sequence of texts, as Python source in double quotes."""
    return json.dumps(value, ensure_ascii=False)


def _result(evaluation: dict, seeds: list[int], over_seeds: dict[str, dict]) -> dict:
    """Return what the card says of one evaluation: its data, its source, the table, and the note below.

    Args:
        evaluation: content of `eval_<split>.json`.
        seeds, over_seeds: as `StageFiles.over_seeds` returns them.
    """
    data, metrics, baselines = evaluation["data"], evaluation["metrics"], evaluation["baselines"]
    kind = evaluator(evaluation["kind"])
    try:
        titles = kind.column_titles(evaluation)
    except (KeyError, TypeError):  # an evaluation of another version
        titles = {key: key.replace("_", " ") for key in metrics}
    of_seeds = [f"seeds {', '.join(map(str, seeds))}"] if seeds else []
    rows = [["", "**this model**", *of_seeds, *(text(NAMES.get(name, name)) for name in baselines), "n"]]
    for key in [key for key in titles if key in metrics]:
        cells = [with_interval(row[key]) if key in row else "" for row in baselines.values()]
        mean = [with_interval(over_seeds[key]) if key in over_seeds else ""] if seeds else []
        rows.append([text(titles[key]), f"**{with_interval(metrics[key])}**", *mean, *cells, metrics[key]["n"]])
    source, name = source_name(data["source"]), code(data["name"])
    return {
        "data": data,
        "source": f"the embedded corpus {name}" if source == SAMPLE else f"{code(source)}, read as {name}",
        "cuts": describe_cuts(data),
        "table": markdown(rows),
        "note": kind.note.replace("`docs/figures.md`", "`docs/figures.md` of empathy-trl")
        + (OF_SEEDS if seeds else ""),
    }


OF_SEEDS = (
    " The figures of this model are those of one seed. The column of seeds has the mean over all of them ± their standard "
    "deviation; its intervals hold for a new seed and new rows."
)


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
    known = _corpus(files.data)
    keys = ["empathy_trl", *(known.citations if known else ()), *METHOD_CITATIONS.get(files.task, ())]
    keys += ["peng2022"] if "GODEL" in (files.base or "") else []
    keys += [key for source in sources for key in source.citations]
    ours = [name for name, entry in (files.stage.get("rewards") or {}).items() if not entry.get("import")]
    keys += [key for name in ours for key in REWARDS.get(name, Reward).citations]
    return "\n\n".join(entries[key] for key in dict.fromkeys(keys))


# ---- the machine, from `run.json` ----


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
        licence: the Hub's identifier, or None where it is not known.
        licence_words: Markdown, for a reader.
        origin: Markdown, who wrote the texts.
        citations: keys of `citations.bib`.
        hub_id: the Hub id, or None.
    """

    name: str
    licence: str | None
    licence_words: str
    origin: str
    citations: tuple[str, ...] = ()
    hub_id: str | None = None


def training_data(data: dict) -> TrainingData:
    """Return what is known of a `data` section of a resolved recipe."""
    builder, path, known = str(data.get("name")), str(data.get("path", SAMPLE)), _corpus(data)
    if path == SAMPLE:
        source = "written for empathy-trl, with labels and ratings by its authors; no texts of real people"
        return TrainingData(f"embedded corpus {code(builder)} of empathy-trl", "apache-2.0", "Apache-2.0", source)
    if on_hub(path, needs_owner=True):
        published = known.published if known else None
        if published is None or published.hub_id != path:
            published = Published(path, None, "see its page", "see its page")
        revision = f", revision {code(data['revision'])}" if data.get("revision") else ""
        return TrainingData(
            f"[{code(path)}](https://huggingface.co/datasets/{path}){revision}",
            published.licence,
            published.terms,
            published.source,
            published.citations,
            path,
        )
    hint = f"; if it is {known.local_hint}" if known and known.local_hint else ""
    name = f"local data {code(local_name(path))} (read as {code(builder)})"
    citations = known.local_citations if known else ()
    return TrainingData(name, None, f"not stated{hint}", "the author's own data", citations)


def _corpus(data: dict) -> Corpus | None:
    """Return the corpus of a `data` section; None where this package does not have it."""
    try:
        return corpus(str(data.get("name")), data.get("builder"))
    except UserError:
        return None


# licences that ask for no more than attribution
PERMISSIVE = ("apache-2.0", "mit", "cc-by-4.0")
# base models of our recipes -> the Hub's identifier of their licence
BASE_LICENCES = {
    "google/gemma-2-2b-it": "gemma",
    "Qwen/Qwen2.5-1.5B-Instruct": "apache-2.0",
    "Qwen/Qwen2.5-3B-Instruct": "qwen-research",
    "meta-llama/Llama-3.1-8B-Instruct": "llama3.1",
    "meta-llama/Llama-2-7b-chat-hf": "llama2",
    "microsoft/GODEL-v1_1-base-seq2seq": "mit",
    "FacebookAI/roberta-base": "mit",
    "roberta-base": "mit",
}
# licences without an identifier on the Hub -> their page
LICENCE_PAGES = {"qwen-research": "https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/blob/main/LICENSE"}


def licence(base: str | None, from_scratch: bool, sources: list[TrainingData]) -> tuple[dict, str]:
    """Return the metadata keys of the model's licence, and a sentence: the strictest of base model and training data.

    Args:
        base: the Hub id of the base model, None for one that is not on the Hub.
        from_scratch: there is no base model.
        sources: the training data.
    """
    base_licence = BASE_LICENCES.get(base)
    licences = {source.licence for source in sources} | (set() if from_scratch else {base_licence})
    if None in licences:
        unknown = [source.name for source in sources if source.licence is None]
        unknown += [] if from_scratch or base_licence else ["the base model"]
        sentence = f"unknown, because no licence is recorded for {', '.join(dict.fromkeys(unknown))}."
        sentence += f" The licence of the base model is {base_licence}." if base_licence else ""
        return {"license": "unknown"}, f"{sentence} Ask the author before you use the model."
    strict = sorted(licences.difference(PERMISSIVE))
    if len(strict) > 1:
        keys = {"license": "other", "license_name": "several"}
        return keys, f"several at once: {', '.join(strict)}. Keep to all of them."
    only = strict[0] if strict else base_licence or min(licences, key=PERMISSIVE[::-1].index)
    if only in LICENCE_PAGES:
        return {"license": "other", "license_name": only, "license_link": LICENCE_PAGES[only]}, f"{only}."
    if only == "cc-by-nc-4.0":
        return {"license": only}, (
            f"{only}. This is the licence of the training data. Whether it binds a model is disputed; the careful reading is that "
            "commercial use is not allowed."
        )
    return {"license": only}, f"{only}."
