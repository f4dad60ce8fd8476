"""BERTScore (Zhang et al. 2020, "BERTScore: Evaluating Text Generation with BERT"), by package bert_score of its authors.

Each token of the reply is matched with the most similar token of the reference, by the cosine of their vectors in a layer of
an encoder, and the other way round; the figure is F1 of the two means, neither weighted by idf nor rescaled. Figures of two
encoders, or of two layers, cannot be compared.
"""

import importlib.util
from pathlib import Path

from empathy_trl.errors import UserError
from empathy_trl.hub import NO_CODE, check_exists, expand, hub_errors

KEY = "evaluation.bertscore"
NO_LIMIT = 10**6  # tokens; transformers gives a tokenizer without a limit a far larger one
OF_T5 = ("t5", "mt5", "umt5")


def check_bertscore(name: str) -> int:
    """Return the number of layers of an encoder, folder or Hub id; reads no weights.

    Raises:
        UserError: bert_score is not installed, or would fail on the model, or get it wrong without a word.
    """
    if importlib.util.find_spec("bert_score") is None:
        raise UserError(f'{KEY}: needs bert_score; install it with pip install "empathy-trl[bertscore]", or set null')
    try:
        check_exists(expand(name))
        with hub_errors(name, None):
            return _layers(expand(name))
    except UserError as error:
        raise UserError(f"{KEY}: {error}") from error


def load_bertscore(name: str):
    """Return the scorer (`bert_score.BERTScorer`) of an encoder, folder or Hub id.

    Its layer is the one that bert_score's authors chose for a model of this name (the last part of it counts), the last layer
    of any other. Raises what `check_bertscore` raises, and UserError for weights that cannot be read.
    """
    layers = check_bertscore(name)
    from bert_score import BERTScorer
    from bert_score.utils import model2layers

    try:
        with hub_errors(name, None):
            return BERTScorer(expand(name), num_layers=min(model2layers.get(Path(name).name, layers), layers))
    except UserError as error:
        raise UserError(f"{KEY}: {error}") from error


def _layers(path: str) -> int:
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(path, **NO_CODE)
    if "t5" in path and config.model_type not in OF_T5:
        raise UserError(
            f"{path}: bert_score takes every model with t5 in its name for a T5, and this is a {config.model_type}; "
            "put it into a folder of another name"
        )
    if AutoTokenizer.from_pretrained(path, **NO_CODE).model_max_length > NO_LIMIT:
        raise UserError(
            f"{path}: its tokenizer_config.json has no model_max_length; write down there how many tokens the model takes "
            "(512 for most encoders)"
        )
    return config.num_hidden_layers


def bert_scores(scorer, replies: list[str], references: list[str]) -> list[float]:
    """Return F1 of every reply with its reference, at most 1; 0 where either of them is empty."""
    seen = [row for row, pair in enumerate(zip(replies, references, strict=True)) if all(text.strip() for text in pair)]
    scores = [0.0] * len(replies)
    if seen:
        _, _, found = scorer.score([replies[row] for row in seen], [references[row] for row in seen])
        for row, score in zip(seen, found.tolist(), strict=True):
            scores[row] = score
    return scores
