"""Metrics that are counted in replies: length, variety, and similarity to the reference replies.

Most metrics are means over the rows (`row_metrics`). Corpus BLEU and the counts of distinct n-grams need all replies at
once (`corpus_metrics`).

BERTScore (Zhang et al. 2020, "BERTScore: Evaluating Text Generation with BERT") comes from its authors' package
bert_score. It matches each token of the reply with the most similar token of the reference, by the cosine of their
vectors in one layer of an encoder, and vice versa. The metric is the F1 of the two means, without idf weights and
without rescaling. Values from different encoders or layers cannot be compared.
"""

import importlib.util
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from empathy_trl.errors import UserError
from empathy_trl.evaluation.metrics.bootstrap import bootstrap_sums, figures, jackknife, times_drawn
from empathy_trl.io import user_name
from empathy_trl.models.hub_files import NO_CODE, check_exists, hub_errors
from empathy_trl.text import ngrams, words

logger = logging.getLogger(__name__)

ORDERS = (1, 2, 3, 4)
ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}  # metric -> its name in rouge_score


def row_metrics(replies: list[str], references: list[str], placeholder: str | None = None) -> dict[str, list]:
    """Return metric -> one value per row; None where it does not apply.

    * `reply_words`: words (`empathy_trl.text`).
    * `duplicate_share`: whether another row gets a reply of the same words.
    * `reference_similarity`: chrF by sacrebleu, in [0, 1].
    * `empty_share`: whether the reply is empty.
    * `bleu_at_1` … `bleu_at_4`: bleu@k of UniCRS (Wang et al. 2022) and ECR (Zhang et al. 2024): the clipped precision of
      the k-grams alone, times BLEU's penalty for short replies; no smoothing, and words are what white space separates.
      None for an empty reply, because they divide by the number of the others. In [0, 1].
    * `rouge_1`, `rouge_2`, `rouge_l`: F-measure of the shared words, pairs of words, and longest common subsequence (Lin
      2004), by package rouge_score with its tokenizer (lower case, a-z and 0-9 only) and Porter's stemmer. In [0, 1].
    * `item_ratio`, with a placeholder: how often it occurs in the reply, by the same two; None for an empty one.

    Args:
        replies, references: of the same rows.
        placeholder: of a film, such as `data.redial.PLACEHOLDER`.
    """
    chrf, split = CHRF(), [words(reply) for reply in replies]
    seen = Counter(map(tuple, split))
    pairs = list(zip(replies, references, strict=True))
    bleu_at = [_bleu_at(reply.split(), reference.split()) if reply.strip() else None for reply, reference in pairs]
    metrics = {
        "reply_words": [len(tokens) for tokens in split],
        "duplicate_share": [seen[tuple(tokens)] > 1 for tokens in split],
        "reference_similarity": [chrf.sentence_score(reply, [reference]).score / 100 for reply, reference in pairs],
        "empty_share": [not reply for reply in replies],
    }
    metrics |= _rouge(pairs)
    metrics |= {f"bleu_at_{k}": [each and each[k - 1] for each in bleu_at] for k in ORDERS}
    if placeholder is not None:
        metrics["item_ratio"] = item_counts(replies, placeholder)
    return metrics


def item_counts(replies: list[str], placeholder: str) -> list[int | None]:
    """Return how often a placeholder occurs in each reply, None for an empty one; `item_ratio` is their mean."""
    return [reply.count(placeholder) if reply.strip() else None for reply in replies]


def corpus_metrics(replies: list[str], references: list[str]) -> dict[str, dict]:
    """Return metric -> `{"value", "low", "high", "n"}`, a value of all replies together with its 95 % interval.

    * `bleu_1` … `bleu_4`: corpus BLEU up to n-grams of that length (Papineni et al. 2002), as `sacrebleu` computes it: its
      tokenizer 13a, with case, exponential smoothing. In [0, 1], where sacrebleu says per cent. Bootstrap over the rows.
    * `distinct_1` … `distinct_4`: how many different n-grams there are, as a share of all n-grams (Li et al. 2016).
    * `dist_at_1` … `dist_at_4`: dist@k of UniCRS and ECR: how many different k-grams there are, divided by the number of
      replies that are not empty. Words are what white space separates. It may be far above 1.

    The latter two fall when there are more rows: compare equally many only. Their intervals are of the jackknife.
    """
    bleu = bootstrap_sums(_bleu_of_sums, _bleu_counts(replies, references))
    return figures([f"bleu_{n}" for n in ORDERS], *bleu, len(replies)) | variety_metrics(replies)


