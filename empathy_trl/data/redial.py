"""ReDial: two people talk about films, one seeks, the other recommends; the policy learns the recommender's part.

After Li et al., "Towards Deep Conversational Recommendations" (NeurIPS 2018). Consecutive messages of one side are one turn,
a line each, and every turn of the recommender that answers the seeker is an example: what was said before is the prompt, the
turn is the reference. Sources are the embedded corpus ("sample"), a folder with the original files or with the layout by
roles (see `redial_dialogues.py`), or a Hub id with the columns of either. Where a source has no part for `valid`, a
tenth of the dialogues of `train` becomes one (see `sources.py`).
"""

from collections import Counter
from dataclasses import replace

from empathy_trl.data import on_hub
from empathy_trl.data.readers import JSON_LINES, read_objects
from empathy_trl.data.redial_files import (
    conversation_of,
    dialogue_parser,
    fill_slots,
    film_ids,
    join_emotions,
    keep_start,
    keep_turns,
)
from empathy_trl.data.rows import Report, Table
from empathy_trl.data.sources import (
    as_table,
    check_split,
    check_task,
    hub_has,
    hub_split,
    local_folder,
    split_file,
    split_files,
    split_table,
    usable_rows,
)
from empathy_trl.errors import DataError

TASKS = ("sft", "grpo", "ppo")
EVALUATION = "replies"  # how completions are evaluated

SYSTEM = (
    "You talk with somebody who looks for a film. Respond to how they feel and what they like, and recommend a film when it is "
    "time to. Write only your next message"
)
# How films are to be written, by `data.slots`.
SLOTS = {"placeholder": ", with <movie> in place of every film's title.", "title": ", and films as in Title (1999)."}
# What stands for a seeker who has not spoken yet, or whose words were cut: chat templates want the user to begin.
UNSAID = "…"

_SUFFIXES = (*JSON_LINES, *(f"_data{suffix}" for suffix in JSON_LINES))
_EXPECTED = "a folder with train, valid and test files (train_data.jsonl or train.jsonl …), or a Hub id"
_CHAT_ROLES = {"seeker": "user", "recommender": "assistant"}


def make_prompt(turns: list[tuple[str, str]], slots: str, emotion: str | None = None) -> list[dict[str, str]]:
    """Return the conversational prompt of a context: the instruction, and the turns in the roles of a chat.

    Args:
        turns: (role, text), the roles in turn, the last one the seeker's.
        slots: a key of `SLOTS`.
        emotion: of the last turn; it ends the instruction, as in "They feel sad."
    """
    system = SYSTEM + SLOTS[slots] + (f" They feel {emotion}." if emotion else "")
    opening = [{"role": "user", "content": UNSAID}] if turns[0][0] == "recommender" else []
    messages = [{"role": _CHAT_ROLES[role], "content": text} for role, text in turns]
    return [{"role": "system", "content": system}, *opening, *messages]


def build(config, split: str, task: str):
    """Return one split as a `datasets.Dataset`, one row per answer of a recommender, in the order of the source.

    | column | what it holds |
    |---|---|
    | `prompt` | system message, then the context: the seeker is the user, the recommender the assistant |
    | `text` | the seeker's last turn |
    | `reference` | the recommender's answer |
    | `completion` | for task "sft": the answer as a message |
    | `conversation` | id of the dialogue |
    | `recommends` | whether the reference names a film |
    | `movies` | titles of the films in the reference |
    | `liked` | titles of the films in the whole dialogue that the seeker liked, by the form filled in afterwards |
    | `context_movies` | titles of the films named before, by either side, also in turns that were cut |
    | `emotion` | of the seeker's last turn, from `data.emotions`, or None |

    Raises what `read_split` raises, and `UserError` for an unknown task.
    """
    check_task("redial", task, TASKS)
    rows, _ = read_split(config, split)
    from datasets import Dataset, Features, List, Value

    text, message = Value("string"), List({"role": Value("string"), "content": Value("string")})
    columns = {"prompt": message, "text": text, "reference": text, "conversation": text, "recommends": Value("bool")}
    columns |= {"movies": List(text), "liked": List(text), "context_movies": List(text), "emotion": text}
    content = {name: [row[name] for row in rows] for name in columns if name != "prompt"}
    content["prompt"] = [make_prompt(row["turns"], config.slots, row["emotion"]) for row in rows]
    if task == "sft":
        columns["completion"] = message
        content["completion"] = [[{"role": "assistant", "content": row["reference"]}] for row in rows]
    return Dataset.from_dict({name: content[name] for name in columns}, features=Features(columns))


