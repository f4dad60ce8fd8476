"""The two kinds of failure, which are kept apart.

`Unusable` is about one question: it is asked again where that may help, and then given up. `JudgeFailed` is about all
of them (no such model, a key that is refused, a server that cannot follow a schema): asking again would change nothing,
so it stops the run at once.
"""

from empathy_trl.errors import StopTraining


class Unusable(Exception):
    """An answer that is not what was asked for.

    Args:
        reason: a few words to count by, such as `out of range`.
        detail: the particulars.
        may_pass: whether the same question may be answered another time.
        wait: seconds that the server wants to be left alone before.
    """

    def __init__(self, reason: str, detail: str, may_pass: bool = True, wait: float = 0.0):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
        self.may_pass, self.wait = may_pass, wait


class JudgeFailed(StopTraining):
    """The judge cannot be asked, or fails too often to be trained on; the message says why and what to do."""
