"""Ask a trained regressor or classifier about texts, in the units of its labels."""

from collections.abc import Sequence

from empathy_trl.errors import UserError
from empathy_trl.outputs import CLASSIFICATION, REGRESSION, label_groups, label_names, probabilities
from empathy_trl.scorer import Text, shared_scorer


def predict(
    name: str,
    texts: Sequence[Text],
    *,
    revision: str | None = None,
    device: str | None = None,
    problem_type: str | None = None,
) -> list[dict]:
    """Return what a model says about every text.

    A regressor gives `{"Emotion": 2.1, "Empathy": 3.4}`: the model's own numbers, in the units of its training labels
    and not clipped to their range. A classifier gives probabilities by group and label: `{"intent": {"agreeing": 0.7,
    …}}`.

    Args:
        name: folder or Hub id of a full model or an adapter.
        texts: strings, or (text, pair) tuples for a model of pairs.
        revision, device: see `empathy_trl.scorer.Scorer`.
        problem_type: `regression` or `single_label_classification`, for a model whose config does not say.

    Raises:
        UserError: a text is neither, the model cannot be used, or nobody says what kind it is.
    """
    _check_texts(texts)
    scorer = shared_scorer(name, revision, device)
    kind = problem_type or scorer.config.problem_type
    if kind not in (REGRESSION, CLASSIFICATION):
        raise UserError(
            f"{name}: problem_type in its config.json is {kind!r}; give problem_type (choices: {REGRESSION}, "
            f"{CLASSIFICATION})"
        )
    logits = scorer.score(texts)
    if kind == REGRESSION:
        names = label_names(scorer.config)
        return [dict(zip(names, row, strict=True)) for row in logits.tolist()]
    groups = label_groups(scorer.config)
    shares = {group: rows.tolist() for group, rows in probabilities(scorer.config, logits).items()}
    return [
        {group: dict(zip(labels, shares[group][row], strict=True)) for group, labels in groups.items()}
        for row in range(len(logits))
    ]


def _check_texts(texts) -> None:
    if isinstance(texts, str):
        raise UserError("texts: a single string; expected a list of them")
    for row, text in enumerate(texts):
        parts = text if isinstance(text, tuple) and len(text) == 2 else (text,)
        if not all(isinstance(part, str) for part in parts):
            raise UserError(f"texts[{row}]: {str(text)[:60]!r} is neither a string nor a (text, pair) tuple of strings")