def variety_metrics(replies: list[str]) -> dict[str, dict]:
    """Return `distinct_1` … `dist_at_4` of `corpus_metrics`."""
    names, statistic = variety_statistics(replies)
    values, errors = jackknife(statistic, len(replies))
    are_shares = [name.startswith("distinct_") for name in names]
    low = np.maximum(0.0, values - 1.96 * errors)
    high = np.minimum(np.where(are_shares, 1.0, np.inf), values + 1.96 * errors)
    rows = np.where(are_shares, len(replies), sum(bool(reply.strip()) for reply in replies))
    return figures(names, values, low, high, rows)


def bleu_statistics(replies: list[str], references: list[str]) -> tuple[list[str], Callable]:
    """Return the names of the corpus BLEU of `corpus_metrics`, and what they are of any rows, as numbers from 0."""
    table = _bleu_counts(replies, references)
    return [f"bleu_{n}" for n in ORDERS], lambda rows: _bleu_of_sums(times_drawn(rows, len(table)) @ table)


def variety_statistics(replies: list[str]) -> tuple[list[str], Callable]:
    """Return the names of the counts of different n-grams of `corpus_metrics`, and what they are of any rows, shape (k,)."""
    split, said = [words(reply) for reply in replies], [reply.split() for reply in replies]
    columns = {f"distinct_{n}": [ngrams(tokens, n) for tokens in split] for n in ORDERS}
    weights = {name: [len(each) for each in grams] for name, grams in columns.items()}
    columns |= {f"dist_at_{n}": [ngrams(tokens, n) for tokens in said] for n in ORDERS}
    weights |= {f"dist_at_{n}": [bool(tokens) for tokens in said] for n in ORDERS}
    different = {name: [set(each) for each in grams] for name, grams in columns.items()}

    def statistic(rows: np.ndarray) -> np.ndarray:
        found = (set().union(*(sets[row] for row in rows)) for sets in different.values())
        out_of = (sum(each[row] for row in rows) for each in weights.values())
        return np.array([len(grams) / max(1, total) for grams, total in zip(found, out_of, strict=True)])

    return list(different), statistic


def _rouge(pairs: list[tuple[str, str]]) -> dict[str, list[float]]:
    """Return metric -> F-measure of every (reply, reference)."""
    from rouge_score.rouge_scorer import RougeScorer  # loads nltk
    from rouge_score.tokenizers import DefaultTokenizer

    # without a tokenizer, the scorer logs through absl, which gives the root logger a handler
    scorer = RougeScorer(list(ROUGE.values()), tokenizer=DefaultTokenizer(use_stemmer=True))
    scores = [scorer.score(target=reference, prediction=reply) for reply, reference in pairs]
    return {name: [float(score[kind].fmeasure) for score in scores] for name, kind in ROUGE.items()}


def _bleu_at(reply: list[str], reference: list[str]) -> list[float]:
    """Return bleu@1 to bleu@4 of one reply with at least one word."""
    penalty = 1.0 if len(reply) > len(reference) else np.exp(1 - len(reference) / len(reply))
    shares = []
    for n in ORDERS:
        given, wanted = (Counter(ngrams(tokens, n)) for tokens in (reply, reference))
        shares.append(float(penalty * (given & wanted).total() / max(1, given.total())))
    return shares


