"""The classifiers that judge replies, as `evaluation.classifiers` of a recipe names them, and the recipes that train some."""

KEY = "evaluation.classifiers"
# key -> the recipe that trains such a classifier; with `_tiny` one that needs two CPU cores
RECIPES = {"epitome": "epitome", "emotion": "emotion32", "intent": "intent9"}


def hint(kind: str) -> str:
    """Return how somebody gets a classifier of a kind, a key of `RECIPES`."""
    recipe = RECIPES[kind]
    return (
        f"`accelerate launch recipes/run.py --recipe {recipe}_tiny.yaml` trains one in outputs/{recipe}_tiny/classify, "
        f"and {recipe}.yaml a larger one"
    )
