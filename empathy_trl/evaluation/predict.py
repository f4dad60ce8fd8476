"""What a model with a classification head puts out for the rows of a data set."""

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object

from empathy_trl.scorer import Scorer


def predict_outputs(model, tokenizer, rows) -> np.ndarray:
    """Return the outputs of a model, float32 of shape (rows, outputs): ratings, or logits.

    Args:
        model, tokenizer: as loaded by `classifiers.load_classifier`.
        rows: a `datasets.Dataset` with the column `text` and, for pairs, `pair`.
    """
    texts = list(zip(rows["text"], rows["pair"], strict=True)) if "pair" in rows.column_names else list(rows["text"])
    state = PartialState()
    own = range(state.process_index, len(texts), state.num_processes)
    outputs = Scorer(model, tokenizer)([texts[row] for row in own]).tolist()
    return np.array(
        [values for _, values in sorted(gather_object(list(zip(own, outputs, strict=True))))], dtype=np.float32
    )
