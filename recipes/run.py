"""Train the stages of a recipe: the command `empathy-trl run` as a file; --help explains it."""

import sys

from empathy_trl.commands.run import run as main

if __name__ == "__main__":
    sys.exit(main())
