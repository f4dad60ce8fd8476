"""Data sets on the Hub or in its cache, read as tables; also the two ways of reading EmpatheticDialogues."""

from dataclasses import dataclass

from empathy_trl.data.tables import Row, Table, as_text, check_columns
from empathy_trl.errors import DataError, UserError


@dataclass(frozen=True)
class Published:
    """A data set on the Hub, as a model card describes it.

    Attributes:
        hub_id: owner/name.
        licence: the Hub's identifier of its licence, or None where its page names none.
        terms: the licence in words.
        source: who wrote the texts.
        citations: keys of BibTeX entries.
    """

    hub_id: str
    licence: str | None
    terms: str
    source: str
    citations: tuple[str, ...] = ()


EMPATHETIC_DIALOGUES = Published(
    "facebook/empathetic_dialogues",
    "cc-by-nc-4.0",
    "CC BY-NC 4.0: no commercial use",
    "conversations of crowd workers about their feelings (Rashkin et al. 2019)",
    ("rashkin2019",),
)

# The branch where the Hub keeps every data set as parquet; the main branch of EmpatheticDialogues is a
# script, which `datasets` no longer runs.
HUB_REVISION = "refs/convert/parquet"
_SPLIT_NAMES = {"train": ("train",), "valid": ("validation", "valid", "dev"), "test": ("test",)}


def load_hub(path: str, revision: str | None):
    """Return the `DatasetDict` of a Hub id. Raises `UserError`, which says what to do, when it cannot be loaded."""
    import httpx
    from datasets import load_dataset
    from huggingface_hub.errors import HfHubHTTPError

    revision = revision or HUB_REVISION
    # `datasets` reports a gated, private or unknown data set as a FileNotFoundError, no network as a
    # ConnectionError.
    try:
        return load_dataset(path, revision=revision)
    except (ConnectionError, FileNotFoundError, HfHubHTTPError, httpx.TransportError) as error:
        raise UserError(
            f"data.path: cannot load {path!r} (revision {revision}) from the Hub, and there is no folder "
            f"of that name: {error}\nIf it is gated or private, log in with `hf auth login`. Without "
            "network, load it once elsewhere and copy the cache (HF_HOME), or set data.path to a local folder."
        ) from error


def hub_has(path: str, revision: str | None, split: str) -> bool:
    """Return whether a Hub id has a split. Raises what `load_hub` raises."""
    return _split_name(load_hub(path, revision), split) is not None


def hub_split(path: str, revision: str | None, split: str):
    """Return `(name for messages, Dataset)` of one split. Raises what `load_hub` raises, or `DataError`."""
    splits = load_hub(path, revision)
    name = _split_name(splits, split)
    source = hub_source(path, revision, name or split)
    if name is None:
        raise DataError(f"{source}: no such split (splits found: {', '.join(splits)})")
    return source, splits[name]


def hub_source(path: str, revision: str | None, split: str) -> str:
    """Return the name of a Hub split for messages."""
    return f"{path} (revision {revision or HUB_REVISION}, split {split})"


def _split_name(splits, split: str) -> str | None:
    return next((name for name in _SPLIT_NAMES[split] if name in splits), None)


def as_table(source: str, dataset, keep_values: bool = False) -> Table:
    """Return a `Dataset` as a `Table`, with values as text, or as they are (lists, mappings) with `keep_values`."""
    rows = [
        Row(f"row {number}", {column: value if keep_values else as_text(value) for column, value in row.items()})
        for number, row in enumerate(dataset, 1)
    ]
    if not rows:
        raise DataError(f"{source}: the split has no rows")
    return Table(source, dataset.column_names, rows)


def situations(source: str, dataset) -> Table:
    """Return one row (`text`, `label`) per conversation of EmpatheticDialogues: its situation and its emotion.

    The data set has one row per utterance; `context` (the emotion) and `prompt` (the situation) are the same
    in all rows of a conversation, and its commas are written `_comma_`.
    """
    columns = ("conv_id", "context", "prompt")
    check_columns(source, dataset.column_names, columns)
    rows, seen = [], set()
    cells = zip(*(dataset[column] for column in columns), strict=True)
    for number, (conversation, emotion, situation) in enumerate(cells, 1):
        if conversation not in seen:
            seen.add(conversation)
            text = (situation or "").replace("_comma_", ",")
            rows.append(Row(f"row {number}", {"text": text, "label": emotion or ""}))
    return Table(source, ["text", "label"], rows)


def conversations(source: str, dataset) -> Table:
    """Return one row (`emotion`, `utterances`) per conversation of EmpatheticDialogues, as the local copies have them.

    `utterances` is a list of `{"speaker": "speaker" or "listener", "text"}` in order; who speaks first is the speaker. See
    `situations` for the data set.
    """
    columns = ("conv_id", "utterance_idx", "context", "speaker_idx", "utterance")
    check_columns(source, dataset.column_names, columns)
    said = {}
    for number, cells in enumerate(zip(*(dataset[column] for column in columns), strict=True), 1):
        said.setdefault(cells[0], []).append((cells[1], number, *cells[2:]))
    rows = []
    for turns in said.values():
        turns.sort(key=lambda turn: turn[:2])
        _, first, emotion, speaker, _ = turns[0]
        utterances = [
            {"speaker": "speaker" if who == speaker else "listener", "text": (text or "").replace("_comma_", ",")}
            for *_, who, text in turns
        ]
        rows.append(Row(f"conversation from row {first}", {"emotion": emotion, "utterances": utterances}))
    if not rows:
        raise DataError(f"{source}: the split has no rows")
    return Table(source, ["emotion", "utterances"], rows)
