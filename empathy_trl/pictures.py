"""What all pictures of a run share: drawn without a screen, written whole, noisy curves smoothed the same way."""

from pathlib import Path

from empathy_trl.files import write_atomically


def pyplot():
    """Import matplotlib's pyplot for files: the Agg backend needs no screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save(figure, path: Path, dpi: int = 150) -> Path:
    """Write a figure as PNG and close it."""
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=dpi))
    pyplot().close(figure)
    return path


def smoothing_width(values) -> int:
    """Return how many values `smooth` averages: a tenth of them, at least one."""
    return max(1, len(values) // 10)


def smooth(values) -> list[float]:
    """Return the mean over a trailing window of `smoothing_width(values)` values."""
    width = smoothing_width(values)
    windows = [values[max(0, end - width) : end] for end in range(1, len(values) + 1)]
    return [sum(window) / len(window) for window in windows]
