"""The settings of `EmpathyGRPOTrainer`: TRL's, and whether prompts are shared."""

import dataclasses
from typing import Literal

from trl import GRPOConfig


@dataclasses.dataclass
class EmpathyGRPOConfig(GRPOConfig):
    """`trl.GRPOConfig` and one field more."""

    shared_prefix: bool | Literal["auto"] = dataclasses.field(
        default="auto",
        metadata={
            "help": "Compute a prompt once for all its completions. auto: where the model allows it and it saves work; "
            "true: the same, but a model that does not allow it is an error; false: never."
        },
    )
