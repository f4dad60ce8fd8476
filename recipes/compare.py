"""Compare two results on the same rows: every metric, its change, an interval and a p-value; a table and a plot.

    python recipes/compare.py outputs/ed4_tiny/sft outputs/ed4_tiny/grpo
    python recipes/compare.py outputs/ed4_tiny/grpo outputs/ed4_tiny/evaluations/gpt-4o --split valid --output_dir comparison

A and B are folders with eval_<split>.json and predictions_<split>.jsonl, which recipes/run.py and recipes/evaluate.py write.
"""

import argparse
import logging
import sys
from pathlib import Path

from empathy_trl.cli import documented_parser
from empathy_trl.errors import UserError

OUTPUTS = Path("outputs")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 for what the user can fix."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that nothing here uses
    options = command_line().parse_args(arguments)
    try:
        print(compare(options.a, options.b, options.split, options.output_dir))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def command_line() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = documented_parser(__doc__)
    parser.add_argument("a", metavar="A", type=Path, help="folder of a result")
    parser.add_argument("b", metavar="B", type=Path, help="folder of the result that is compared with it")
    parser.add_argument("--split", choices=("train", "valid", "test"), default="test", help="default: %(default)s")
    parser.add_argument("--output_dir", type=Path, help="default: outputs/comparisons/<name of A>_<name of B>")
    return parser


def compare(a: Path, b: Path, split: str, output_dir: Path | None) -> str:
    """Write the comparison of two folders; returns its page, and where it is."""
    from empathy_trl.evaluation.compare import write_comparison

    folder = output_dir or OUTPUTS / "comparisons" / f"{a.absolute().name}_{b.absolute().name}"
    try:
        path = write_comparison(a, b, split, folder)
    except OSError as error:
        raise UserError(f"--output_dir: cannot write to {folder}: {error.strerror}") from error
    return f"{path.read_text(encoding='utf-8')}\ntable: {path}\nplot:  {path.with_suffix('.png')}"


if __name__ == "__main__":
    sys.exit(main())
