"""The content of a leaderboard, independent of the file format: tables of rows, with headings, headlines and notes.

Models and reference rows (baselines, published results) are in the same table, the best first; only models have a rank.
Values from different classifiers of replies have separate columns, because they cannot be compared. Names of models,
data, decoding and metrics come from other people's files: each format escapes everything but the notes, which are ours,
in Markdown.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import PurePath

from huggingface_hub import EvalResultEntry

from empathy_trl.evaluation.base import NAMES, Evaluator
from empathy_trl.evaluation.metrics.reply_classifiers import digests, kind_of_metric
from empathy_trl.hub.leaderboard.entries import Entry, Found, Published, Stated, read_published
from empathy_trl.hub.leaderboard.ranking import Group, Ranking, direction, group, rank
from empathy_trl.hub.results import source_name
from empathy_trl.recipe.schema import SAMPLE
from empathy_trl.text import sanitise

TITLE = "Leaderboard"


@dataclass
class Row:
    """One line of a table.

    Attributes:
        role: "model", "baseline" or "published".
        name: what a reader calls it.
        figures: metric -> `{"value", "low", "high", "n"}`; the last three may lack or be None. Means over seeds also have `sd`.
        rank: from 1; None for a reference row.
        note: a citation or the like, else "".
        url: of the source, else None.
        entry: of a model.
    """

    role: str
    name: str
    figures: dict[str, dict]
    rank: int | None = None
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
        columns: metric -> heading; the first decides the rank.
        rows: the best first.
        apart: published figures that may not stand in the table, one line each.
        notes: what a reader has to know, in Markdown, with code in backticks and nothing else.
        facts: as in `ranking.Group`.
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
        """The metric that decides the rank."""
        return next(iter(self.columns))


@dataclass
class Board:
    """All tables, notes on all of them, and a line for each result that could not be used."""

    tables: list[Table]
    notes: list[str]
    problems: list[str]


def by_value(metric: str):
    """Return a key that sorts rows by a metric, the best first, then by name; rows without a value come last."""
    sign = direction(metric) or 1
    return lambda row: (
        (0, -sign * row.figures[metric]["value"], row.name) if metric in row.figures else (1, 0, row.name)
    )


def names(entries: list[Entry]) -> list[str]:
    """Return a short, unique name for each model of a group; equal names get longer, step by step, until they differ."""
    models = [entry.evaluation["model"] for entry in entries]
    of_seeds = [f", {len(entry.seeds)} seeds" if entry.seeds else "" for entry in entries]
    found = [_short(model) + seeds for model, seeds in zip(models, of_seeds, strict=True)]
    longer = [
        lambda i: re.sub(r"^(\./)?outputs/", "", models[i]) + of_seeds[i],
        lambda i: f"{found[i]} ({entries[i].evaluation['recipe']} / {entries[i].evaluation['stage']})",
        lambda i: f"{found[i]} ({'/'.join(PurePath(entries[i].origin).parts[-3:-1])})",
        lambda i: f"{found[i]} (no. {1 + models[:i].count(models[i])})",
    ]
    for lengthen in longer:
        count = Counter(found)
        found = [lengthen(i) if count[name] > 1 else name for i, name in enumerate(found)]
    return found


def _short(model: str) -> str:
    """Return the last two parts of a folder; a Hub id or another name as it is."""
    if not model.startswith(("/", "~", ".", "outputs/")):
        return model
    return "/".join(part for part in PurePath(model).parts[-2:] if part not in ("/", "..", "outputs")) or model


NOTE = (
    "Each classifier of replies has its own column, named by a digest of its weights, because the figures of two classifiers "
    "cannot be compared."
)
OVER_SEEDS = (
    "Rows over several seeds: the mean ± the standard deviation over the seeds, and the interval of the mean, for which seeds and rows "
    "are drawn again."
)
UNKNOWN = "not recorded"
SHOWN = 8  # characters of a digest


def columns_of(entries: list[Entry]) -> list[dict[str, str]]:
    """Return for each entry metric -> column (`<metric> by <digest>`), for metrics that came from more than one classifier."""
    judges = [_judges(entry.evaluation) for entry in entries]
    given = defaultdict(set)
    for metric, judge in (pair for each in judges for pair in each.items()):
        given[metric].add(judge)
    return [
        {metric: f"{metric} by {judge}" for metric, judge in each.items() if len(given[metric]) > 1} for each in judges
    ]


def heading(words: str, column: str) -> str:
    """Return the heading of a column, given that of its metric."""
    _, by, judge = column.partition(" by ")
    return f"{words} (classifier {judge})" if by else words


def _judges(evaluation: dict) -> dict[str, str]:
    """Return metric -> the classifier that it came from, for the evaluation and its baselines."""
    known = digests(evaluation)
    tables = [evaluation["metrics"], *(evaluation.get("baselines") or {}).values()]
    kinds = {metric: kind_of_metric(metric) for table in tables for metric in table}
    return {metric: known[kind][:SHOWN] if kind in known else UNKNOWN for metric, kind in kinds.items() if kind}


def counts(groups: list[Group], unread: int, stated: int = 0) -> str:
    """Return how many results are in how many tables (one per group), and how many were stated, left out or unreadable."""
    repeated = sum(each.repeated for each in groups)
    found = [f"{_plural(sum(len(each.entries) for each in groups), 'result')} in {_plural(len(groups), 'table')}."]
    if len(groups) > 1:
        found.append("Results that differ in kind, rows, decoding, rewards or metrics version are never in one table.")
    if repeated:
        verb = "repeats" if repeated == 1 else "repeat"
        found.append(f"{_plural(repeated, 'result')} left out that {verb} another: same model, rows and figures.")
    if stated:
        found.append(f"{_plural(stated, 'value')} from .eval_results in tables of benchmarks.")
    if unread:
        found.append(f"{_plural(unread, 'result')} could not be read.")
    return " ".join(found)


def table_heading(each: Group) -> str:
    """Return what was measured, and on which data."""
    data = each.entries[0].evaluation["data"]
    source = source_words(data["source"])
    name = data.get("name") or source
    where = f" of {source}" if source != name else ""
    rows = f", n = {data['n']}" if data.get("n") is not None else ""
    return f"{each.entries[0].evaluator.title}: {name}, {data['split']} split{where}{rows}"


def source_words(source: str) -> str:
    """Return the source of the rows, without the folder that a local source lies in."""
    return "the embedded corpus" if source == SAMPLE else source_name(source)


def headline(models: list[Row], references: list[Row], evaluator: Evaluator) -> str:
    """Return who is first, and whether a reference row is ahead of all models."""
    first = [row for row in models if row.rank == 1]
    value = first[0].figures[evaluator.main_metric]["value"]
    shown = f"{evaluator.main_metric_title} {value:.3f}"
    if len(models) == 1:
        sentence = f"{first[0].name} is the only model here: {shown}."
    elif len(first) == 1:
        sentence = f"{first[0].name} is first: {shown}."
    else:
        between = "their difference is" if len(first) == 2 else "their differences are"
        sentence = f"{_listed([row.name for row in first])} share rank 1: {between} not significant."
    best = min(models, key=by_value(evaluator.main_metric)).figures[evaluator.main_metric]["value"]
    sign = direction(evaluator.main_metric) or 1
    ahead = [
        row
        for row in references
        if evaluator.main_metric in row.figures and sign * (row.figures[evaluator.main_metric]["value"] - best) > 0
    ]
    if ahead:
        top = min(ahead, key=by_value(evaluator.main_metric))
        sentence += f" No model has a better figure than {top.name}: {top.figures[evaluator.main_metric]['value']:.3f}."
    return sentence


def _listed(names: list[str]) -> str:
    if len(names) > 4:
        names = [*names[:3], f"{len(names) - 3} others"]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def not_comparable(figure: Published, facts: dict) -> str:
    """Return a line about a published figure that is not comparable with the table, with the reasons."""
    figures = ", ".join(f"{name} {value:.3f}" for name, value in figure.metrics.items())
    url = f", {figure.url}" if figure.url else ""
    return f"{figure.name}: {figures} ({'; '.join(figure.why_apart(facts))}). Source: {figure.citation}{url}"


def notes(each: Group, evaluator: Evaluator, ranking: Ranking) -> list[str]:
    """Return what a reader of the table has to know, in Markdown."""
    found = [evaluator.note]
    if ranking.pairs:
        found.append(_compared(ranking))
    if any("perplexity" in entry.evaluation["metrics"] for entry in each.entries) and len(each.entries) > 1:
        found.append("Perplexities of models with different tokenizers cannot be compared.")
    if any(entry.seeds for entry in each.entries):
        found.append(OVER_SEEDS)
    if each.repeated:
        found.append(f"{_plural(each.repeated, 'result')} left out that repeated another.")
    return found


def _compared(ranking: Ranking) -> str:
    by_interval = ranking.pairs - ranking.paired
    if not by_interval:
        how = "row by row (paired bootstrap)"
    elif not ranking.paired:
        how = "by whether their intervals overlap, without predictions of the same rows"
    else:
        how = f"row by row (paired bootstrap) where there are predictions, {by_interval} by whether their intervals overlap"
    return f"Ranks: {_plural(ranking.pairs, 'pair')} of models compared {how}."


def _plural(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


RULE = (
    "Rank: 1 + the number of models that are significantly better (at the 5 % level), so models that do not differ significantly "
    "share a rank. Only models have a rank."
)
LEGEND = "↑: more is better; ↓: less is better; no arrow: neither. In brackets: the 95 % interval. –: no figure."


def build_board(found: Found, published: list[Published] | None = None) -> Board:
    """Return the leaderboard of evaluations; `published` are those of the package unless given."""
    published = read_published() if published is None else published
    groups = group(found.entries)
    problems = [*found.problems, *found.unpooled]
    tables = [_table(number, each, published, problems) for number, each in enumerate(groups, start=1)]
    tables += _benchmarks(found.stated, len(tables) + 1)
    count = Counter(table.heading for table in tables)
    for table in tables:
        same = count[table.heading] > 1 and table.why_apart
        table.label = f"{table.heading} ({table.why_apart})" if same else table.heading
    return Board(tables, [counts(groups, len(found.problems), len(found.stated)), RULE, LEGEND], problems)


VALUE = "stated value"
STATED_NOTE = (
    "These values are those that the models' repositories state in `.eval_results/`. They have no intervals, and therefore no "
    "ranks. The metric, and whether more of it is better, is the benchmark's."
)


def _benchmarks(stated: list[Stated], first: int) -> list[Table]:
    """Return one table for each task of a benchmark, the highest value first; `first` numbers the first one."""
    by_task = defaultdict(list)
    for each in stated:
        by_task[sanitise(each.result.dataset_id), sanitise(each.result.task_id)].append(each)
    tables = []
    for number, ((data, task), results) in enumerate(sorted(by_task.items()), start=first):
        rows = [
            Row("published", _short(sanitise(each.model)), {VALUE: {"value": each.result.value}}, note=_said(each.result), url=each.result.source_url)
            for each in results
        ]  # fmt: skip
        rows.sort(key=by_value(VALUE))
        heading = f"Benchmark {data}, task {task}"
        facts = dict.fromkeys(("kind", "data", "split", "rows", "metrics_version", "decoding", "judged_by"))
        tables.append(
            Table(
                anchor=f"table-{number}",
                heading=heading,
                why_apart="",
                headline=f"{_plural(len(rows), 'value')} from .eval_results.",
                columns={VALUE: VALUE},
                rows=rows,
                apart=[],
                notes=[STATED_NOTE],
                facts=facts | {"kind": "benchmark", "data": data},
                data={"revision": None, "n": None, "source": data},
            )
        )
    return tables


def _said(result: EvalResultEntry) -> str:
    """Return what an entry says of its value besides the address of its source."""
    said = (result.source_name, result.date, result.notes)
    return sanitise("; ".join(each for each in said if each)) or "no notes"


def _table(number: int, each: Group, published: list[Published], problems: list[str]) -> Table:
    evaluator, data = each.entries[0].evaluator, each.entries[0].evaluation["data"]
    ranking = rank(each.entries)
    problems += ranking.problems
    column_of = columns_of(each.entries)
    models = [
        Row("model", name, _in_columns(entry.evaluation["metrics"], column), rank_, entry=entry)
        for name, entry, rank_, column in zip(names(each.entries), each.entries, ranking.ranks, column_of, strict=True)
    ]
    models.sort(key=lambda row: (row.rank, *by_value(evaluator.main_metric)(row)))
    ours = [figure for figure in published if (figure.kind, figure.data) == (each.facts["kind"], each.facts["data"])]
    inside = [figure for figure in ours if not figure.why_apart(each.facts)]
    references = _baselines(each.entries, column_of) + [
        Row("published", figure.name, {name: {"value": value, "n": figure.n} for name, value in figure.metrics.items()},
            note=figure.citation, url=figure.url)
        for figure in inside
    ]  # fmt: skip
    columns = {evaluator.main_metric: evaluator.main_metric_title}
    for entry, column in zip(each.entries, column_of, strict=True):
        titles = _in_columns(evaluator.column_titles(entry.evaluation), column)
        columns |= {name: heading(title, name) for name, title in titles.items() if name != evaluator.main_metric}
    rows = _merged(models, sorted(references, key=by_value(evaluator.main_metric)), evaluator.main_metric)
    return Table(
        anchor=f"table-{number}",
        heading=table_heading(each),
        why_apart=f"apart from table {each.first + 1}: {'; '.join(each.reasons)}" if each.reasons else "",
        headline=headline(models, references, evaluator),
        columns=columns,
        rows=rows,
        apart=[not_comparable(figure, each.facts) for figure in ours if figure not in inside],
        notes=notes(each, evaluator, ranking) + ([NOTE] if any(column_of) else []),
        facts=each.facts,
        data={key: data.get(key) for key in ("revision", "n")} | {"source": source_words(data["source"])},
    )


def _merged(models: list[Row], references: list[Row], metric: str) -> list[Row]:
    """Return the models in their order, and each reference row before the first model that it is better than."""
    key, rows, left = by_value(metric), [], list(references)
    for model in models:
        while left and key(left[0]) < key(model):
            rows.append(left.pop(0))
        rows.append(model)
    return rows + left


def _in_columns(by_metric: dict, column: dict[str, str]) -> dict:
    """Return the values by column instead of by metric."""
    return {column.get(metric, metric): value for metric, value in by_metric.items()}


def _baselines(entries: list[Entry], column_of: list[dict[str, str]]) -> list[Row]:
    """Return the baselines of the evaluations: equal ones once, others with their recipe in the name."""
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
