"""The errors that a user can fix. A command prints the message and exits with status 2, without a traceback.

A request to a server can fail in two ways. An `InvalidAnswer` concerns one request, which is retried if that may help.
A `JudgeFailed` concerns all requests (unknown model, rejected key, a server without JSON schemas) and stops the run.

`show` and `suggestion` format the values and the choices that a message names.
"""

import json
import re
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Something the user can fix. The message names the culprit, what was expected and the choices."""


class StopTraining(UserError):
    """Raised by a reward that cannot continue, for example because its judge cannot be reached.

    `EmpathyGRPOTrainer` then saves a checkpoint of all complete steps and raises the error again, with the checkpoint in
    the message. A subclass takes only a message.
    """


class Terminated(Exception):
    """SIGTERM has ended a training, which has saved a checkpoint; a command then exits with status 143."""


class RecipeError(UserError):
    """All problems of a recipe, reported at once.

    Args:
        errors: one line per problem, each `dotted.key: what is wrong`.
    """

    def __init__(self, errors: list[str]):
        self.errors = errors
        super().__init__("\n".join(errors))


class DataError(UserError):
    """A data set that cannot be used as it is; the message names file, row and value."""


class InvalidAnswer(Exception):
    """A server's answer that cannot be used, or no answer.

    Args:
        reason: a few words to count by, such as `out of range`.
        detail: the particulars.
        may_pass: whether a retry may help.
        retry_after: seconds that the server asks to wait before a retry.
    """

    def __init__(self, reason: str, detail: str, may_pass: bool = True, retry_after: float = 0.0):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
        self.may_pass, self.retry_after = may_pass, retry_after


class JudgeFailed(StopTraining):
    """The judge cannot be used, or fails too often to train on; the message gives the reason and the remedy."""


LONG_LIST = 20
_PLAIN = re.compile(r"[\w./:<>@-]+")


def show(value) -> str:
    """Return a value as an error message shows it: as YAML writes it, with invisible characters escaped, cut if long."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:60] + "…")
    shown = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return shown if len(shown) <= 80 else shown[:79] + "…"


def suggestion(name: str, choices: Iterable, title: str = "choices") -> str:
    """Return the end of an error message about an unknown name: `; did you mean X? (choices: X, Y)`.

    Args:
        name: what was written.
        choices: what could stand there. Of more than `LONG_LIST`, only the nearest five are listed; where none is near, all
            of up to twice as many.
        title: what the choices are called.
    """
    names = [_choice(choice) for choice in choices]
    by_lower = {each.lower(): each for each in names}
    near = [by_lower[each] for each in get_close_matches(name.lower(), by_lower, n=5)]
    meant = f"; did you mean {near[0]}?" if near else ""
    if near and len(names) > LONG_LIST:
        return f"{meant} (nearest: {', '.join(near)})" if near[1:] else meant
    if len(names) > 2 * LONG_LIST:
        return ""
    return f"{meant} ({title}: {', '.join(names) or 'none'})"


def _choice(choice) -> str:
    return choice if isinstance(choice, str) and _PLAIN.fullmatch(choice) else show(choice)
