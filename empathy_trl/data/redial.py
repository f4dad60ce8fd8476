"""ReDial: a seeker and a recommender talk about films; the policy learns the recommender's part.

After Li et al., "Towards Deep Conversational Recommendations" (NeurIPS 2018). Consecutive messages of one side form one
turn, one message per line. Every recommender turn that answers the seeker is an example: the prompt is the dialogue so
far, and the reference is the turn. Sources are the embedded corpus ("sample"), a folder with the original files or with
the layout by roles (see `redial_files.py`), or a Hub id with the columns of either. If a source has no `valid` part, a
tenth of the dialogues of `train` becomes one (see `tables.py`).
"""

from collections import Counter
from dataclasses import replace
from typing import ClassVar

from empathy_trl.data.base import Corpus, Messages, Report
from empathy_trl.data.dialogues import reply_alone
from empathy_trl.data.redial_files import (
    check_layout,
    conversation_of,
    fill_slots,
    film_ids,
    join_emotions,
    keep_start,
    keep_turns,
    read_dialogue,
)
from empathy_trl.data.sources import Published
from empathy_trl.data.tables import BadRow, Row, Table, split_table
from empathy_trl.errors import DataError

SYSTEM = (
    "You talk with somebody who looks for a film. Respond to how they feel and what they like, and recommend a film when it is "
    "time to. Write only your next message"
)
# How films are to be written, by `data.slots`.
SLOTS = {"placeholder": ", with <movie> in place of every film's title.", "title": ", and films as in Title (1999)."}
# What stands for a seeker who has not spoken yet, or whose words were cut: chat templates want the user to begin.
UNSAID = "…"

_CHAT_ROLES = {"seeker": "user", "recommender": "assistant"}


class Redial(Corpus):
    """Answers of recommenders. Rows: the columns below, and `turns` (role, text) in place of `prompt`.

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
    """

    tasks = ("sft", "grpo", "ppo")
    settings = ("context_tokens", "emotions", "reply_tokens", "slots")
    texts = ()
    nested = True
    types: ClassVar[dict] = {
        "recommends": "bool",
        "movies": ["string"],
        "liked": ["string"],
        "context_movies": ["string"],
    }
    sample = "sample/redial"
    expected = "a folder with train, valid and test files (train_data.jsonl or train.jsonl …), or a Hub id"
    evaluation = "replies"
    citations = ("zhang2024",)
    published = Published(
        "community-datasets/re_dial",
        "cc-by-4.0",
        "CC BY 4.0",
        "conversations of crowd workers who recommend films to each other (ReDial, Li et al. 2018)",
        ("li2018",),
    )
    local_hint = "ReDial, CC BY 4.0 applies"
    local_citations = ("li2018",)
    writes = "talks with somebody who looks for a film, responds to how they feel, and recommends one"
    follows = "ECR (empathetic conversational recommendation)"
    says = "Hi! I had an awful week. Which film would cheer me up?"

    def read_split(self, config, split: str) -> tuple[list[dict], Report]:
        """Return the answers of one split, and a `Report` that counts dialogues, and in its notes the answers.

        `config.portion` is one of the dialogues. A dialogue that is bad (an unknown film id, for one) is bad as a whole,
        because what follows rests on it.

        Raises what `Corpus.read_split` raises, and `DataError` when no recommender answers in any dialogue.
        """
        dialogues, report = super().read_split(config, split)
        emotions, notes = join_emotions(config, dialogues, report.source)
        rows, counts, shortened = [], Counter(), 0
        for dialogue in dialogues:
            answers, cut = _answers(dialogue, emotions.get(dialogue["conversation"], {}), config, counts)
            rows += answers
            shortened += cut
        if not rows:
            raise DataError(f"{report.source}: no recommender answers a seeker in any of {len(dialogues)} dialogues")
        notes = report.notes | {"answers": len(rows)} | {name: count for name, count in counts.items() if count} | notes
        return rows, replace(report, shortened=shortened, notes=notes)

    def read_table(self, config, split: str) -> Table:
        """Return the dialogues of one split; without a part for `valid`, a tenth of those of `train` becomes one."""
        source = self.source(config)
        given = split == "test" or bool(source.names("valid"))
        table = source.split(split if given else "train")
        check_layout(table)
        if given:
            return table
        groups = [conversation_of(row) or number for number, row in enumerate(table.rows)]
        return split_table(table, groups, "conversation", split, held_out=("valid",))[0]

    def parse(self, row: Row, config) -> dict | BadRow:
        """Return a dialogue, see `redial_files.read_dialogue`."""
        return read_dialogue(row)

    def columns(self, rows: list[dict], config, task: str) -> dict[str, list]:
        """Return the columns of the class's table."""
        prompts = [make_prompt(row["turns"], config.slots, row["emotion"]) for row in rows]
        columns = {"prompt": prompts} | {name: [row[name] for row in rows] for name in rows[0] if name != "turns"}
        if task == "sft":
            columns["completion"] = [[{"role": "assistant", "content": row["reference"]}] for row in rows]
        return columns

    def chat_messages(self, data: dict, history: Messages) -> Messages:
        """Return the instruction and the history; the user is the seeker."""
        roles = {"user": "seeker", "assistant": "recommender"}
        turns = [(roles[message["role"]], message["content"]) for message in history]
        return make_prompt(turns, data.get("slots", "placeholder"))

    def chat_reply(self, data: dict, content: str) -> str:
        """Return the reply alone, cleaned as a reference is."""
        return reply_alone(content)


def make_prompt(turns: list[tuple[str, str]], slots: str, emotion: str | None = None) -> Messages:
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
