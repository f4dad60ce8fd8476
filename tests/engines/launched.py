"""`recipes/run.py` as the engine tests start it, in every process; the arguments are those of run.py.

It trains what it always trains. What differs:

* Configs for GPUs start processes on the CPU. accelerate turns FSDP on for those only if they call themselves a
  multi-device run; here they do.
* With `top_k: 1` generation is greedy, and a completion is the first tokens of it and then some that follow from the prompt
  and the place in its group. One process and two then learn from the same completions, and those of a group differ.
* Pictures and model cards, which have tests of their own, are left out.
* Each stage notes in `engine.json` what its trainer runs on.
* If ENGINES_INTERRUPT names a folder, each stage's folder is copied there after step 3, as a SIGKILL would leave it. The
  stage `killed` gets the SIGKILL.
"""

import json
import os
import random
import runpy
import shutil
import signal
from pathlib import Path

import transformers
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from matplotlib.figure import Figure
from trl import GRPOTrainer

from empathy_trl import tasks
from empathy_trl.engine import Engine

ROOT = Path(__file__).resolve().parents[2]
INTERRUPT, STEP = os.environ.get("ENGINES_INTERRUPT"), 3
init_state, init_trainer, generate = (
    AcceleratorState.__init__,
    transformers.Trainer.__init__,
    GRPOTrainer._generate_single_turn,
)


def init_state_for_fsdp(self, *args, **kwargs):
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and PartialState().distributed_type == "MULTI_CPU":
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    init_state(self, *args, **kwargs)


def generate_by_prompt(self, prompt_ids, *args, **kwargs):
    completions, logprobs = generate(self, prompt_ids, *args, **kwargs)
    if self.args.top_k != 1:
        return completions, logprobs
    end, vocabulary = self._tokenizer.eos_token_id, range(261, len(self._tokenizer))  # behind bytes and special tokens
    for row, (prompt, greedy) in enumerate(zip(prompt_ids, completions, strict=True)):
        draw = random.Random(str((list(map(int, prompt)), row % self.num_generations)))
        rest = draw.choices(vocabulary, k=draw.randint(2, self.max_completion_length - 4))
        completions[row] = [token for token in greedy if token != end][:3] + rest + [end]
    return completions, None


class Observe(transformers.TrainerCallback):
    def on_train_begin(self, args, state, control, model=None, **kwargs):
        engine = AcceleratorState()
        shards = [type(weight).__name__ == "DTensor" or hasattr(weight, "ds_id") for weight in model.parameters()]
        about = {
            "type": engine.distributed_type,
            "processes": engine.num_processes,
            "zero": engine.deepspeed_plugin and engine.deepspeed_plugin.zero_stage,
            "sharded": sum(shards) / len(shards),
        }
        if state.is_world_process_zero:
            (Path(args.output_dir) / "engine.json").write_text(json.dumps(about))

    def on_step_end(self, args, state, control, **kwargs):
        folder = Path(args.output_dir)
        if INTERRUPT is None or state.global_step != STEP:
            return
        if folder.name == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if state.is_world_process_zero:
            shutil.copytree(folder, Path(INTERRUPT) / folder.name)


def init_observed_trainer(self, *args, **kwargs):
    init_trainer(self, *args, **kwargs)
    self.add_callback(Observe())


if __name__ == "__main__":
    Figure.savefig = lambda figure, file, **settings: Path(file).touch()
    tasks.write_card = lambda folder: None
    Engine.missing_devices = lambda self: None
    AcceleratorState.__init__ = init_state_for_fsdp
    GRPOTrainer._generate_single_turn = generate_by_prompt
    transformers.Trainer.__init__ = init_observed_trainer
    runpy.run_path(str(ROOT / "recipes" / "run.py"), run_name="__main__")
