"""The label schema: what the outputs of a classifier or regressor mean, stored in its `config.json`.

`Targets.write` describes a model that this package trains, so that rewards and evaluations need no further settings:

* `id2label`: the names of the outputs, in order;
* `problem_type`: `regression` or `single_label_classification`;
* `label_ranges` (regression): `{"Empathy": [0, 5], ...}`, the scale of the training labels; missing in a model that
  learned only which of two replies is better: its score has no scale, but `score_moments`, `{"mean", "std"}` of it over
  the held-out replies;
* `label_groups` (classification): `[["intent", ["agreeing", ...]]]`, or several groups whose logits stand side by side
  in this order, each with a softmax of its own: EPITOME's three mechanisms with the levels `["0", "1", "2"]`;
* `held_out`: `{"figure": "pearson_mean", "value": 0.63, "n": 120, "split": "valid"}`, how good this very model is on rows
  that it did not learn from: `pearson_mean`, `accuracy_mean`, or the `pair_accuracy` of n pairs.

Other models have `id2label` and perhaps the activation function of a sentence-transformers cross-encoder. The functions that
read a schema take any transformers config; what it leaves open is an error that asks the user for it, never a guess.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from empathy_trl.errors import UserError, show

# what a config may say of outputs that it no longer has
OTHERS = (
    *("label_ranges", "score_moments", "label_groups", "held_out"),
    *("sentence_transformers", "sbert_ce_default_activation_function"),
)
REGRESSION, CLASSIFICATION = "regression", "single_label_classification"


@dataclass(frozen=True)
class Targets:
    """The outputs of a model, in order.

    Attributes:
        task: "regress", "classify", or "compare": one rating, of which only the order is learned.
        outputs: rating -> (lowest, highest value); for classify, group -> names of its labels.
    """

    task: str
    outputs: dict[str, tuple]

    @property
    def names(self) -> list[str]:
        """One name per output: the rating, the label, or with several groups `group:label`."""
        if self.task != "classify":
            return list(self.outputs)
        if len(self.outputs) == 1:
            return [str(name) for labels in self.outputs.values() for name in labels]
        return [f"{group}:{name}" for group, labels in self.outputs.items() for name in labels]

    @property
    def figures(self) -> list[str]:
        """The figures on `valid` by which the best checkpoint can be chosen; the first one is the default."""
        if self.task == "compare":
            return ["pair_accuracy"]
        figure = "pearson" if self.task == "regress" else "accuracy"
        return [f"{figure}_mean", *(f"{figure}_{name}" for name in self.outputs), "loss"]

    def slices(self) -> dict[str, slice]:
        """Return where the outputs of every rating or group stand."""
        slices, start = {}, 0
        for name, values in self.outputs.items():
            size = len(values) if self.task == "classify" else 1
            slices[name] = slice(start, start + size)
            start += size
        return slices

    def write(self, config) -> None:
        """Describe the outputs in a transformers config: `id2label`, `problem_type`, and ranges or groups.

        What a base model says of outputs that it had before goes: a cross-encoder's scale is not that of our ratings.
        """
        for name in OTHERS:
            if getattr(config, name, None) is not None:
                delattr(config, name)
        config.id2label = dict(enumerate(self.names))
        config.label2id = {name: number for number, name in enumerate(self.names)}
        if self.task != "classify":
            config.problem_type = REGRESSION
        if self.task == "regress":
            config.label_ranges = {name: [float(low), float(high)] for name, (low, high) in self.outputs.items()}
        if self.task == "classify":
            config.problem_type = CLASSIFICATION
            # pairs: a config is saved with the keys of its mappings sorted, and the order says which logits are whose
            config.label_groups = [[group, list(labels)] for group, labels in self.outputs.items()]


def predicted_labels(logits: np.ndarray, targets: Targets) -> np.ndarray:
    """Return the likeliest label of every group.

    Args:
        logits: shape (rows, outputs).
        targets: of task "classify".

    Returns int64 of shape (rows, groups): positions in the group.
    """
    return np.stack([logits[:, part].argmax(axis=1) for part in targets.slices().values()], axis=1)


def check_held_out(config, lowest: float) -> None:
    """Raise UserError unless a model's figure on held-out rows is there and at least `lowest`."""
    held_out = getattr(config, "held_out", None)
    if not held_out:
        raise UserError(
            f"min_held_out: asks for {lowest}, but the model's config.json has no held_out, so its quality is unknown; "
            "train one with `task: regress` or `task: classify`, or leave min_held_out out"
        )
    if not (isinstance(held_out, dict) and {"figure", "value", "n", "split"} <= held_out.keys()):
        raise UserError(
            f"min_held_out: held_out in the model's config.json is {held_out!r}; expected figure, value, n, split"
        )
    if isinstance(held_out["value"], bool) or not isinstance(held_out["value"], (int, float)):
        raise UserError(
            f"min_held_out: held_out.value in the model's config.json is {held_out['value']!r}; expected a number"
        )
    if not held_out["value"] >= lowest:
        raise UserError(
            "min_held_out: the model's {figure} is {value:.3f} on {n} held-out rows ({split})".format(**held_out)
            + f", below {lowest}; a policy would learn its mistakes: train it longer or on more data, or lower min_held_out"
        )


