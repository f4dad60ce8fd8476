"""The API key: it comes from the environment when it is used, and stays out of everything that is written down.

A recipe is saved beside the model and published with it. So it holds the name of an environment variable, and whatever
looks like a key in it is refused, without repeating it in the message.
"""

import json
import os
import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from empathy_trl.errors import UserError
from empathy_trl.judge.errors import JudgeFailed

VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
# narrower than `secrets.TOKEN`: what this finds is refused, and a name that merely looks like a key must not be
KEY = re.compile(r"\b(?:(?:sk|nvapi|xai)-|(?:hf|gsk|r8)_|AIza|eyJ|Bearer )[A-Za-z0-9_-]{20,}")


def refuse_keys(parameters: dict):
    """Raise UserError if a parameter's value looks like an API key, or `api_key_env` is not the name of a variable."""
    for name, value in parameters.items():
        if KEY.search(json.dumps(value, default=str)):
            raise UserError(
                f"{name}: holds what looks like an API key. A recipe is saved with the model: put the key into an "
                "environment variable and its NAME into api_key_env"
            )
    variable = parameters["api_key_env"]
    if variable is not None and not VARIABLE.fullmatch(variable):
        raise UserError(
            "api_key_env: expected the NAME of an environment variable (capitals, digits, _), such as OPENAI_API_KEY; what "
            "is given is not repeated here, in case it is the key itself"
        )


def checked_base_url(base_url: str) -> str:
    """Return a server's address without a slash at its end.

    Raises:
        UserError: not an address, one that may hold a secret (user, password, query), or one that goes too far.
    """
    try:
        url = urlsplit(base_url)
        valid = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UserError("base_url: expected the address of a server, such as http://localhost:8000/v1")
    if "@" in url.netloc or url.query or url.fragment:
        raise UserError("base_url: expected no user, password, query or fragment; a key goes where api_key_env says")
    if url.path.rstrip("/").endswith("/chat/completions"):
        raise UserError(f"base_url: {base_url} goes too far; leave /chat/completions out")
    return base_url.rstrip("/")


def read_key(variable: str | None, base_url: str) -> str | None:
    """Return the API key in an environment variable, or None where none is to be sent.

    Raises:
        JudgeFailed: the variable is not set and the server is not on this machine, or its value cannot be in a header.
    """
    key = os.environ.get(variable, "").strip() if variable else ""
    if not key:
        if variable and not on_this_machine(base_url):
            raise JudgeFailed(
                f"api_key_env: the environment variable {variable} is not set; export the API key for {base_url} in it, "
                "name another variable, or set null for a server that wants no key"
            )
        return None
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise JudgeFailed(f"api_key_env: the value of {variable} is no API key: it has blanks or unusual characters")
    return key


def on_this_machine(base_url: str) -> bool:
    """Whether a URL's host is a loopback address."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def first_words(text: str, key: str | None) -> str:
    """Return the beginning of what a server says, on one line, for a message; some servers repeat the key they were sent."""
    text = text.replace(key, "[key]") if key else text
    text = " ".join(text[:2000].split())
    return text if len(text) <= 300 else f"{text[:300]}…"
