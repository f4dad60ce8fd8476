"""Evaluate models on the data of a recipe: the command `empathy-trl evaluate` as a file; --help explains it."""

import sys

from empathy_trl.commands.evaluate import evaluate as main

if __name__ == "__main__":
    sys.exit(main())
