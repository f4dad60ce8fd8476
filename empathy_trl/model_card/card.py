"""The model card of a trained stage: front matter for programs, the rest for people.

A card is made of what lies in the stage's folder and nothing else, so that it can be made anew at any time. What is missing
there (an evaluation, samples, a curve, a newer version's keys in `run.json`) is left out or said to be missing. Values come from
recipes and models of anybody: each goes through `escape` or, in the front matter, through YAML.
"""

from pathlib import Path

from empathy_trl.errors import UserError
from empathy_trl.evaluation.tables import markdown
from empathy_trl.model_card import wording
from empathy_trl.model_card.citations import OF_BUILDER, OF_TASK, bibtex
from empathy_trl.model_card.corpora import Corpus, corpus
from empathy_trl.model_card.escape import code, fenced, local_name, text
from empathy_trl.model_card.front_matter import front_matter
from empathy_trl.model_card.licences import licence
from empathy_trl.model_card.machine import carbon, machine
from empathy_trl.model_card.procedure import procedure
from empathy_trl.model_card.results import source_name
from empathy_trl.model_card.scores import scores
from empathy_trl.model_card.snippets import commands, snippet
from empathy_trl.model_card.stage_files import StageFiles, lineage, origin, read_stage_files
from empathy_trl.recipe.schema import HUB_MODEL, SAMPLE

NOTES_FILE = "notes.md"


def model_card(folder: Path, repo_id: str, merged: bool = False) -> str:
    """Return the text of README.md for a stage's model: front matter in YAML, and Markdown.

    Args:
        folder: the stage's, as `run.py` leaves it.
        repo_id: where the model is, or will be, on the Hub: `user/name`.
        merged: the adapter in the folder is published as a whole model.

    Raises:
        UserError: the folder is not that of a stage, or `repo_id` is no Hub id.
    """
    if not HUB_MODEL.fullmatch(repo_id):
        raise UserError(f"{repo_id!r} is not a Hub id; expected name or user/name")
    files = read_stage_files(Path(folder))
    corpora = list(dict.fromkeys(corpus(stage["data"]) for stage in lineage(files.recipe, files.name).values()))
    keys, words = licence(files.base, files.from_scratch, corpora)
    parts = [
        f"# {text(repo_id.split('/')[-1])}",
        _summary(files, merged),
        "## How to use it",
        _use(files, repo_id, merged),
        "## Results",
        scores(files),
        "## Intended use and limits",
        _limits(files),
        "## Training data and licence",
        _data_table(corpora),
        f"Licence of this model: {words}",
        "## How it was trained",
        procedure(files),
        "## Hardware and carbon",
        _machine(files),
        "## Reproduce it",
        _reproduce(files, repo_id),
        *_notes(files),
        "## Cite",
        fenced(bibtex(_citations(files, corpora)), "bibtex"),
    ]
    front = front_matter(files, repo_id, merged, corpora, keys)
    return f"---\n{front}\n---\n\n" + "\n\n".join(parts) + "\n"


def _summary(files: StageFiles, merged: bool) -> str:
    """Return what the model is, for somebody who has never heard of any of it."""
    builder = files.data.get("name")
    does = (wording.SCORES if files.scores_texts else wording.WRITES).get(builder, "works on texts")
    does = wording.PAIRWISE if files.is_pairwise else does
    what = "model" if files.scores_texts else "language model"
    sentences = [f"This {what} {does}.", wording.TRAINED.get(files.task, ""), _base_sentence(files, merged)]
    system = None if files.scores_texts else wording.SYSTEMS.get(builder)
    sentences += [f"Its recipe follows {system}."] if system else []
    return " ".join(filter(None, [*sentences, wording.FROM_SCRATCH * files.from_scratch]))


def _base_sentence(files: StageFiles, merged: bool) -> str:
    if files.from_scratch:
        return ""
    name = origin(files.recipe, files.name).get("name_or_path")
    base = f"[{code(name)}](https://huggingface.co/{files.base})" if files.base else f"the local model {code(name)}"
    if files.is_adapter and not merged:
        return f"It is a LoRA adapter: small weights on top of {base}, which is loaded along with it."
    return f"It was made from {base}."


def _use(files: StageFiles, repo_id: str, merged: bool) -> str:
    needs = "peft transformers torch" if files.is_adapter and not merged else "transformers torch"
    parts = [f"With `pip install {needs}`:", fenced(snippet(files, repo_id, merged), "python")]
    parts += ["With empathy-trl, in its folder:", fenced(commands(files, repo_id), "bash")]
    if files.config.get("text_normalization"):
        parts.append(
            "`empathy_trl.predict.predict` cleans texts as they were in training (addresses, mentions and so on) before the "
            "model reads them; the lines above do not."
        )
    return "\n\n".join(parts)


def _limits(files: StageFiles) -> str:
    if files.scores_texts:
        return wording.SCORING_LIMITS
    hacking = [wording.REWARD_HACKING] * bool(files.stage.get("rewards"))
    return "\n".join([wording.WRITING_LIMITS, *hacking, "", wording.CRISIS])


def _data_table(corpora: list[Corpus]) -> str:
    rows = [[each.name, each.licence_words, each.source] for each in corpora]
    return markdown([["data", "licence", "where the texts are from"], *rows])


def _machine(files: StageFiles) -> str:
    earlier = len(lineage(files.recipe, files.name)) > 1
    return f"{machine(files.record)}{' Earlier stages are not counted.' * earlier}\n\n{carbon(files.record)}"


def _reproduce(files: StageFiles, repo_id: str) -> str:
    command = f"accelerate launch recipes/run.py --recipe hub:{repo_id} --yes"
    parts = ["In the folder of empathy-trl, with its requirements installed:", fenced(command, "bash")]
    stages = lineage(files.recipe, files.name).values()
    paths = dict.fromkeys(str(stage["data"].get("path", SAMPLE)) for stage in stages)
    local = [path for path in paths if path != SAMPLE and source_name(path) != path]
    if local:
        names = ", ".join(code(local_name(path)) for path in local)
        parts.append(f"The data {names} are not published here; say where yours are, with `--data.path`.")
    return "\n\n".join([*parts, _versions(files.record)])


def _versions(record: dict) -> str:
    """Return with which code the model was made."""
    commit, versions = record.get("git_commit"), record.get("versions")
    changed = isinstance(commit, str) and commit.endswith("+changes")
    at = f"commit {code(str(commit).removesuffix('+changes'))}" if commit else "a commit that is not known"
    also = " with changes that were not committed, so nobody else can have exactly this code" if changed else ""
    listed = [f"{text(name)} {text(number)}" for name, number in versions.items()] if isinstance(versions, dict) else []
    with_these = f", with {', '.join(listed)}" if listed else ""
    return f"Made with empathy-trl at {at}{also}{with_these}. Other versions and machines give slightly other numbers."


def _notes(files: StageFiles) -> list[str]:
    """Return the author's own section: their file as it is, for they answer for it."""
    path = files.folder / NOTES_FILE
    return ["## Notes of the author", path.read_text(encoding="utf-8").strip()] if path.is_file() else []


def _citations(files: StageFiles, corpora: list[Corpus]) -> list[str]:
    keys = [*OF_BUILDER.get(files.data.get("name"), ()), *OF_TASK.get(files.task, ())]
    keys += ["peng2022"] * ("GODEL" in (files.base or ""))
    return keys + [key for each in corpora for key in each.cite]
