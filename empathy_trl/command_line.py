"""What the command lines have in common."""

import argparse


def documented_parser(documentation: str, **settings) -> argparse.ArgumentParser:
    """Return a parser whose help is a module's docstring: its first paragraph above the flags, the rest below them."""
    summary, _, examples = documentation.partition("\n\n")
    return argparse.ArgumentParser(
        description=summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **settings,
    )


def positive(text: str) -> int:
    """Read a whole number above 0; as `type` of a flag."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number above 0")
    return int(text)
