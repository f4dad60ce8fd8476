"""A leaderboard before it has a format: tables with headings, headlines and notes.

Models and reference rows stand in one table, the best first; only models have a place (`rank`). Names of models, data, decoding
and metrics come from files that anybody may have written: a format escapes whatever it shows but the notes, which are ours, in Markdown.
"""

from collections import Counter

from empathy_trl.evaluation.baselines import NAMES
from empathy_trl.leaderboard import sentences
from empathy_trl.leaderboard.entries import Entry, Found
from empathy_trl.leaderboard.groups import Group, group
from empathy_trl.leaderboard.judges import NOTE, columns_of, heading
from empathy_trl.leaderboard.names import names
from empathy_trl.leaderboard.published import Published, read_published
from empathy_trl.leaderboard.rank import rank
from empathy_trl.leaderboard.table import Board, Row, Table, by_value

RULE = (
    "Place: 1 + the number of models that are established to be better (95 %); models that chance may have put in this order share "
    "one. Only models have a place."
)
LEGEND = "↑ more is better, ↓ less is, neither without an arrow. In brackets: the 95 % interval. – is no figure."


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
    return Board(tables, [sentences.counts(groups, len(found.problems)), RULE, LEGEND], problems)


def _table(number: int, each: Group, published: list[Published], problems: list[str]) -> Table:
    kind, data = each.entries[0].kind, each.entries[0].evaluation["data"]
    ranking = rank(each.entries)
    problems += ranking.problems
    column_of = columns_of(each.entries)
    models = [
        Row("model", name, _in_columns(entry.evaluation["metrics"], column), place, entry=entry)
        for name, entry, place, column in zip(names(each.entries), each.entries, ranking.places, column_of, strict=True)
    ]
    models.sort(key=lambda row: (row.place, *by_value(kind.MAIN)(row)))
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
    rows = _merged(models, sorted(references, key=by_value(kind.MAIN)), kind.MAIN)
    return Table(
        anchor=f"table-{number}",
        heading=sentences.heading(each),
        why_apart=f"apart from table {each.first + 1}: {'; '.join(each.reasons)}" if each.reasons else "",
        headline=sentences.headline(models, references, kind),
        columns=columns,
        rows=rows,
        apart=[sentences.not_comparable(figure, each.facts) for figure in ours if figure not in inside],
        notes=sentences.notes(each, kind, ranking) + [NOTE] * any(column_of),
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


def _in_columns(by_metric: dict, column: dict[str, str]) -> dict:
    """Return the same by column: figures of different classifiers have columns of their own."""
    return {column.get(metric, metric): value for metric, value in by_metric.items()}


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
