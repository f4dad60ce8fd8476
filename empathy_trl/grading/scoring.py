"""Scores for a file of contexts and responses: whatever has no score yet is shown to the judge, equal pairs once."""

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from tqdm.auto import tqdm

from empathy_trl.grading.pairs import Pair, read_pairs
from empathy_trl.grading.scores import ScoreFile, open_scores
from empathy_trl.rewards.llm_judge import LLMJudge

# Pairs asked about together, per request under way: so many that the end of a batch, where some wait for the last, costs
# little; so few that a server which has died is noticed soon.
PAIRS_PER_SLOT = 12


@dataclass
class Scored:
    """What a run has done.

    Args:
        rows: of the input, as far as `limit` goes.
        before: those that were scored by earlier runs.
        empty: those with an empty response, which get the lowest scores unasked.
        means: aspect -> mean score of all scored rows.
        missing: rows that stay without a score.
    """

    rows: int
    before: int
    empty: int
    missing: int
    means: dict[str, float]


def score_file(judge: LLMJudge, source: Path, output: Path, limit: int | None = None) -> Scored:
    """Score the rows of a source that have no score in `output` yet; formats in `pairs` and `scores`.

    Args:
        judge: grades; its `max_failure_share` is held against each batch.
        source: see `pairs.read_pairs`.
        output: see `scores`; made when missing.
        limit: only this many rows, the first ones.

    Raises:
        JudgeFailed: too many rows of a batch stay without a valid answer; everything that was answered is in `output`.
        UserError, DataError: input or output cannot be used.
    """
    pairs = read_pairs(source)
    rows = range(min(len(pairs), limit or len(pairs)))
    with open_scores(output, pairs, judge) as scores:
        before = sum(row in scores.ratings for row in rows)
        groups = equal_pairs(pairs, rows)
        with tqdm(total=len(rows), initial=before, desc="score", unit="row") as bar:
            asyncio.run(_score(judge, pairs, groups, scores, bar))
        found = [scores.ratings[row] for row in rows if row in scores.ratings]
        empty = sum(not pairs[row].response.strip() for row in rows)
    means = {name: fmean(ratings[name] for ratings in found) for name in judge.aspects if found}
    return Scored(len(rows), before, empty, len(rows) - len(found), means)


def equal_pairs(pairs: list[Pair], rows) -> list[list[int]]:
    """Return the given rows in groups of the same context and response, in the order of their first rows."""
    groups = defaultdict(list)
    for row in rows:
        groups[json.dumps([pairs[row].context, pairs[row].response], sort_keys=True)].append(row)
    return list(groups.values())


async def _score(judge: LLMJudge, pairs: list[Pair], groups: list[list[int]], scores: ScoreFile, bar: tqdm):
    def add(group: list[int], ratings: dict[str, float]):
        for row in group:
            if row not in scores.ratings:
                scores.add(row, ratings)
                bar.update()

    waiting = []
    for group in groups:
        known = next((scores.ratings[row] for row in group if row in scores.ratings), None)
        if known is None:
            waiting.append(group)
        else:
            add(group, known)
    for batch in _batches(waiting, PAIRS_PER_SLOT * judge.concurrency):
        asked = [pairs[group[0]] for group in batch]
        prompts, responses = [pair.messages for pair in asked], [pair.response for pair in asked]
        await judge.grade(prompts, responses, lambda row, ratings, batch=batch: add(batch[row], ratings))


def _batches(items: list, size: int) -> list[list]:
    """Return the items in batches of at most `size`, as even as can be: a share of a small rest would say little."""
    count = -(-len(items) // size)
    return [items[len(items) * i // count : len(items) * (i + 1) // count] for i in range(count)]
