"""Push a model to the Hub, pull one, or print its card: the command `empathy-trl hub` as a file; --help explains it."""

import sys

from empathy_trl.commands.hub import hub as main

if __name__ == "__main__":
    sys.exit(main())
