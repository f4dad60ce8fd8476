"""The errors a user can fix: launchers print their message and exit with status 2, without a traceback."""


class UserError(ValueError):
    """Something the user can fix. The message names the culprit, what was expected and the choices."""


class StopTraining(UserError):
    """Raised by a reward that cannot go on, such as a judge that is out of reach.

    `EmpathyGRPOTrainer` then saves a checkpoint of all complete steps and raises it again, the checkpoint named in the
    message. A subclass is made from its message alone.
    """


class RecipeError(UserError):
    """Everything that is wrong with a recipe, reported at once.

    Args:
        errors: one line per problem, each `dotted.key: what is wrong`.
    """

    def __init__(self, errors: list[str]):
        self.errors = errors
        super().__init__("\n".join(errors))


class DataError(UserError):
    """A data set that cannot be used as it is; the message names file, row and value."""
