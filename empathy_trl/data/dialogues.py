"""Dialogues: what was said so far is the prompt, what was answered is the reference.

Sources are the embedded corpus ("sample"), a folder with train, val and test sub-folders of parallel lists (the layout of
RLHF-GODEL: `contexts.json`, `targets.json`, `instructions.json`, `knowledge.json`), and EmpatheticDialogues (Rashkin et al.,
2019) as JSON Lines with one conversation a row, or on the Hub. Of a conversation, everything that its listener says is one
sample, with all turns before it.
"""

from empathy_trl.data import on_hub
from empathy_trl.data.readers import JSON_LINES, read_objects
from empathy_trl.data.rows import BadRow, Report, Row, Table, as_messages, optional_text, shown, text_of, turns_of
from empathy_trl.data.sources import (
    FOLDERS,
    check_split,
    check_task,
    conversations,
    hub_split,
    local_folder,
    read_lists,
    split_file,
    split_folder,
    usable_rows,
)
from empathy_trl.errors import DataError
from empathy_trl.tags import KNOWLEDGE

TASKS = ("sft", "grpo", "ppo")
EVALUATION = "replies"  # how completions are evaluated
INSTRUCTION = "Answer the other person with empathy, in one or two sentences."
SPEAKERS = ("speaker", "listener")

# What a sample has -> the file of a folder of parallel lists that has it.
_FILES = {
    "context": "contexts.json",
    "target": "targets.json",
    "instruction": "instructions.json",
    "knowledge": "knowledge.json",
}
_EXPECTED = (
    "a folder with train, val and test folders of contexts.json and targets.json, a folder with train, valid and test "
    "files of conversations, or a Hub id such as 'facebook/empathetic_dialogues'"
)


def make_prompt(turns: list[str], instruction: str, knowledge: str = "") -> list[dict[str, str]]:
    """Return the conversational prompt of a dialogue: the instruction, and the turns (see `as_messages`).

    Args:
        turns: at least one, the oldest first.
        instruction: the system message.
        knowledge: what the answer may draw on; it becomes the last line of the system message. Empty: none.
    """
    system = f"{instruction}\n{KNOWLEDGE} {knowledge}" if knowledge else instruction
    return [{"role": "system", "content": system}, *as_messages(turns)]


def build(config, split: str, task: str):
    """Return one split as a `datasets.Dataset`, one row per reply, in the order of the source.

    Columns: `prompt` (see `make_prompt`), `text` (the last turn), `reference` (the reply), `emotion` (of the dialogue, or
    None); for sft also `completion` (the reference as one assistant message).

    Raises what `read_split` raises, and `UserError` for an unknown task.
    """
    check_task("dialogues", task, TASKS)
    rows, _ = read_split(config, split)
    from datasets import Dataset, Features, List, Value

    columns = {
        "prompt": [make_prompt(row["turns"], row["instruction"], row["knowledge"]) for row in rows],
        "text": [row["turns"][-1] for row in rows],
        "reference": [row["reference"] for row in rows],
        "emotion": [row["emotion"] for row in rows],
    }
    text = Value("string")  # said, because a source may have no emotion at all
    kinds = {"prompt": List({"role": text, "content": text})} | dict.fromkeys(("text", "reference", "emotion"), text)
    if task == "sft":
        columns["completion"] = [[{"role": "assistant", "content": row["reference"]}] for row in rows]
        kinds["completion"] = kinds["prompt"]
    return Dataset.from_dict(columns, features=Features(kinds))


def read_split(config, split: str) -> tuple[list[dict], Report]:
    """Return `(rows, report)`: dicts with `turns` (a list), `reference`, `instruction`, `knowledge` ("": none), `emotion`.

    Together the turns of a row have `config.max_words` words: the oldest turns go first, the instruction and the knowledge
    stay whole. `config.instruction` replaces `INSTRUCTION` where a row has none of its own.

    Raises `DataError` when a file, or with `on_bad_rows` "error" a row, cannot be used, or when no row is left;
    `UserError` for an unknown split or a Hub id that cannot be loaded.
    """
    check_split(split)
    table = _read_source(config, split)
    columns = {key: file if file in table.columns else key for key, file in _FILES.items()}
    default = config.instruction or INSTRUCTION
    return usable_rows(config, split, table, lambda row: _parse(row, columns, default), texts=("turns",))


def _parse(row: Row, columns: dict[str, str], instruction: str) -> dict | BadRow:
    found = {
        "turns": turns_of(row, columns["context"]),
        "reference": text_of(row, columns["target"], "target"),
        "instruction": optional_text(row, columns["instruction"]),
        "knowledge": optional_text(row, columns["knowledge"]),
        "emotion": optional_text(row, "emotion"),
    }
    if (bad := next((value for value in found.values() if isinstance(value, BadRow)), None)) is not None:
        return bad
    return found | {"instruction": found["instruction"] or instruction, "emotion": found["emotion"] or None}


def _read_source(config, split: str) -> Table:
    """Return the samples of one split, from whatever kind of source `config.path` names."""
    if on_hub(config.path):
        return _samples(conversations(*hub_split(config.path, config.revision, split)))
    folder = local_folder(config.path, "sample/dialogues", _EXPECTED)
    if any(folder.joinpath(name).is_dir() for names in FOLDERS.values() for name in names):
        files = list(_FILES.values())
        return read_lists(split_folder(folder, split), needed=files[:2], optional=files[2:])
    return _samples(read_objects(split_file(folder, split, JSON_LINES), ("utterances",)))


def _samples(table: Table) -> Table:
    """Return one row per utterance of a listener, with all utterances before it; a broken conversation is one bad row.

    Raises `DataError` when there is no listener in any of them.
    """
    columns = ["context", "target", "emotion"]
    samples = [sample for row in table.rows for sample in _samples_of(row)]
    if not samples:
        raise DataError(f"{table.source}: in none of {len(table.rows)} conversations does a listener answer")
    return Table(table.source, columns, samples)


def _samples_of(row: Row | BadRow) -> list[Row | BadRow]:
    if isinstance(row, BadRow):
        return [row]
    said = row.cells["utterances"]
    fits = isinstance(said, list) and all(
        isinstance(each, dict) and {"speaker", "text"} <= each.keys() for each in said
    )
    if not fits:
        detail = f"utterances has {shown(said)}; expected a list of {{speaker, text}}"
        return [BadRow(row.where, "no conversation", detail)]
    for number, each in enumerate(said, 1):
        if each["speaker"] not in SPEAKERS:
            detail = f"{shown(each['speaker'])} in utterance {number}; expected {' or '.join(SPEAKERS)}"
            return [BadRow(row.where, "unknown speaker", detail)]
    texts, emotion = [each["text"] for each in said], row.cells.get("emotion")
    return [
        Row(
            f"{row.where}, utterance {number + 1}",
            {"context": texts[:number], "target": texts[number], "emotion": emotion},
        )
        for number, each in enumerate(said)
        if each["speaker"] == "listener"
    ]
