"""Show the rewards of given completions: the command `empathy-trl explain` as a file; --help explains it."""

import sys

from empathy_trl.commands.evaluate import explain as main

if __name__ == "__main__":
    sys.exit(main())
