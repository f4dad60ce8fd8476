"""What is said of a table in words: its heading, its headline, and what a reader has to know."""

from empathy_trl.leaderboard.directions import direction
from empathy_trl.leaderboard.groups import Group
from empathy_trl.leaderboard.published import Published
from empathy_trl.leaderboard.rank import Ranking
from empathy_trl.leaderboard.table import Row, by_value
from empathy_trl.model_card.results import source_name
from empathy_trl.recipe.schema import SAMPLE

WORDS = {
    "emotions": "Naming emotions",
    "labels": "Classifying",
    "ratings": "Rating",
    "pairs": "Ordering replies",
    "replies": "Replying",
    "staged": "Reacting, responding, reflecting",
}


def counts(groups: list[Group], unread: int) -> str:
    """Say how many results there are in how many tables (one a group), and how many were left out or could not be read."""
    repeated = sum(each.repeated for each in groups)
    found = [f"{_plural(sum(len(each.entries) for each in groups), 'result')} in {_plural(len(groups), 'table')}."]
    if len(groups) > 1:
        found.append("Results that differ in kind, rows, decoding, rewards or metrics version are never in one table.")
    if repeated:
        verb = "repeats" if repeated == 1 else "repeat"
        found.append(f"{_plural(repeated, 'result')} left out that {verb} another: same model, rows and figures.")
    if unread:
        found.append(f"{_plural(unread, 'result')} could not be read.")
    return " ".join(found)


def heading(each: Group) -> str:
    """Return what was measured on what."""
    data = each.entries[0].evaluation["data"]
    source = source_words(data["source"])
    name = data.get("name") or source
    where = f" of {source}" if source != name else ""
    rows = f", n = {data['n']}" if data.get("n") is not None else ""
    return f"{WORDS[each.facts['kind']]}: {name}, {data['split']} split{where}{rows}"


def source_words(source: str) -> str:
    """Return where rows come from, without where that lies on somebody's machine."""
    return "the embedded corpus" if source == SAMPLE else source_name(source)


def headline(models: list[Row], references: list[Row], kind) -> str:
    """Say who is first, and whether a reference row is ahead of them all."""
    first = [row for row in models if row.place == 1]
    value = first[0].figures[kind.MAIN]["value"]
    shown = f"{kind.MAIN_WORDS} {value:.3f}"
    if len(models) == 1:
        said = f"{first[0].name} is the only model here: {shown}."
    elif len(first) == 1:
        said = f"{first[0].name} is first: {shown}."
    else:
        between = "their difference is" if len(first) == 2 else "their differences are"
        said = f"{_listed([row.name for row in first])} share the first place: {between} within chance."
    best = min(models, key=by_value(kind.MAIN)).figures[kind.MAIN]["value"]
    sign = direction(kind.MAIN) or 1
    ahead = [
        row for row in references if kind.MAIN in row.figures and sign * (row.figures[kind.MAIN]["value"] - best) > 0
    ]
    if ahead:
        top = min(ahead, key=by_value(kind.MAIN))
        said += f" No model has a better figure than {top.name}: {top.figures[kind.MAIN]['value']:.3f}."
    return said


def _listed(names: list[str]) -> str:
    if len(names) > 4:
        names = [*names[:3], f"{len(names) - 3} others"]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def not_comparable(figure: Published, facts: dict) -> str:
    """Return a line about a published figure that may not stand in the table, with the reasons."""
    figures = ", ".join(f"{name} {value:.3f}" for name, value in figure.metrics.items())
    url = f", {figure.url}" if figure.url else ""
    return f"{figure.name}: {figures} ({'; '.join(figure.why_apart(facts))}). Source: {figure.citation}{url}"


def notes(each: Group, kind, ranking: Ranking) -> list[str]:
    """Return what a reader of the table has to know, in Markdown."""
    found = [kind.NOTE]
    if ranking.pairs:
        found.append(_compared(ranking))
    if any("perplexity" in entry.evaluation["metrics"] for entry in each.entries) and len(each.entries) > 1:
        found.append("Perplexities of models with different tokenizers cannot be compared.")
    if each.repeated:
        found.append(f"{_plural(each.repeated, 'result')} left out that repeated another.")
    return found


def _compared(ranking: Ranking) -> str:
    by_interval = ranking.pairs - ranking.paired
    if not by_interval:
        how = "row by row (paired bootstrap)"
    elif not ranking.paired:
        how = "by whether their intervals overlap: there are no predictions of the same rows at hand"
    else:
        how = f"row by row (paired bootstrap) where predictions were at hand, {by_interval} by whether their intervals overlap"
    return f"Places: {_plural(ranking.pairs, 'pair')} of models compared {how}."


def _plural(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
