"""The settings of `EmpathyGRPOTrainer`: TRL's, and whether prompts are shared."""

import dataclasses
from typing import Literal

from trl import GRPOConfig


@dataclasses.dataclass
class EmpathyGRPOConfig(GRPOConfig):
    """`trl.GRPOConfig` and one field more.

    Raises:
        ValueError: `shared_prefix` is none of "auto", True and False.
    """

    shared_prefix: bool | Literal["auto"] = dataclasses.field(
        default="auto",
        metadata={
            "help": "Compute a prompt once for all its completions. auto: where the model allows it and it saves work; "
            "true: the same, but a model that does not allow it is an error; false: never."
        },
    )

    def __post_init__(self):
        if not isinstance(self.shared_prefix, bool) and self.shared_prefix != "auto":
            raise ValueError(f"shared_prefix: {self.shared_prefix!r} should be 'auto', True or False")
        super().__post_init__()
