"""Compare two evaluations row by row: the command `empathy-trl compare` as a file; --help explains it."""

import sys

from empathy_trl.commands.evaluate import compare as main

if __name__ == "__main__":
    sys.exit(main())
