"""Corpora for classification: emotions of situations, intents of replies, mechanisms of empathy in responses.

`emotions`: which of the 32 emotions of EmpatheticDialogues (Rashkin et al., 2019) does a situation express? `intents`:
what does a listener's reply do? The labels are the eight intents of Welivita & Pu (2020) and neutral. EmpatheticIntents
labels both kinds of text with one list of 41 labels; each corpus skips the rows of the other.

`epitome`: after Sharma et al. (2020), "A Computational Approach to Understanding Empathy Expressed in Text-Based Mental
Health Support" (EMNLP). Emotional reactions express warmth or concern, interpretations express an understanding of the
seeker's feelings and experiences, and explorations ask about what the post leaves open; each is absent, weak or strong.
The published data are one CSV per mechanism. They are joined on the ids of the two posts and split 90/10, so that all
responses to a seeker are in one part. The data have 3,084 pairs, and 60 of them occur more than once. Equal rows are kept, as
in the authors' code. 19 pairs have different levels in different rows; these 39 rows are bad.
"""

from collections import Counter

from empathy_trl.data.base import Corpus
from empathy_trl.data.sources import EMPATHETIC_DIALOGUES, is_empathetic_dialogues, situations
from empathy_trl.data.tables import BadRow, Row, Table, check_columns, read_table, split_table
from empathy_trl.errors import show, suggestion
from empathy_trl.text import clean

EMOTIONS = (
    *("afraid", "angry", "annoyed", "anticipating", "anxious", "apprehensive", "ashamed", "caring"),
    *("confident", "content", "devastated", "disappointed", "disgusted", "embarrassed", "excited", "faithful"),
    *("furious", "grateful", "guilty", "hopeful", "impressed", "jealous", "joyful", "lonely"),
    *("nostalgic", "prepared", "proud", "sad", "sentimental", "surprised", "terrified", "trusting"),
)
INTENTS = (
    *("agreeing", "acknowledging", "encouraging", "consoling", "sympathizing"),
    *("suggesting", "questioning", "wishing", "neutral"),
)

# Columns of the text and the label. EmpatheticDialogues as JSON Lines has one conversation a row.
_COLUMNS = (("text", "label"), ("situation", "emotion"))


class _Labelled(Corpus):
    """One label per text, of one list of names. Rows: `text` (clean), `labels` ([position of the name])."""

    tasks = ("classify",)
    expected = (
        "a folder with train, valid and test tables of `text` and `label` (or `situation` and `emotion`), or a Hub id "
        "such as 'facebook/empathetic_dialogues'"
    )
    group: str
    names: tuple[str, ...]

    def targets(self, config) -> dict[str, tuple[str, ...]]:
        """Return the one group of labels, name -> labels."""
        return {self.group: self.names}

    def read_table(self, config, split: str) -> Table:
        """Return the texts of one split; of EmpatheticDialogues, the situations."""
        table = super().read_table(config, split)
        table = situations(table) if is_empathetic_dialogues(table) else table
        check_columns(table.source, table.columns, _text_and_label(table.columns))
        return table

    def parse(self, row: Row, config) -> dict | BadRow | None:
        """Return `text` and `labels`; None for a label of the other list."""
        text, label = (row.cells[column] for column in _text_and_label(row.cells))
        value = label.strip().lower()
        if value not in self.names:
            if value in EMOTIONS or value in INTENTS:
                return None
            return BadRow(row.where, "unknown label", f"{show(label)}{suggestion(value, self.names)}")
        content = clean(text)
        if not content:
            return BadRow(row.where, "empty text", f"nothing is left of {show(text)} after cleaning")
        return {"text": content, "labels": [self.names.index(value)]}


def _text_and_label(columns) -> tuple[str, str]:
    return next((pair for pair in _COLUMNS if pair[1] in columns), _COLUMNS[0])


class Emotions(_Labelled):
    """Situations with one of 32 emotions."""

    sample = "sample/emotions"
    group, names = "emotion", EMOTIONS
    published = EMPATHETIC_DIALOGUES
    local_hint = "EmpatheticDialogues, CC BY-NC 4.0 applies"
    local_citations = ("rashkin2019",)
    scores = "reads a short description of a situation and names which of 32 emotions it expresses"
    scored = ("I open the letter box every hour, although the answer is not due before Friday.",)


class Intents(_Labelled):
    """Replies with one of nine intents."""

    sample = "sample/intents"
    group, names = "intent", INTENTS
    citations = ("welivita2020",)
    local_hint = "EmpatheticIntents, which comes from EmpatheticDialogues, CC BY-NC 4.0 applies"
    local_citations = ("welivita2020",)
    scores = "reads what a listener answers and names what the answer does: console, question, encourage and so on, nine in all"
    scored = ("That must have been a hard year for you.",)


MECHANISMS = ("emotional_reactions", "interpretations", "explorations")
LEVELS = ("0", "1", "2")

_POSTS = ("seeker_post", "response_post")
_PUBLISHED = {mechanism: f"{mechanism.replace('_', '-')}-reddit.csv" for mechanism in MECHANISMS}


