"""`python -m empathy_trl.commands run …` and `accelerate launch -m empathy_trl.commands run …`: the command as a module."""

import sys

from empathy_trl.commands import main

if __name__ == "__main__":
    sys.exit(main())
