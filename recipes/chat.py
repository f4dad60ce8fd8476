"""Talk to a model: the command `empathy-trl chat` as a file; --help explains it."""

import sys

from empathy_trl.commands.chat import chat as main

if __name__ == "__main__":
    sys.exit(main())
