"""A leaderboard before it has a format: tables with headings, headlines and notes.

Models and reference rows stand in one table, the best first; only models have a place (`rank`). Names of models, data, decoding
and metrics come from files that anybody may have written: a format escapes whatever it shows but the notes, which are ours, in Markdown.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePath

from empathy_trl.evaluation.baselines import NAMES
from empathy_trl.leaderboard.directions import direction
from empathy_trl.leaderboard.entries import Entry, Found
from empathy_trl.leaderboard.groups import Group, group
from empathy_trl.leaderboard.judges import NOTE, columns_of, heading
from empathy_trl.leaderboard.published import Published, read_published
from empathy_trl.leaderboard.rank import Ranking, rank
from empathy_trl.model_card.results import source_name
from empathy_trl.recipe.schema import SAMPLE

TITLE = "Leaderboard"
RULE = (
    "Place: 1 + the number of models that are established to be better (95 %); models that chance may have put in this order share "
    "one. Only models have a place."
)
LEGEND = "↑ more is better, ↓ less is, neither without an arrow. In brackets: the 95 % interval. – is no figure."
WORDS = {
    "emotions": "Naming emotions",
    "labels": "Classifying",
    "ratings": "Rating",
    "pairs": "Ordering replies",
    "replies": "Replying",
    "staged": "Reacting, responding, reflecting",
}


@dataclass
class Row:
    """One line of a table.

    Attributes:
        role: "model", "baseline" or "published".
        name: what a reader calls it.
        figures: metric -> `{"value", "low", "high", "n"}`; the last three may lack or be None.
        place: from 1; None for a reference row.
        note: a citation or the like, else "".
        url: of the source, else None.
        entry: of a model.
    """

    role: str
    name: str
    figures: dict[str, dict]
    place: int | None = None
    note: str = ""
    url: str | None = None
    entry: Entry | None = None


@dataclass
class Table:
    """What stands in one table: comparable results.

    Attributes:
        anchor: a name for links, unlike all others.
        heading: what was measured on what.
        why_apart: from which table of the same kind and data it stands apart, and why; "" for the first.
        headline: who is first.
        columns: metric -> heading; the first decides the place.
        rows: the best first.
        apart: published figures that may not stand in the table, one line each.
        notes: what a reader has to know, in Markdown, with code in backticks and nothing else.
        facts: as in `groups`.
        data: of the evaluations, with `source`, `revision`, `n`.
        label: the heading or, where another table has the same one, with what tells them apart.
    """

    anchor: str
    heading: str
    why_apart: str
    headline: str
    columns: dict[str, str]
    rows: list[Row]
    apart: list[str]
    notes: list[str]
    facts: dict
    data: dict = field(default_factory=dict)
    label: str = ""

    @property
    def main(self) -> str:
        """The metric that decides the place."""
        return next(iter(self.columns))


@dataclass
class Board:
    """All tables, and what to know of all of them."""

    tables: list[Table]
    notes: list[str]
    problems: list[str]


def build_board(found: Found, published: list[Published] | None = None) -> Board:
    """Return the leaderboard of evaluations; `published` are those of the package unless given."""
    published = read_published() if published is None else published
    groups = group(found.entries)
    problems = list(found.problems)
    tables = [_table(number, each, published, problems) for number, each in enumerate(groups, start=1)]
    count = Counter(table.heading for table in tables)
    for table in tables:
        same = count[table.heading] > 1 and table.why_apart
        table.label = f"{table.heading} ({table.why_apart})" if same else table.heading
    repeated = sum(each.repeated for each in groups)
    models = sum(len(each.entries) for each in groups)
    counts = [f"{_plural(models, 'result')} in {_plural(len(tables), 'table')}."]
    if len(tables) > 1:
        counts.append("Results that differ in kind, rows, decoding, rewards or metrics version are never in one table.")
    if repeated:
        counts.append(
            f"{_plural(repeated, 'result')} left out that {'repeats' if repeated == 1 else 'repeat'} another: same model, rows and figures."
        )
    if found.problems:
        counts.append(f"{_plural(len(found.problems), 'result')} could not be read.")
    return Board(tables, [" ".join(counts), RULE, LEGEND], problems)


def _table(number: int, each: Group, published: list[Published], problems: list[str]) -> Table:
    kind, data = each.entries[0].kind, each.entries[0].evaluation["data"]
    ranking = rank(each.entries)
    problems += ranking.problems
    column_of = columns_of(each.entries)
    models = [
        Row("model", name, _in_columns(entry.evaluation["metrics"], column), place, entry=entry)
        for name, entry, place, column in zip(names(each.entries), each.entries, ranking.places, column_of, strict=True)
    ]
    models.sort(key=lambda row: (row.place, *_by_value(kind.MAIN)(row)))
    ours = [figure for figure in published if (figure.kind, figure.data) == (each.facts["kind"], each.facts["data"])]
    inside = [figure for figure in ours if not figure.why_apart(each.facts)]
    references = _baselines(each.entries, column_of) + [
        Row("published", figure.name, {name: {"value": value, "n": figure.n} for name, value in figure.metrics.items()},
            note=figure.citation, url=figure.url)
        for figure in inside
    ]  # fmt: skip
    columns = {kind.MAIN: kind.MAIN_WORDS}
    for entry, column in zip(each.entries, column_of, strict=True):
        words = _in_columns(kind.columns(entry.evaluation), column)
        columns |= {name: heading(said, name) for name, said in words.items() if name != kind.MAIN}
    rows = _merged(models, sorted(references, key=_by_value(kind.MAIN)), kind.MAIN)
    return Table(
        anchor=f"table-{number}",
        heading=_heading(each),
        why_apart=f"apart from table {each.first + 1}: {'; '.join(each.reasons)}" if each.reasons else "",
        headline=_headline(models, references, kind),
        columns=columns,
        rows=rows,
        apart=[_apart(figure, each.facts) for figure in ours if figure not in inside],
        notes=_notes(each, kind, ranking) + [NOTE] * any(column_of),
        facts=each.facts,
        data={key: data.get(key) for key in ("revision", "n")} | {"source": source_words(data["source"])},
    )


def _in_columns(by_metric: dict, column: dict[str, str]) -> dict:
    return {column.get(metric, metric): value for metric, value in by_metric.items()}


def _by_value(metric: str):
    """Return a key that sorts rows by a metric, the best first, then by name; rows without a value come last."""
    sign = direction(metric) or 1
    return lambda row: (
        (0, -sign * row.figures[metric]["value"], row.name) if metric in row.figures else (1, 0, row.name)
    )


def _merged(models: list[Row], references: list[Row], metric: str) -> list[Row]:
    """Return models in their order, each reference row before the first model that it is better than."""
    key, rows, left = _by_value(metric), [], list(references)
    for model in models:
        while left and key(left[0]) < key(model):
            rows.append(left.pop(0))
        rows.append(model)
    return rows + left


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


def _baselines(entries: list[Entry], column_of: list[dict[str, str]]) -> list[Row]:
    """Return the baselines of the evaluations, equal ones once; others carry the recipe that they are of."""
    found: dict[str, dict[str, tuple[dict, Entry]]] = {}
    for entry, column in zip(entries, column_of, strict=True):
        for name, metrics in (entry.evaluation.get("baselines") or {}).items():
            of_name, figures = found.setdefault(name, {}), _in_columns(metrics, column)
            if figures:
                of_name.setdefault(str(sorted((key, each["value"]) for key, each in figures.items())), (figures, entry))
    rows = []
    for name, different in found.items():
        for figures, entry in different.values():
            words = NAMES.get(name, name)
            ending = f" ({entry.evaluation['recipe']} / {entry.evaluation['stage']})" if len(different) > 1 else ""
            rows.append(Row("baseline", words + ending, figures))
    return rows


def _heading(each: Group) -> str:
    data = each.entries[0].evaluation["data"]
    source = source_words(data["source"])
    name = data.get("name") or source
    where = f" of {source}" if source != name else ""
    rows = f", n = {data['n']}" if data.get("n") is not None else ""
    return f"{WORDS[each.facts['kind']]}: {name}, {data['split']} split{where}{rows}"


def source_words(source: str) -> str:
    """Return where rows come from, without where that lies on somebody's machine."""
    return "the embedded corpus" if source == SAMPLE else source_name(source)


