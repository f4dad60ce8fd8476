"""What must not be seen: tokens, and addresses that are as good as one. Everything said about a push goes through here."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

# of the Hub; keys of other services; whatever is sent as one. What looks like a word cannot be told from one
TOKEN = re.compile(
    r"\b(?:(?:hf|api_org|hf_oauth)_[A-Za-z0-9]{8,}"
    r"|(?:(?:sk|nvapi|xai|xox[a-z])-|(?:gsk|r8|ghp|gho|github_pat)_|AIza|eyJ)[\w-]{16,})"
    r"|(?<=Bearer )[^\s'\",]+"
)
# what stands behind the ? of an address may be a signature that lets anybody upload for a while
QUERY = re.compile(r"(https?://[^\s'\"?]+)\?[^\s'\")]+")
USER = re.compile(r"(https?://)[^\s/'\"@]+@")
VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def mask(text: str) -> str:
    """Return a text without the token of whoever is logged in, and without anything that looks like one."""
    for token in _tokens():
        text = text.replace(token, "[token]")
    return USER.sub(r"\1", QUERY.sub(r"\1", TOKEN.sub("[token]", text)))


def _tokens() -> set[str]:
    """Return the tokens on this machine; too short ones are no tokens, and would blot out words."""
    from huggingface_hub import constants

    found = [os.environ.get(variable, "") for variable in VARIABLES]
    try:
        with open(constants.HF_TOKEN_PATH, encoding="utf-8") as file:
            found.append(file.read())
    except (OSError, UnicodeDecodeError):
        pass
    return {token.strip() for token in found if len(token.strip()) >= 8}


@contextmanager
def masked_log(name: str) -> Iterator[None]:
    """Mask what a logger says, inside the block."""
    logger = logging.getLogger(name)
    logger.addFilter(_mask_record)
    try:
        yield
    finally:
        logger.removeFilter(_mask_record)


def _mask_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = mask(record.getMessage()), None
    return True
