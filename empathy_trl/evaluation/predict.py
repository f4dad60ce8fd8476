"""What a model with a classification head puts out for the rows of a data set."""

import numpy as np

from empathy_trl.processes import shared


def predict_outputs(scorer, rows) -> np.ndarray:
    """Return the outputs of a model, float32 of shape (rows, outputs): ratings, or logits.

    Args:
        scorer: a `scorer.Scorer`.
        rows: a `datasets.Dataset` with the column `text` and, for pairs, `pair`.
    """
    texts = list(zip(rows["text"], rows["pair"], strict=True)) if "pair" in rows.column_names else list(rows["text"])
    return np.array(shared(texts, lambda own: scorer.score(own).tolist()), dtype=np.float32)