def _bleu_counts(replies: list[str], references: list[str]) -> np.ndarray:
    """Return lengths, matches and numbers of n-grams of each row, shape (rows, 10)."""
    counter = BLEU(effective_order=True)  # which changes no count, and silences advice about single sentences
    scores = [counter.sentence_score(*pair) for pair in zip(replies, ([each] for each in references), strict=True)]
    return np.array([[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in scores], dtype=float)


def _bleu_of_sums(sums: np.ndarray) -> np.ndarray:
    """Return BLEU-1 to BLEU-4, shape (..., 4), from summed lengths, matches and numbers of n-grams, shape (..., 10).

    The k-th order without any match counts as a match of 1/2^k (`exp`, method 3 of Chen & Cherry 2014).
    """
    length, wanted, matches, totals = sums[..., :1], sums[..., 1:2], sums[..., 2:6], sums[..., 6:]
    missed = matches == 0
    matches = np.where(missed, 0.5 ** missed.cumsum(axis=-1), matches)
    with np.errstate(divide="ignore"):
        logs = np.log(np.where(totals > 0, matches / np.maximum(totals, 1), 0.0))
    means = logs.cumsum(axis=-1) / np.array(ORDERS)
    penalty = np.exp(np.minimum(0.0, 1 - wanted / np.maximum(length, 1)))
    return np.where(missed[..., :1], 0.0, penalty * np.exp(means))


BERTSCORE_KEY = "evaluation.bertscore"
NO_LIMIT = 10**6  # tokens; transformers gives a tokenizer without a limit a far larger one
OF_T5 = ("t5", "mt5", "umt5")


def check_bertscore(name: str) -> int:
    """Return the number of layers of an encoder, folder or Hub id; reads no weights.

    Raises:
        UserError: bert_score is not installed, or would fail on the model, or get it wrong without a word.
    """
    if importlib.util.find_spec("bert_score") is None:
        raise UserError(
            f'{BERTSCORE_KEY}: needs bert_score; install it with pip install "empathy-trl[bertscore]", or set null'
        )
    try:
        check_exists(user_name(name))
        with hub_errors(name, None):
            return _layers(user_name(name))
    except UserError as error:
        raise UserError(f"{BERTSCORE_KEY}: {error}") from error


def load_bertscore(name: str):
    """Return the scorer (`bert_score.BERTScorer`) of an encoder, folder or Hub id.

    Its layer is the one that bert_score's authors chose for a model of this name (the last part of it counts), the last layer
    of any other. Raises what `check_bertscore` raises, and UserError for weights that cannot be read.
    """
    layers = check_bertscore(name)
    from bert_score import BERTScorer
    from bert_score.utils import model2layers

    from empathy_trl.models.load import whole_weights  # imports torch

    try:
        with hub_errors(name, None), whole_weights():
            return BERTScorer(user_name(name), num_layers=min(model2layers.get(Path(name).name, layers), layers))
    except UserError as error:
        raise UserError(f"{BERTSCORE_KEY}: {error}") from error


def _layers(path: str) -> int:
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    from empathy_trl.models.limits import position_limit  # imports torch

    config = AutoConfig.from_pretrained(path, **NO_CODE)
    if "t5" in path and config.model_type not in OF_T5:
        raise UserError(
            f"{path}: bert_score treats every model with t5 in its name as a T5, but this is a {config.model_type}; "
            "rename its folder"
        )
    longest = AutoTokenizer.from_pretrained(path, **NO_CODE).model_max_length
    if longest > NO_LIMIT:
        raise UserError(
            f"{path}: its tokenizer_config.json has no model_max_length; add the maximum number of tokens there "
            "(512 for most encoders)"
        )
    with torch.device("meta"):
        limit = position_limit(AutoModel.from_config(config))
    if limit is not None and longest > limit:
        raise UserError(
            f"{path}: model_max_length in its tokenizer_config.json is {longest}, but the model has {limit} positions; "
            f"expected at most {limit}"
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


def perplexity(likelihoods: list[tuple[float, int]]) -> dict:
    """Return exp of the mean negative log-likelihood of a token: `{"value", "low", "high", "n", "tokens"}`.

    Args:
        likelihoods: of the references, see `models.likelihood.reference_likelihoods`.

    Every token weighs the same, so long replies count for more; the interval is a bootstrap over the rows. A token is the
    model's own: models with different tokenizers cannot be compared by it.
    """
    told = [each for each in likelihoods if each[1]]  # an answer that its prompt's tokens do not begin has none
    if len(told) < len(likelihoods):
        logger.warning(
            "perplexity: %d of %d references are left out, because the chat template writes their prompts in another way "
            "when they are answered",
            len(likelihoods) - len(told),
            len(likelihoods),
        )
    value, low, high = bootstrap_sums(_perplexity_of_sums, told)
    return {"value": value, "low": low, "high": high, "n": len(told), "tokens": sum(tokens for _, tokens in told)}


def perplexity_statistics(likelihoods: list[tuple[float, int]]) -> tuple[list[str], Callable]:
    """Return the name of the perplexity, and what it is of any rows, as numbers from 0."""
    table = np.array([each if each[1] else (0.0, 0) for each in likelihoods], dtype=float)
    return ["perplexity"], lambda rows: _perplexity_of_sums(times_drawn(rows, len(table)) @ table)[..., None]


def _perplexity_of_sums(sums: np.ndarray) -> np.ndarray:
    return np.exp(sums[..., 0] / sums[..., 1])
