"""Which models an evaluation asked about replies, and which figures are theirs.

`classifiers` of `eval_<split>.json` is kind -> `{"model", "weights"}`: the name in the recipe, and a digest of the weights as they
were loaded. Names say little: a folder is trained again, and lies elsewhere on the next machine. Two figures were judged alike if
the digests are equal. (Half precision, as on a GPU, gives another digest, and slightly other figures.) A model card has the
digests alone, kind -> digest.

A reward that asks a model has the digest too, as `weights` of its entry in `judged_by`.
"""

# kind -> how the names of the metrics begin that such a model gives
METRICS = {"epitome": "epitome_", "emotion": "emo_acc", "intent": "intent_acc", "bertscore": "bertscore"}
OTHER_CLASSIFIER = "the two results were judged by different classifiers, or one does not say by which"


def recorded(models: dict) -> dict[str, dict[str, str]]:
    """Return what `classifiers` holds, for kind -> (name, model)."""
    from empathy_trl.generation.stream import weights_digest  # loads torch

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