class Epitome(Corpus):
    """Pairs of a seeker's post and a response. Rows: `text` and `pair` (clean posts), `labels` (three ints from 0 to 2)."""

    tasks = ("classify",)
    needs = _POSTS + MECHANISMS
    texts = ("text", "pair")
    sample = "sample/epitome"
    expected = (
        f"a folder with {', '.join(_PUBLISHED.values())}, a folder with train, valid and test tables of the columns "
        f"{', '.join(_POSTS + MECHANISMS)}, one such table, or a Hub id"
    )
    citations = ("sharma2020",)
    local_hint = "the pairs of EPITOME, they are to be had from their authors only"
    local_citations = ("sharma2020",)
    scores = (
        "reads the post of somebody in trouble and a response to it, and rates three ways in which the response may show "
        "empathy, each from 0 to 2: emotional reactions, interpretations, explorations"
    )
    scored = ("I lost my job and nobody seems to care.", "I am so sorry. Which part of it weighs most on you?")

    def targets(self, config) -> dict[str, tuple[str, ...]]:
        """Return `{mechanism: ("0", "1", "2")}` for the three mechanisms."""
        return dict.fromkeys(MECHANISMS, LEVELS)

    def read_table(self, config, split: str) -> Table:
        """Return the pairs of one split; one table, or the published files, are split 90/10 by seeker post."""
        if not self.is_on_hub(config) and self.path(config).joinpath(_PUBLISHED[MECHANISMS[0]]).is_file():
            return _part(*_join_published(self.path(config), split))
        source = self.source(config)
        table = source.only() if source.is_table else source.split(split)
        check_columns(table.source, table.columns, self.needs)
        table = _without_conflicts(table)
        seekers = [row.cells["seeker_post"] if isinstance(row, Row) else None for row in table.rows]
        return _part(table, split, seekers) if source.is_table else table

    def parse(self, row: Row, config) -> dict | BadRow:
        """Return both posts and the three levels."""
        posts = [clean(row.cells[post]) for post in _POSTS]
        for name, post in zip(_POSTS, posts, strict=True):
            if not post:
                detail = f"nothing is left of {name} {show(row.cells[name])} after cleaning"
                return BadRow(row.where, "empty text", detail)
        levels = [row.cells[mechanism].strip() for mechanism in MECHANISMS]
        for mechanism, level in zip(MECHANISMS, levels, strict=True):
            if level not in LEVELS:
                return BadRow(row.where, "unknown level", f"{mechanism} is {show(level)}; expected 0, 1 or 2")
        return {"text": posts[0], "pair": posts[1], "labels": [int(level) for level in levels]}


def _part(table: Table, split: str, seekers: list[str | None]) -> Table:
    """Return the rows of one part of a table without splits; a row without a seeker is a group of its own."""
    groups = [number if seeker is None else seeker for number, seeker in enumerate(seekers)]
    return split_table(table, groups, "seeker post", split)[0]


def _without_conflicts(table: Table) -> Table:
    """Return the table; all rows of a pair of posts whose rows have different levels become bad rows."""

    def cells(row: Row, names) -> tuple[str, ...]:
        return tuple(row.cells[name].strip() for name in names)

    levels = {}  # pair -> {levels: first row with them}
    for row in table.rows:
        if isinstance(row, Row):
            levels.setdefault(cells(row, _POSTS), {}).setdefault(cells(row, MECHANISMS), row.where)
    rows = []
    for row in table.rows:
        found = levels[cells(row, _POSTS)] if isinstance(row, Row) else {}
        if len(found) > 1:
            there = "; ".join(f"{', '.join(each)} in {where}" for each, where in found.items())
            row = BadRow(row.where, "different levels of one pair", f"{', '.join(MECHANISMS)} are {there}")
        rows.append(row)
    return Table(table.source, table.columns, rows)


def _join_published(folder, split: str) -> tuple[Table, str, list[str | None]]:
    """Join the three published files on (sp_id, rp_id), repeated rows in order; a row that is missing in a file is bad.

    Returns the arguments of `_part`.
    """
    joined, bad = {}, []
    for mechanism, name in _PUBLISHED.items():
        table, seen = read_table(folder.joinpath(name), ("sp_id", "rp_id", *_POSTS, "level")), Counter()
        for row in table.rows:
            where = f"{name}, {row.where}"
            if isinstance(row, BadRow):
                bad.append(BadRow(where, row.reason, row.detail))
                continue
            pair = row.cells["sp_id"], row.cells["rp_id"]
            seen[pair] += 1
            cells = joined.setdefault(
                (*pair, seen[pair]), {"where": where} | {post: row.cells[post] for post in _POSTS}
            )
            cells[mechanism] = row.cells["level"]
    rows = [_joined_row(key, cells) for key, cells in joined.items()]
    seekers = [seeker for seeker, *_ in joined] + [None] * len(bad)
    return _without_conflicts(Table(str(folder), [*_POSTS, *MECHANISMS], rows + bad)), split, seekers


def _joined_row(key: tuple[str, str, int], cells: dict[str, str]) -> Row | BadRow:
    missing = [_PUBLISHED[mechanism] for mechanism in MECHANISMS if mechanism not in cells]
    if missing:
        repeated = f"row {key[2]} of " if key[2] > 1 else ""
        detail = f"{repeated}sp_id {key[0]}, rp_id {key[1]} is missing in {' and '.join(missing)}"
        return BadRow(cells["where"], "pair without a level", detail)
    return Row(cells["where"], {name: cells[name] for name in (*_POSTS, *MECHANISMS)})