def read_split(config, split: str) -> tuple[list[dict], Report]:
    """Return `(rows, report)`: dicts with the columns of `build`, and `turns` (role, text) instead of `prompt`.

    Read of `config` are `path`, `revision`, `on_bad_rows`, `portion` (of the dialogues), `slots`, `context_tokens`,
    `reply_tokens` and `emotions`. The report counts dialogues, and in its notes the answers. A dialogue that is bad (see
    `redial_dialogues.py`; an unknown film id, for one) is bad as a whole, because what follows rests on it.

    Raises `DataError` when a file, or with `on_bad_rows` "error" a row, cannot be used, or when nobody answers in any
    dialogue; `UserError` for an unknown split or a Hub id that cannot be loaded.
    """
    check_split(split)
    table = _read_source(config, split)
    dialogues, report = usable_rows(config, split, table, dialogue_parser(table), texts=())
    emotions, notes = join_emotions(config, dialogues, table.source)
    rows, counts, shortened = [], Counter(), 0
    for dialogue in dialogues:
        answers, cut = _answers(dialogue, emotions.get(dialogue["conversation"], {}), config, counts)
        rows += answers
        shortened += cut
    if not rows:
        raise DataError(f"{table.source}: in none of {len(dialogues)} dialogues does a recommender answer a seeker")
    notes = {"answers": len(rows)} | {name: count for name, count in counts.items() if count} | notes
    return rows, replace(report, shortened=shortened, notes=notes)


def _answers(dialogue: dict, emotions: dict[int, str], config, counts: Counter) -> tuple[list[dict], bool]:
    """Return the rows of one dialogue, and whether the context of any was cut; what else there is to know is counted."""
    films, turns = dialogue["films"], _turns(dialogue["messages"], emotions)
    titles = films if config.slots == "title" else None
    liked = _titles(films, [film for film, like in dialogue["likes"].items() if like == 1])
    rows, shortened = [], False
    for number in range(1, len(turns)):
        role, reply, _ = turns[number]
        if role != "recommender":
            continue
        before = [text for _, text, _ in turns[:number]]
        context, reference = (
            keep_turns(before, config.context_tokens, titles),
            keep_start(reply, config.reply_tokens, titles),
        )
        roles = [role for role, _, _ in turns[number - len(context) : number]]
        shortened |= context != before
        counts["shortened answers"] += reference != reply
        texts = [fill_slots(text, titles) for text in context]
        rows.append({
            "turns": list(zip(roles, texts, strict=True)),
            "text": texts[-1],
            "reference": fill_slots(reference, titles),
            "conversation": dialogue["conversation"],
            "recommends": bool(film_ids(reference)),
            "movies": _titles(films, film_ids(reference)),
            "liked": liked,
            "context_movies": _titles(films, film_ids(" ".join(before))),
            "emotion": turns[number - 1][2],
        })  # fmt: skip
    counts["openings by the recommender"] += turns[0][0] == "recommender"
    counts["dialogues without an answer"] += not rows
    counts["dialogues without likes"] += not dialogue["likes"]
    counts["messages without text"] += sum(not text for _, text in dialogue["messages"])
    return rows, shortened


def _turns(messages: list[tuple[str, str]], emotions: dict[int, str]) -> list[tuple[str, str, str | None]]:
    """Return (role, text, emotion) of every turn: messages of one side in a row, and the last emotion that one has."""
    turns = []
    for number, (role, text) in enumerate(messages):
        if not text:
            continue
        emotion = emotions.get(number)
        if turns and turns[-1][0] == role:
            _, before, felt = turns.pop()
            text, emotion = f"{before}\n{text}", emotion or felt
        turns.append((role, text, emotion))
    return turns


def _titles(films: dict[str, str], ids: list[str]) -> list[str]:
    """Return the titles of films, each once: two ids may have one title."""
    return list(dict.fromkeys(films[film] for film in ids))


def _read_source(config, split: str) -> Table:
    """Return the dialogues of one split, from whatever kind of source `config.path` names."""
    if on_hub(config.path):
        has_valid = hub_has(config.path, config.revision, "valid")
    else:
        folder = local_folder(config.path, "sample/redial", _EXPECTED)
        has_valid = bool(split_files(folder, "valid", _SUFFIXES))

    def read(name: str) -> Table:
        if on_hub(config.path):
            return as_table(*hub_split(config.path, config.revision, name), as_cell=lambda value: value)
        return read_objects(split_file(folder, name, _SUFFIXES))

    if split == "test" or has_valid:
        return read(split)
    table = read("train")
    groups = [conversation_of(row) or number for number, row in enumerate(table.rows)]
    return split_table(table, groups, "conversation", split, held_out=("valid",))[0]
