"""Baselines: the rows without which a figure says little.

The majority class is what an answer that ignores the text earns. TF-IDF with logistic regression is what word
counts alone earn, from the same training labels. Both are scored by the same function as a model.
"""

from collections import Counter

from empathy_trl.evaluation.score import score_predictions

NAMES = {"majority": "majority class", "tfidf_logreg": "TF-IDF + logistic regression"}


def score_baselines(train_texts, train_labels, test_texts, gold, labels) -> dict[str, dict]:
    """Fit both baselines on training texts and labels and score them on test texts.

    Args:
        train_texts, train_labels: the training split; at least two different labels.
        test_texts, gold: the evaluated rows.
        labels: the emotions.

    Returns `{"majority": metrics, "tfidf_logreg": metrics}`, metrics as in `score_predictions`.
    """
    predictions = {
        "majority": [majority(train_labels, labels)] * len(gold),
        "tfidf_logreg": tfidf_logreg(train_texts, train_labels, test_texts),
    }
    return {name: score_predictions(predicted, gold, labels)[0] for name, predicted in predictions.items()}


def majority(train_labels, labels) -> str:
    """Return the most frequent training label; among equals the first of `labels`."""
    counts = Counter(train_labels)
    return max(labels, key=lambda label: counts[label])


def tfidf_logreg(train_texts, train_labels, test_texts) -> list[str]:
    """Predict labels of the test texts by logistic regression on TF-IDF weights of words and word pairs.

    C = 10 regularises less than scikit-learn's default: TF-IDF rows have length 1, and a few hundred short
    texts are underfitted at C = 1.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    classifier = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=10, max_iter=1000),
    )
    return classifier.fit(list(train_texts), list(train_labels)).predict(list(test_texts)).tolist()
