"""A recipe's `data` section as the builders' tests need it."""

from types import SimpleNamespace

SWITCHES = ("nfkc", "urls", "emails", "mentions", "hashtags", "control", "whitespace")


def data_section(name, path, **changes):
    """Return the section with its defaults; `normalize` may be given as a dict of the switches to change."""
    defaults = {
        "name": name,
        "path": str(path),
        "revision": None,
        "on_bad_rows": "error",
        "portion": (0.0, 1.0),
        "max_words": 400,
        "text_column": None,
        "split_by": "given",
        "ranges": None,
        "builder": None,
    }
    switches = dict.fromkeys(SWITCHES, True) | changes.pop("normalize", {})
    return SimpleNamespace(**defaults | changes, normalize=SimpleNamespace(**switches))
