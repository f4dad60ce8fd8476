"""ED_easy_4: which of four emotions does a situation express?

Three sources give the same rows: the embedded corpus ("sample"), tables of texts and labels, and EmpatheticDialogues,
from the Hub or a folder. The situation stands last in the prompt, so truncation can never affect the instruction.

The warm start (task sft) uses template rationales. A model that never writes
`<reasoning>…</reasoning><answer>…</answer>` earns no reward, so GRPO has nothing to compare; the warm start teaches the
format. Its rationales are NOT human reasoning and contain no knowledge about emotions: a fixed sentence quotes the word
of the text that occurs most often with its label in the given rows. Useful reasoning is learned later, from the reward.
The rationale does not name the label (unless the text does), so the answer has to follow from the quoted word.

The rationale has one sentence and one word on purpose: every token that a tiny policy is unsure of adds noise to the
policy gradient. With three quoted words in one of four sentences, GRPO on ED_easy_4 improved several times more slowly.
"""

import re
from collections import Counter

from empathy_trl.data.base import Corpus, Messages
from empathy_trl.data.sources import EMPATHETIC_DIALOGUES, is_empathetic_dialogues, situations
from empathy_trl.data.tables import BadRow, Row, Table
from empathy_trl.errors import DataError, show
from empathy_trl.text import clean

# The position is the number of the label in the CSV files.
LABELS = ("sad", "joyful", "angry", "afraid")
PROMPT = (
    "Which emotion does this situation express: sad, joyful, angry or afraid?\n"
    "Reason briefly, then answer with one of these words, in this format:\n"
    "<reasoning>brief reasoning</reasoning><answer>emotion</answer>\n"
    "Situation: "
)

_LABEL_OF = {str(number): label for number, label in enumerate(LABELS)} | {label: label for label in LABELS}


class Ed4(Corpus):
    """Situations, each with one of four emotions. Rows: `text` (clean), `label`."""

    tasks = ("sft", "grpo", "ppo")
    needs = ("text", "label")
    sample = "sample"
    expected = "a folder with train, valid and test tables, or a Hub id such as 'facebook/empathetic_dialogues'"
    evaluation = "emotions"
    labels = LABELS
    next_word = "The person feels"
    reply_tags = ("reasoning", "answer")
    citations = ("you2025",)
    published = EMPATHETIC_DIALOGUES
    local_hint = "ED_easy_4, which comes from EmpatheticDialogues, CC BY-NC 4.0 applies"
    local_citations = ("rashkin2019",)
    writes = (
        "reads a short description of a situation, writes a line of reasoning, and names the emotion that the situation "
        "expresses: sad, joyful, angry or afraid"
    )
    follows = "RREC-Emotion on ED_easy_4"
    says = "Somebody broke into our car last night and I still check every lock twice."

    def read_table(self, config, split: str) -> Table:
        """Return the situations of one split (`text`, `label`); of EmpatheticDialogues, those with one of the four emotions."""
        table = super().read_table(config, split)
        if not is_empathetic_dialogues(table):
            return table
        table = situations(table)
        rows = [row for row in table.rows if isinstance(row, BadRow) or row.cells["label"] in LABELS]
        if all(isinstance(row, BadRow) for row in rows):
            raise DataError(f"{table.source}: no row whose context is one of {', '.join(LABELS)}")
        return Table(table.source, table.columns, rows)

    def parse(self, row: Row, config) -> dict[str, str] | BadRow:
        """Return `text` and `label`, which may be a number; the text is checked first."""
        text, value = clean(row.cells["text"]), row.cells["label"]
        if not text:
            return BadRow(row.where, "empty text", f"nothing is left of {show(row.cells['text'])} after cleaning")
        label = _LABEL_OF.get(value.strip().lower())
        if label is None:
            choices = ", ".join(f"{number} or {name}" for number, name in enumerate(LABELS))
            return BadRow(row.where, "unknown label", f"{show(value)} (choices: {choices})")
        return {"text": text, "label": label}

    def columns(self, rows: list[dict], config, task: str) -> dict[str, list]:
        """Return `prompt`, `text`, `label`; for sft also `completion`, its reasoning a template (see the module's docstring).

        Words are scored on the rows of this split and portion, nothing else is looked at.
        """
        columns = {"prompt": [make_prompt(row["text"]) for row in rows]} | super().columns(rows, config, task)
        if task == "sft":
            shares = label_shares(rows)
            columns["completion"] = [_completion(row["text"], row["label"], shares) for row in rows]
        return columns

    def chat_messages(self, data: dict, history: Messages) -> Messages:
        """Return the prompt of what the user said last."""
        return make_prompt(history[-1]["content"])


def make_prompt(text: str) -> Messages:
    """Return the conversational prompt of a situation: one user message, as gemma has no system role."""
    return [{"role": "user", "content": PROMPT + text}]


def _completion(text: str, label: str, shares) -> Messages:
    content = f"<reasoning>{rationale(text, label, shares)}</reasoning><answer>{label}</answer>"
    return [{"role": "assistant", "content": content}]


_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_LONGEST_WORD = 20
# Imaginary rows of the average label, so that a word seen once does not outrank one seen twenty times.
_PRIOR = 5
_SENTENCE = "The telling word here is {}."


def label_shares(rows: list[dict]) -> dict[tuple[str, str], float]:
    """Return `{(word, label): share}` in (0, 1]: of the rows with a word, the smoothed share that carry the label.

    Args:
        rows: dicts with `text` and `label`. A word counts once per row, in lower case.
    """
    labels = Counter(row["label"] for row in rows)
    pairs = Counter((word, row["label"]) for row in rows for word in set(_words(row["text"])))
    totals = Counter()
    for (word, _), count in pairs.items():
        totals[word] += count
    return {
        (word, label): (count + _PRIOR * labels[label] / len(rows)) / (totals[word] + _PRIOR)
        for (word, label), count in pairs.items()
    }


def rationale(text: str, label: str, shares: dict[tuple[str, str], float]) -> str:
    """Return the sentence that quotes the most telling word of `text`; the same arguments give the same sentence.

    A template, not human reasoning: see the module's docstring.

    Args:
        text: a clean, non-empty text. Without any letters its first 20 characters up to a space are quoted.
        label: the text's label.
        shares: the result of `label_shares`; a word missing in it counts as 0. Among equals the longest word is quoted.
    """
    words = _words(text) or [text.split()[0][:_LONGEST_WORD]]
    return _SENTENCE.format(min(words, key=lambda word: (-shares.get((word, label), 0.0), -len(word))))


def _words(text: str) -> list[str]:
    """Return the words of `text` in lower case: letters with inner apostrophes and hyphens, at most 20 characters."""
    return [word for word in _WORD.findall(text.lower()) if len(word) <= _LONGEST_WORD]
