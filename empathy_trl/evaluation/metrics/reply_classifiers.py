"""Metrics of replies from trained classifiers: EPITOME levels, emotion and intent; also which classifiers were used.

The metrics follow Lee et al., "Does GPT-3 Generate Empathetic Dialogues?" (COLING 2022), and Welivita & Pu (COLING
2020). A classifier makes mistakes; the report of its own recipe gives its error rate. Each metric is therefore shown
beside the same classifier's value for the reference replies, or beside that of a constant.

An evaluation records its classifiers in `eval_<split>.json` as `classifiers`: kind -> `{"model", "weights"}`, the name
in the recipe and a digest of the loaded weights. A model card has the digests only. Two values come from the same
classifier if the digests are equal, whatever the folders are called. Half precision, as on a GPU, gives another digest
and slightly different values. For a reward with a model, the digest is `weights` of its entry in `judged_by`.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from empathy_trl.data.labelled import LEVELS, MECHANISMS
from empathy_trl.errors import UserError
from empathy_trl.evaluation.metrics.bootstrap import bootstrap, mean_figures
from empathy_trl.io import user_name
from empathy_trl.models.hub_files import (
    ADAPTER_FILE,
    NO_CODE,
    check_exists,
    first_file,
    hub_errors,
    split_revision,
)
from empathy_trl.models.label_schema import CLASSIFICATION, label_groups, listed, pearson, probabilities, require
from empathy_trl.recipe.schema import CLASSIFIERS_KEY, hint
from empathy_trl.tags import user_text
from empathy_trl.text import is_visible


def check_outputs(kind: str, config) -> None:
    """Raise UserError unless a model with this config is a classifier of a kind, a key of `recipe.classifiers.RECIPES`."""
    where = f"{CLASSIFIERS_KEY}.{kind}"
    try:
        require(config, CLASSIFICATION)
        groups = label_groups(config)
    except UserError as error:
        raise _unusable(kind, error) from error
    if kind == "epitome":
        if {name: tuple(map(str, labels)) for name, labels in groups.items()} != dict.fromkeys(MECHANISMS, LEVELS):
            raise UserError(
                f"{where}: the model's groups of labels are {listed(groups)}; expected {listed(MECHANISMS)} with the "
                f"levels {', '.join(LEVELS)} each; {hint(kind)}"
            )
    elif len(groups) != 1 or len(next(iter(groups.values()))) < 2:
        raise UserError(
            f"{where}: the model's groups of labels are {listed(groups)}; expected one group of two labels or more; "
            f"{hint(kind)}"
        )


def check_configs(classifiers: dict[str, str]) -> None:
    """Raise UserError for models, kind -> name, whose `config.json` cannot be had or does not fit; reads no weights."""
    from transformers import AutoConfig  # takes seconds, which comparisons and leaderboards do without

    for kind, name in classifiers.items():
        try:
            plain, revision = split_revision(user_name(name))
            check_exists(plain)
            with hub_errors(plain, revision):
                if first_file(plain, revision, [ADAPTER_FILE, "config.json"]).name == ADAPTER_FILE:
                    continue  # what it puts out is known once it is on its base
                config = AutoConfig.from_pretrained(plain, revision=revision, **NO_CODE)
        except UserError as error:
            raise _unusable(kind, error) from error
        check_outputs(kind, config)


def _unusable(kind: str, error: UserError) -> UserError:
    return UserError(f"{CLASSIFIERS_KEY}.{kind}: {error}; {hint(kind)}")


def load_classifiers(classifiers: dict[str, str]) -> dict:
    """Return kind -> shared `Scorer` for models, kind -> name.

    Raises:
        UserError: one cannot be loaded, or its outputs do not fit.
    """
    from empathy_trl.models.scorer import shared_scorer  # imports torch

    scorers = {}
    for kind, name in classifiers.items():
        try:
            scorers[kind] = shared_scorer(name)
        except UserError as error:
            raise _unusable(kind, error) from error
        check_outputs(kind, scorers[kind].config)
    return scorers


@dataclass
class Judged:
    """What classifiers say of replies, in the form in which an evaluation reports it.

    Attributes:
        rows: metric -> one value per row, None where it does not apply.
        metrics: those that are no means over rows.
        baselines: name -> metrics.
        left_out: metric -> why it has no value.
    """

    rows: dict[str, list] = field(default_factory=dict)
    metrics: dict[str, dict] = field(default_factory=dict)
    baselines: dict[str, dict] = field(default_factory=lambda: {"reference": {}, "majority": {}, "constant_0": {}})
    left_out: dict[str, str] = field(default_factory=dict)


def judge_replies(scorers: dict, prompts: list, replies: list[str], references: list[str], emotions) -> Judged:
    """Return what the classifiers say.

    Args:
        scorers: of `load_classifiers`.
        prompts, replies, references: of the same rows.
        emotions: the emotion of each row's dialogue (None where nobody knows it), or None where the data has none.

    Raises:
        UserError: the data has an emotion that the classifier does not know; and what scorers raise.
    """
    judged = Judged()
    if "epitome" in scorers:
        _judge_levels(judged, scorers["epitome"], [user_text(prompt) for prompt in prompts], replies, references)
    if "emotion" in scorers and emotions is None:
        judged.left_out["emo_acc"] = "the data has no column `emotion`"
    elif "emotion" in scorers:
        _judge_emotions(judged, scorers["emotion"], replies, references, emotions)
    if "intent" in scorers:
        _judge_intents(judged, scorers["intent"], replies, references)
    return judged


def _judge_levels(judged: Judged, scorer, utterances: list[str], replies: list[str], references: list[str]) -> None:
    """Add the levels of EPITOME's mechanisms, of the pair of what the user said last and the reply.

    `epitome_<mechanism>` is the mean of the likeliest levels, 0 to 2, `_difference` the mean difference to the
    reference's, `_mse` the mean squared one (diff-EPITOME), and `_pearson` the correlation with the reference's levels. A
    reply in which nothing is to be seen has level 0; a row whose user said nothing has no level.
    """
    given, wanted = (_levels(scorer, utterances, texts) for texts in (replies, references))
    asked = [is_visible(utterance) for utterance in utterances]
    for mechanism in MECHANISMS:
        name = f"epitome_{mechanism}"
        ours, theirs = given[mechanism][asked], wanted[mechanism][asked]
        rows = {"": ours, "_difference": ours - theirs, "_mse": (ours - theirs) ** 2}
        judged.rows |= {name + ending: _spread(values, asked) for ending, values in rows.items()}
        reference = {name: theirs}
        constant = {name: 0 * theirs, f"{name}_difference": -theirs, f"{name}_mse": theirs**2}
        judged.baselines["reference"] |= mean_figures({key: list(values) for key, values in reference.items()})
        judged.baselines["constant_0"] |= mean_figures({key: list(values) for key, values in constant.items()})
        constants = [who for who, levels in (("replies", ours), ("references", theirs)) if len(set(levels)) < 2]
        if constants:
            judged.left_out[f"{name}_pearson"] = f"the {' and the '.join(constants)} all have the same level"
        else:
            value, low, high = bootstrap(pearson, ours, theirs)
            judged.metrics[f"{name}_pearson"] = {"value": value, "low": low, "high": high, "n": len(ours)}


def level_statistics(rows: list[dict]) -> tuple[list[str], Callable]:
    """Return the names of the correlations of levels, and what they are of any rows.

    The latter takes row numbers, shape (..., rows), and returns shape (..., correlations).

    Args:
        rows: with `metrics`; a mechanism without a level in one of them is left out.
    """
    columns = {}  # metric -> levels of replies and of references
    for name in (f"epitome_{mechanism}" for mechanism in MECHANISMS):
        ours, change = ([row.get("metrics", {}).get(key) for row in rows] for key in (name, f"{name}_difference"))
        if None not in ours and None not in change:
            columns[f"{name}_pearson"] = np.array(ours), np.subtract(ours, change)

    def statistic(numbers: np.ndarray) -> np.ndarray:
        found = [pearson(ours[numbers], theirs[numbers]) for ours, theirs in columns.values()]
        return np.stack(found, axis=-1) if found else np.empty((*numbers.shape[:-1], 0))

    return list(columns), statistic


def _judge_emotions(judged: Judged, scorer, replies: list[str], references: list[str], emotions: list) -> None:
    """Add `emo_acc`: whether the likeliest emotion of the reply is that of the dialogue."""
    gold = [None if emotion is None else emotion.strip().lower() for emotion in emotions]
    check_emotions(scorer, gold)
    judged.rows["emo_acc"] = _agreement(_predicted(scorer, replies), gold)
    judged.baselines["reference"] |= mean_figures({"emo_acc": _agreement(_predicted(scorer, references), gold)})
    judged.baselines["majority"] |= mean_figures({"emo_acc": _agreement([_majority(gold)] * len(gold), gold)})
    if not any(gold):
        judged.left_out["emo_acc"] = "the emotion of no dialogue is known"


def check_emotions(scorer, emotions: list[str | None]) -> None:
    """Raise UserError for an emotion of the data that a classifier does not know."""
    known = {label.lower() for label in _labels(scorer)}
    unknown = sorted({emotion.strip().lower() for emotion in emotions if emotion is not None} - known)
    if unknown:
        raise UserError(
            f"{CLASSIFIERS_KEY}.emotion: the data has the emotion {unknown[0]!r}, which {scorer.name} does not know "
            f"(its labels: {listed(_labels(scorer))}); leave the classifier out (null), or train one on such labels"
        )


def _judge_intents(judged: Judged, scorer, replies: list[str], references: list[str]) -> None:
    """Add `intent_acc`: whether the likeliest intent of the reply is the likeliest intent of the reference."""
    gold = _predicted(scorer, references)
    judged.rows["intent_acc"] = _agreement(_predicted(scorer, replies), gold)
    judged.baselines["majority"] |= mean_figures({"intent_acc": _agreement([_majority(gold)] * len(gold), gold)})


def _agreement(given: list, gold: list) -> list[bool | None]:
    """Return whether labels are right, None where no label is known to be."""
    return [None if label is None else answer == label for answer, label in zip(given, gold, strict=True)]


def _majority(labels: list):
    """Return the most frequent label of the rows: no constant does better on them."""
    known = [label for label in labels if label is not None]
    return Counter(known).most_common(1)[0][0] if known else None


def _levels(scorer, utterances: list[str], replies: list[str]) -> dict[str, np.ndarray]:
    """Return mechanism -> the likeliest level of every reply, floats of shape (rows,)."""
    seen = [row for row, pair in enumerate(zip(utterances, replies, strict=True)) if all(map(is_visible, pair))]
    logits = scorer.score([(utterances[row], replies[row]) for row in seen])
    levels = {mechanism: np.zeros(len(replies)) for mechanism in MECHANISMS}
    for mechanism, shares in probabilities(scorer.config, logits).items():
        levels[mechanism][seen] = shares.argmax(axis=1)
    return levels


def _predicted(scorer, texts: list[str]) -> list[str | None]:
    """Return the likeliest label of every text in lower case, None where nothing is to be seen."""
    seen = [row for row, text in enumerate(texts) if is_visible(text)]
    labels, found = [label.lower() for label in _labels(scorer)], [None] * len(texts)
    for row, position in zip(seen, scorer.score([texts[row] for row in seen]).argmax(axis=1), strict=True):
        found[row] = labels[position]
    return found


def _labels(scorer) -> list[str]:
    return [str(label) for labels in label_groups(scorer.config).values() for label in labels]


def _spread(values: np.ndarray, there: list[bool]) -> list[float | None]:
    """Return values at the rows where there are some, None at the others."""
    values = iter(values.tolist())
    return [next(values) if each else None for each in there]


# kind -> how the names of the metrics begin that such a model gives
METRICS = {"epitome": "epitome_", "emotion": "emo_acc", "intent": "intent_acc", "bertscore": "bertscore"}
OTHER_CLASSIFIER = "the two results were judged by different classifiers, or one does not say by which"


def recorded(models: dict) -> dict[str, dict[str, str]]:
    """Return what `classifiers` holds, for kind -> (name, model)."""
    from empathy_trl.models.load import weights_digest  # imports torch

    return {kind: {"model": name, "weights": weights_digest(model)} for kind, (name, model) in models.items()}


def deciding(judged_by: dict) -> dict[str, dict]:
    """Return a `judged_by` as it is compared: of a reward with `weights`, these and not where its model lay and ran."""
    places = ("model", "revision", "device")
    return {
        name: {key: value for key, value in reward.items() if key not in places or "weights" not in reward}
        for name, reward in judged_by.items()
    }


def kind_of_metric(metric: str) -> str | None:
    """Return the kind of the model that gives a metric; None for a metric that needs none."""
    return next((kind for kind, beginning in METRICS.items() if metric.startswith(beginning)), None)


def digests(evaluation: dict) -> dict[str, str]:
    """Return kind -> digest of what an evaluation, from a file or a card, was judged by; {} where it does not say."""
    found = evaluation.get("classifiers") or {}
    return {kind: each if isinstance(each, str) else each["weights"] for kind, each in found.items()}


def are_classifiers(value) -> bool:
    """Whether a value is what `classifiers` holds, in a file or in a card."""
    return isinstance(value, dict) and all(
        isinstance(each.get("weights") if isinstance(each, dict) else each, str) for each in value.values()
    )


def judged_otherwise(a: dict, b: dict) -> dict[str, str]:
    """Return metric -> reason of the figures of two evaluations that different models gave."""
    one, other = digests(a), digests(b)
    kinds = {kind for kind in one | other if one.get(kind) != other.get(kind)}
    return {name: OTHER_CLASSIFIER for name in a["metrics"] | b["metrics"] if kind_of_metric(name) in kinds}
