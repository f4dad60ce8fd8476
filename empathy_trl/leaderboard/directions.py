"""Whether more of a metric is better, less of it, or neither."""

# neither: what a reader looks at and no model should be pushed along, such as the length of a reply
NEITHER = ("reply_words", "mean_reasoning_words", "item_ratio")
LESS = ("perplexity", "mae", "invalid_share", "empty_share", "duplicate_share")


def direction(metric: str) -> int:
    """Return 1 where more of a metric is better, -1 where less is, 0 where neither holds."""
    metric = metric.partition(" by ")[0]  # see `judges`
    if metric in NEITHER or metric.endswith("_difference"):
        return 0
    if metric.startswith(LESS) or metric.endswith("_mse"):
        return -1
    # levels of empathy: people's own replies are far from the top
    if metric.startswith("epitome_") and not metric.endswith("_pearson"):
        return 0
    return 1