def _headline(models: list[Row], references: list[Row], kind) -> str:
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
    best = min(models, key=_by_value(kind.MAIN)).figures[kind.MAIN]["value"]
    sign = direction(kind.MAIN) or 1
    ahead = [
        row for row in references if kind.MAIN in row.figures and sign * (row.figures[kind.MAIN]["value"] - best) > 0
    ]
    if ahead:
        top = min(ahead, key=_by_value(kind.MAIN))
        said += f" No model has a better figure than {top.name}: {top.figures[kind.MAIN]['value']:.3f}."
    return said


def _listed(names: list[str]) -> str:
    if len(names) > 4:
        names = [*names[:3], f"{len(names) - 3} others"]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _apart(figure: Published, facts: dict) -> str:
    figures = ", ".join(f"{name} {value:.3f}" for name, value in figure.metrics.items())
    url = f", {figure.url}" if figure.url else ""
    return f"{figure.name}: {figures} ({'; '.join(figure.why_apart(facts))}). Source: {figure.citation}{url}"


def _notes(each: Group, kind, ranking: Ranking) -> list[str]:
    notes = [kind.NOTE]
    if ranking.pairs:
        notes.append(_compared(ranking))
    if any("perplexity" in entry.evaluation["metrics"] for entry in each.entries) and len(each.entries) > 1:
        notes.append("Perplexities of models with different tokenizers cannot be compared.")
    if each.repeated:
        notes.append(f"{_plural(each.repeated, 'result')} left out that repeated another.")
    return notes


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