def listed(names) -> str:
    """Return the names of outputs as a message shows them: at most nine, and how many more there are."""
    names = list(names)
    return ", ".join(names[:9]) + (f" and {len(names) - 9} more" if len(names) > 9 else "")


def require(config, problem_type: str) -> None:
    """Raise UserError if a model says that it was trained for something else than `problem_type`."""
    if is_bi_encoder(config):
        raise UserError(f"model: is a bi-encoder, which only compares texts; expected one for {problem_type}")
    if config.problem_type not in (None, problem_type):
        raise UserError(f"model: was trained for {config.problem_type}; expected {problem_type}")


def is_bi_encoder(config) -> bool:
    """Return whether a model gives vectors whose cosine is its one output; `classifier.load_bi_encoder` marks its config."""
    return getattr(config, "compares_texts", False)


def label_names(config) -> list[str]:
    """Return the names of the outputs in order; `LABEL_0`, `LABEL_1` … where a model has none.

    Raises:
        UserError: some have a name, and others have none.
    """
    if missing := [index for index in range(config.num_labels) if index not in config.id2label]:
        raise UserError(
            f"model: id2label in its config.json has {config.num_labels} names, and none for output {missing[0]}"
        )
    return [config.id2label[index] for index in range(config.num_labels)]


def output_index(config, dimension: str) -> int:
    """Return which output has a name; upper and lower case are the same.

    Raises:
        UserError: no output has it.
    """
    names = label_names(config)
    lower = [name.lower() for name in names]
    if dimension.lower() not in lower:
        raise UserError(f"dimension: the model has no output {dimension!r} (choices: {', '.join(names)})")
    return lower.index(dimension.lower())


def label_range(config, index: int, given: Sequence[float] | None = None) -> tuple[float, float]:
    """Return the lowest and the highest label of a regression output: as given, else as the config says.

    Raises:
        UserError: neither says it.
    """
    name = label_names(config)[index]
    low, high = given or (getattr(config, "label_ranges", None) or {}).get(name) or (None, None)
    if low is None:
        raise UserError(
            f"label_range: the model's config.json has no label_ranges for {name}; give [lowest, highest] label of the "
            "data it was trained on"
        )
    return low, high


def to_unit(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map values linearly from [low, high] to [0, 1]; what lies outside is clipped."""
    return np.clip((values - low) / (high - low), 0.0, 1.0)


def activation(config) -> str | None:
    """Return the class name of a sentence-transformers cross-encoder's activation function; None where none is said."""
    path = (getattr(config, "sentence_transformers", None) or {}).get("activation_fn")
    path = path or getattr(config, "sbert_ce_default_activation_function", None)
    return path and path.rpartition(".")[2]


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)), without overflow, in float64."""
    return (1 + np.tanh(values.astype(np.float64) / 2)) / 2


def label_groups(config) -> dict[str, list[str]]:
    """Return group -> labels that compete with each other, in the order of the outputs.

    A model that names no groups has one, `label`.

    Raises:
        UserError: the groups together do not have as many labels as the model has outputs, or are none.
    """
    pairs = getattr(config, "label_groups", None) or [["label", label_names(config)]]
    try:
        groups = {str(group): list(map(str, labels)) for group, labels in pairs}
    except (TypeError, ValueError) as error:
        raise UserError(
            f"model: label_groups in its config.json is {show(pairs)}; expected [[group, [label, ...]], ...]"
        ) from error
    total = sum(map(len, groups.values()))
    if total != config.num_labels:
        raise UserError(f"model: has {config.num_labels} outputs, but label_groups in its config.json name {total}")
    return groups


def probabilities(config, logits: np.ndarray) -> dict[str, np.ndarray]:
    """Return group -> probabilities of its labels, shape (texts, labels), for logits of shape (texts, outputs)."""
    groups = label_groups(config)
    ends = list(itertools.accumulate(map(len, groups.values())))
    parts = np.split(logits.astype(np.float64), ends[:-1], axis=1)
    return {group: _softmax(part) for group, part in zip(groups, parts, strict=True)}


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return weights / weights.sum(axis=1, keepdims=True)


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Pearson correlation along the last axis, 0 where either side is constant, nan where a value is nan."""
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    # rounding leaves a trace of spread in a constant
    tiny = 1e-12 * a.shape[-1]
    return np.where(scale <= tiny, 0.0, (a * b).sum(axis=-1) / np.maximum(scale, tiny))


def pairs_of(contexts: Sequence, ratings: Sequence) -> list[tuple[int, int]]:
    """Return the row numbers (better, worse) of every two replies to one context whose ratings differ.

    Args:
        contexts: what every reply answers.
        ratings: a number per reply, or a sequence that holds just one.
    """
    values = np.asarray(ratings, dtype=float).reshape(len(contexts)).tolist()
    rows_of = {}
    for row, context in enumerate(contexts):
        rows_of.setdefault(context, []).append(row)
    couples = (couple for rows in rows_of.values() for couple in itertools.combinations(rows, 2))
    return [(a, b) if values[a] > values[b] else (b, a) for a, b in couples if values[a] != values[b]]


def right_order(scores: Sequence[float], pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return for every pair (better, worse) 1 where the better one has the higher score, 0.5 for a tie, else 0."""
    scores, pairs = np.asarray(scores, dtype=float), np.asarray(pairs, dtype=int).reshape(-1, 2)
    return (1 + np.sign(scores[pairs[:, 0]] - scores[pairs[:, 1]])) / 2
