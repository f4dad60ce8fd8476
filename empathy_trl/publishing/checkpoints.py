"""Pushing while a model is still being trained."""

import re
import sys
from pathlib import Path

from transformers import TrainerCallback

from empathy_trl.publishing.patience import failures, reason
from empathy_trl.publishing.push import push_checkpoint


class PushCheckpoints(TrainerCallback):
    """Pushes every checkpoint that is saved, before the training goes on. A push that fails is told, and stops nothing.

    What fails at every checkpoint for the same reason is told once.

    Args:
        hub: has the attributes of `recipe.Hub`.
    """

    def __init__(self, hub):
        self.hub, self.told = hub, set()

    def on_save(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        try:
            push_checkpoint(checkpoint, self.hub)
        except failures() as error:
            said = reason(error)
            if (kind := re.sub(r"\d", "", said)) not in self.told:
                self.told.add(kind)
                print(
                    f"\n{self.hub.repo_id}: {checkpoint.name} was not pushed: {said}. It is in {checkpoint.parent}; training "
                    "goes on, and says no more of this kind",
                    file=sys.stderr,
                )
