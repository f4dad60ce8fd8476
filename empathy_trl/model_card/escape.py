"""Untrusted values in Markdown: names, paths and parameters of a recipe show as the text they are, in one line.

Nothing in them starts a heading, a table cell, a link or HTML, and nothing of the machine or of an account goes along.
"""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from empathy_trl.secrets import TOKEN

LONGEST = 120
# what GitHub's Markdown may read as more than a character
SPECIAL = re.compile(r"[\\`*\[\]<>#|~$&!{}@]|(?<!\w)_|_(?!\w)|^[-+=]")
LOCAL = re.compile(r"(?<![\w.:/])(?:~|\.{1,2}|[A-Za-z]:)?[\\/](?:[^\s'\"]*[\\/])?(?=[^\s'\"])")


def text(value: Any) -> str:
    """Return a value as Markdown that shows it as it is, without line breaks; long ones are cut."""
    return SPECIAL.sub(lambda found: f"&#{ord(found[0][0])};", one_line(value))


def code(value: Any) -> str:
    """Return a value as inline code, which also stands in a table."""
    line = one_line(value)
    return f"`{line}`" if line and not re.search(r"[`|\\]", line) else f"<code>{text(line)}</code>"


def one_line(value: Any) -> str:
    """Return what may be shown of a value: in one line, without secrets, folders of the machine and addresses of servers."""
    line = re.sub(r"[\s\x00-\x1f\x7f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2066-\u2069]+", " ", str(value)).strip()
    line = TOKEN.sub("(secret left out)", line)
    line = re.sub(r"\w+://\S+", lambda found: _address(found[0]), line)
    line = LOCAL.sub("", line)
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def local_name(path: str) -> str:
    """Return the last part of a local path."""
    return Path(path).expanduser().absolute().name


def _address(url: str) -> str:
    """Return an address of the Hub, and of others only that there is one: a host of one's own network is nobody's business."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    return url if host == "huggingface.co" and "@" not in url else "(address left out)"


def fenced(source: str, language: str) -> str:
    """Return a block of code, fenced by more backticks than occur in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", source)), default=0))
    return f"{fence}{language}\n{source.strip(chr(10))}\n{fence}"
