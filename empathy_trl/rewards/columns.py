"""Columns of the data, as TRL hands them to a reward."""

from empathy_trl.errors import UserError


def needed_column(reward, columns: dict, name: str) -> list:
    """Return a column of the batch.

    Args:
        reward: has `__name__`, for the message.
        columns: as TRL passes them.
        name: of the column.

    Raises:
        UserError: there is none of this name.
    """
    if name not in columns:
        raise UserError(f"rewards.{reward.__name__}: needs a column `{name}` in the data")
    return columns[name]
