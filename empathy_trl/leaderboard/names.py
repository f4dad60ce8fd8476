"""What the models of a table are called: short, and each unlike the others."""

import re
from collections import Counter
from pathlib import PurePath

from empathy_trl.leaderboard.entries import Entry


def names(entries: list[Entry]) -> list[str]:
    """Return a name for each model of a group: short, and unlike the others'."""
    models = [entry.evaluation["model"] for entry in entries]
    found = [_short(model) for model in models]
    ways = [
        lambda number: re.sub(r"^(\./)?outputs/", "", models[number]),
        lambda number: (
            f"{found[number]} ({entries[number].evaluation['recipe']} / {entries[number].evaluation['stage']})"
        ),
        lambda number: f"{found[number]} ({'/'.join(PurePath(entries[number].origin).parts[-3:-1])})",
        lambda number: f"{found[number]} (no. {1 + models[:number].count(models[number])})",
    ]
    for way in ways:
        count = Counter(found)
        found = [way(number) if count[name] > 1 else name for number, name in enumerate(found)]
    return found


def _short(model: str) -> str:
    """Return the last two parts of a folder; a Hub id or another name as it is."""
    local = model.startswith(("/", "~", ".", "outputs/"))
    return (
        "/".join(part for part in PurePath(model).parts[-2:] if part not in ("/", "..", "outputs")) or model
        if local
        else model
    )
