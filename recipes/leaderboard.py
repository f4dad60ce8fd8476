"""Rank many evaluations in one table: the command `empathy-trl leaderboard` as a file; --help explains it."""

import sys

from empathy_trl.commands.hub import leaderboard as main

if __name__ == "__main__":
    sys.exit(main())
