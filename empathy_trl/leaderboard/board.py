"""A leaderboard before it has a format: tables with headings, headlines and notes.

Models and reference rows stand in one table, the best first; only models have a place (`rank`). Names of models, data, decoding
and metrics come from files that anybody may have written: a format escapes whatever it shows but the notes, which are ours, in Markdown.
"""

from collections import Counter

from empathy_trl.evaluation.baselines import NAMES
from empathy_trl.leaderboard import sentences
from empathy_trl.leaderboard.entries import Entry, Found
from empathy_trl.leaderboard.groups import Group, group
from empathy_trl.leaderboard.names import names
from empathy_trl.leaderboard.published import Published, read_published
from empathy_trl.leaderboard.rank import rank
from empathy_trl.leaderboard.table import Board, Row, Table, by_value

RULE = (
    "Place: 1 + the number of models that are established to be better (95 %); models that chance may have put in this order share "
    "one. Only models have a place."
)


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
    return Board(tables, [sentences.counts(groups, len(found.problems)), RULE], problems)


def _table(number: int, each: Group, published: list[Published], problems: list[str]) -> Table:
    kind, data = each.entries[0].kind, each.entries[0].evaluation["data"]
    ranking = rank(each.entries)
    problems += ranking.problems
    models = [
        Row("model", name, entry.evaluation["metrics"], place, entry=entry)
        for name, entry, place in zip(names(each.entries), each.entries, ranking.places, strict=True)
    ]
    models.sort(key=lambda row: (row.place, *by_value(kind.MAIN)(row)))
    ours = [figure for figure in published if (figure.kind, figure.data) == (each.facts["kind"], each.facts["data"])]
    inside = [figure for figure in ours if not figure.why_apart(each.facts)]
    references = _baselines(each.entries) + [
        Row("published", figure.name, {name: {"value": value, "n": figure.n} for name, value in figure.metrics.items()},
            note=figure.citation, url=figure.url)
        for figure in inside
    ]  # fmt: skip
    columns = {kind.MAIN: kind.MAIN_WORDS}
    for entry in each.entries:
        columns |= {name: words for name, words in kind.columns(entry.evaluation).items() if name != kind.MAIN}
    rows = _merged(models, sorted(references, key=by_value(kind.MAIN)), kind.MAIN)
    return Table(
        anchor=f"table-{number}",
        heading=sentences.heading(each),
        why_apart=f"apart from table {each.first + 1}: {'; '.join(each.reasons)}" if each.reasons else "",
        headline=sentences.headline(models, references, kind),
        columns=columns,
        rows=rows,
        apart=[sentences.not_comparable(figure, each.facts) for figure in ours if figure not in inside],
        notes=sentences.notes(each, kind, ranking),
        facts=each.facts,
        data={key: data.get(key) for key in ("revision", "n")} | {"source": sentences.source_words(data["source"])},
    )


def _merged(models: list[Row], references: list[Row], metric: str) -> list[Row]:
    """Return models in their order, each reference row before the first model that it is better than."""
    key, rows, left = by_value(metric), [], list(references)
    for model in models:
        while left and key(left[0]) < key(model):
            rows.append(left.pop(0))
        rows.append(model)
    return rows + left


def _baselines(entries: list[Entry]) -> list[Row]:
    """Return the baselines of the evaluations, equal ones once; others carry the recipe that they are of."""
    found: dict[str, dict[str, tuple[dict, Entry]]] = {}
    for entry in entries:
        for name, figures in (entry.evaluation.get("baselines") or {}).items():
            of_name = found.setdefault(name, {})
            if figures:
                of_name.setdefault(str(sorted((key, each["value"]) for key, each in figures.items())), (figures, entry))
    rows = []
    for name, different in found.items():
        for figures, entry in different.values():
            words = NAMES.get(name, name)
            ending = f" ({entry.evaluation['recipe']} / {entry.evaluation['stage']})" if len(different) > 1 else ""
            rows.append(Row("baseline", words + ending, figures))
    return rows
