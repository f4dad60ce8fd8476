"""Score responses with an LLM judge: the command `empathy-trl score` as a file; --help explains it."""

import sys

from empathy_trl.commands.evaluate import score as main

if __name__ == "__main__":
    sys.exit(main())
