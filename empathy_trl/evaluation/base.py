"""Baselines: the rows without which a figure says little.

The majority class, or the mean rating, is what an answer that ignores the text earns. TF-IDF with a linear model is
what word counts alone earn, from the same training labels. All are scored by the same functions as a model.

Small pieces of which reports are made.
"""

from collections import Counter

import numpy as np

from empathy_trl.evaluation.metrics.agreement import score_predictions, score_ratings

NAMES = {
    "majority": "majority class",
    "tfidf_logreg": "TF-IDF + logistic regression",
    "mean": "mean rating",
    "tfidf_ridge": "TF-IDF + ridge regression",
    "chance": "chance",
    "longer": "the longer reply",
    "reference": "reference replies",
    "constant_0": "level 0 for every reply",
}


def score_baselines(train_texts, train_labels, test_texts, gold, labels) -> dict[str, dict]:
    """Fit both baselines on training texts and labels and score them on test texts.

    Args:
        train_texts, train_labels: the training split; at least two different labels.
        test_texts, gold: the evaluated rows.
        labels: the emotions.

    Returns `{"majority": metrics, "tfidf_logreg": metrics}`, metrics as in `score_predictions`.
    """
    predictions = predict_baselines(train_texts, train_labels, test_texts, labels)
    return {name: score_predictions(predicted, gold, labels)[0] for name, predicted in predictions.items()}


def predict_baselines(train_texts, train_labels, test_texts, labels) -> dict[str, list]:
    """Return what both baselines predict for the test texts, `{"majority": labels, "tfidf_logreg": labels}`."""
    constant = majority(train_labels, labels)
    # logistic regression wants two classes; without them it would be the constant anyway
    learned = tfidf_logreg(train_texts, train_labels, test_texts) if len(set(train_labels)) > 1 else None
    return {"majority": [constant] * len(test_texts), "tfidf_logreg": learned or [constant] * len(test_texts)}


def majority(train_labels, labels) -> str:
    """Return the most frequent training label; among equals the first of `labels`."""
    counts = Counter(train_labels)
    return max(labels, key=lambda label: counts[label])


def tfidf_logreg(train_texts, train_labels, test_texts) -> list[str]:
    """Predict labels of the test texts by logistic regression on TF-IDF weights of words and word pairs.

    C = 10 regularises less than scikit-learn's default: TF-IDF rows have length 1, and a few hundred short
    texts are underfitted at C = 1.
    """
    from sklearn.linear_model import LogisticRegression

    classifier = _on_tfidf(LogisticRegression(C=10, max_iter=1000))
    return classifier.fit(list(train_texts), list(train_labels)).predict(list(test_texts)).tolist()


def score_rating_baselines(train_texts, train_labels, test_texts, gold, names: list[str]) -> dict[str, dict]:
    """Score the mean of the training ratings, and ridge regression on TF-IDF weights, as `score_ratings` does.

    Args:
        train_texts, train_labels: the training split; labels of shape (rows, ratings).
        test_texts, gold: the evaluated rows.
        names: of the ratings.

    Returns `{"mean": metrics, "tfidf_ridge": metrics}`.
    """
    train_labels, gold = np.asarray(train_labels, dtype=float), np.asarray(gold, dtype=float)
    predictions = {
        "mean": np.broadcast_to(train_labels.mean(axis=0), gold.shape),
        "tfidf_ridge": tfidf_ridge(train_texts, train_labels, test_texts),
    }
    return {name: score_ratings(predicted, gold, names) for name, predicted in predictions.items()}


def tfidf_ridge(train_texts, train_labels: np.ndarray, test_texts) -> np.ndarray:
    """Predict ratings, shape (test texts, ratings), by ridge regression on TF-IDF weights of words and word pairs."""
    from sklearn.linear_model import Ridge

    ridge = _on_tfidf(Ridge(alpha=1.0)).fit(list(train_texts), train_labels)
    return ridge.predict(list(test_texts)).reshape(len(test_texts), -1)


def _on_tfidf(model):
    """Return a linear model on TF-IDF weights of words and word pairs."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    return make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), model)


def markdown(rows: list[list]) -> str:
    """Return a Markdown table; the first row is the header."""
    header, *body = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join([header, "|---" * len(rows[0]) + "|", *body])


def both_texts(rows) -> list[str]:
    """Return the text of every row, of a pair both with a bar between them."""
    if "pair" not in rows.column_names:
        return list(rows["text"])
    return [f"{text} | {pair}" for text, pair in zip(rows["text"], rows["pair"], strict=True)]
