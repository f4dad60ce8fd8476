"""Exact resume: an interrupted run ends with the weights of a run that was never interrupted, bit for bit.

`trl.GRPOTrainer` saves model, optimizer, scheduler and random number generators. Three things are lost: a rollout that
further steps still use with its texts, metrics that are not logged yet, and the order of the prompts in a later epoch.
`ExactResumeMixin` saves the first two beside each checkpoint (`rollout_<process>.pt`), and `EpochOrderMixin` makes the third
depend on (seed, epoch) alone. `ExactResumeMixin` overrides these methods of `trl.GRPOTrainer` 1.16 and `transformers.Trainer`; each
calls `super()`:

| method | why |
|---|---|
| `_save_rng_state`, `_load_rng_state` | save and load the rollout with the random number generators |
| `training_step`, `_run_epoch`, `_load_rng_state` | take a snapshot when an optimizer step begins |
| `_load_from_checkpoint` | also load the trained adapter if TRL keeps a second one as the reference |
| `_calculate_rewards` | check the values of the rewards; stop in all processes together, and save a checkpoint |

`FiniteUpdatesMixin`, which trainers of all tasks have, overrides `training_step` and `_clip_grad_norm`: a loss or gradient that
is not finite stops the training before the weights change. `WholeRunMixin`, which they have too, overrides `_init_training_state`,
`_issue_warnings_after_load`, `_run_epoch`, `_finalize_training`, `_save_rng_state`, `training_step` and `log`: steps, losses, speed and
best checkpoint of a resumed run are those of the whole run, and equal runs write an equal `adapter_config.json`. `EpochOrderMixin`,
which they have as well, overrides `_get_train_sampler` and `_run_epoch`.

The snapshot serves rewards that raise `StopTraining`, such as a judge that cannot be reached, and rewards that return
something other than one finite number or None per completion. Both happen while a rollout is scored. By then sampling
has drawn random numbers, TRL has counted tokens, and the other processes wait for the rewards of this one. The mixin
therefore defers the stop until all processes have scored, restores the snapshot, saves a checkpoint, and raises the
stop again.
"""

import itertools
import logging
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy
import torch
from accelerate.utils import gather_object
from peft import PeftConfig, PeftModel
from torch.utils.data import IterableDataset, Sampler
from trl.trainer.utils import RepeatSampler, is_async_callable, strip_images_from_messages

from empathy_trl.data.tables import WEIGHT, BadRow, Row, weight_of
from empathy_trl.errors import StopTraining, UserError
from empathy_trl.rewards.base import PASSED, check_parameters, checked_logs, checked_values

logger = logging.getLogger(__name__)

SAMPLER_FIELDS = ("data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed")


class NonFiniteLoss(UserError):
    """Training produced a loss or gradient that is nan or infinite; the weights before that step are saved."""


class FiniteUpdatesMixin:
    """Mixin for trainers of TRL and transformers: stop on a loss or gradient that is not finite, before the weights change.

    transformers would log the mean of earlier losses instead of nan, and continue.

    Raises:
        NonFiniteLoss: from `train()`; a checkpoint of all complete steps is saved.
    """

    _kl_setting = None  # the setting that keeps a policy near its reference, for messages

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        # gathered, so that all processes stop together instead of waiting for the one that failed
        if not torch.isfinite(self.accelerator.gather(loss)).all():
            self._stop_before_update(model, f"the loss is {loss.item()}")
        return loss

    def _clip_grad_norm(self, model):
        norm = super()._clip_grad_norm(model)
        # with fp16 the gradient scaler meets infinities on purpose and skips those steps itself
        if not self.args.fp16 and not torch.isfinite(torch.as_tensor(norm)):
            self._stop_before_update(model, f"the gradient norm is {float(norm)}")
        return norm

    def _save_before_step(self, model) -> str:
        """Save the state before the current optimizer step, and return the folder."""
        self._save_checkpoint(model, trial=None)
        return os.path.join(self.args.output_dir, f"checkpoint-{self.state.global_step}")

    def _stop_before_update(self, model, problem: str):
        checkpoint = self._save_before_step(model)
        kl = f" or trainer.{self._kl_setting} (now {self.beta:g})" if self._kl_setting else ""
        raise NonFiniteLoss(
            f"step {self.state.global_step + 1}: {problem}. The weights before this step are in {checkpoint}. Lower "
            f"trainer.learning_rate (now {self.args.learning_rate:g}), raise trainer.warmup_steps (now "
            f"{self.args.warmup_steps:g}){kl}, lower trainer.max_grad_norm (now {self.args.max_grad_norm:g}), or load the "
            "model in float32."
        )


class WholeRunMixin:
    """Mixin for trainers of TRL and transformers: a resumed run has the steps, losses and best checkpoint of the whole run.

    After a resume, transformers divides the losses since the resume by the steps of the whole run, and the rows of the whole
    run by the time since the resume. It looks for the best checkpoint where the folder was before it was moved. It trains one
    step too many if the run was killed after its last checkpoint. Each checkpoint therefore holds the running sum of losses
    (`loss_<process>.pt`); a checkpoint of an earlier version, which has none, is resumed as transformers does.
    """

    _resumed_from = None  # a checkpoint whose sum of losses is still to be loaded
    _first_step = 0  # where this session began
    _loss_before = (None, None)  # the step in progress, and the sum of losses before it

    def _init_training_state(self, max_steps, steps_per_epoch, epochs, resume_from_checkpoint, trial):
        progress = super()._init_training_state(max_steps, steps_per_epoch, epochs, resume_from_checkpoint, trial)
        self._first_step, self._resumed_from = self.state.global_step, resume_from_checkpoint
        _sort_names(getattr(self.model, "peft_config", {}))
        if self.state.best_global_step:
            best = os.path.join(self.args.output_dir, f"checkpoint-{self.state.best_global_step}")
            if os.path.isdir(best):
                self.state.best_model_checkpoint = best
        return progress

    def _issue_warnings_after_load(self, load_result):
        # tied weights are saved once
        tied = getattr(self.model, "all_tied_weights_keys", None) or {}
        load_result.missing_keys[:] = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result)

    def _run_epoch(self, *args, **kwargs):
        self._load_losses()
        if self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            return super()._run_epoch(*args, **kwargs)
        # the run was killed after its last checkpoint, and transformers would train one step more
        self.control.should_training_stop = True
        return None

    def _finalize_training(self, *args, **kwargs):
        self._load_losses()  # if no step was left
        return super()._finalize_training(*args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self.is_in_train and self._loss_before[0] != self.state.global_step:
            self._loss_before = (self.state.global_step, self._tr_loss.clone())
        return super().training_step(model, inputs, num_items_in_batch)

    def _loss_file(self, folder: str, process: int) -> str:
        return os.path.join(folder, f"loss_{process}.pt")

    def _save_rng_state(self, output_dir: str):
        super()._save_rng_state(output_dir)
        torch.save(self._running_sums(), self._loss_file(output_dir, self.accelerator.process_index))

    def _running_sums(self) -> dict:
        """Return what a checkpoint holds of the losses so far."""
        step, before = self._loss_before
        # a checkpoint that is saved inside a step, because the step cannot be completed, holds the complete ones alone
        unlogged = before if step == self.state.global_step else self._tr_loss
        return {"unlogged": unlogged, "logged": self._total_loss_scalar, "logged_at": self._globalstep_last_logged}

    def _continue_sums(self, sums: dict):
        """Continue with what `_running_sums` returned when the checkpoint was saved."""
        self._tr_loss, self._total_loss_scalar = sums["unlogged"], sums["logged"]
        self._globalstep_last_logged = sums["logged_at"]

    def _load_losses(self):
        """Continue with the sum of losses in the checkpoint of a resume; with that of process 0 if there are more now."""
        checkpoint, self._resumed_from = self._resumed_from, None
        if checkpoint is None:
            return
        for process in (self.accelerator.process_index, 0):
            if os.path.isfile(file := self._loss_file(checkpoint, process)):
                self._continue_sums(torch.load(file, map_location=self.accelerator.device, weights_only=True))
                return

    def log(self, logs, *args, **kwargs):
        if "train_loss" in logs and self._first_step:
            share = 1 - self._first_step / self.state.max_steps
            for name in ("train_samples_per_second", "train_steps_per_second"):
                if name in logs:
                    logs[name] = round(logs[name] * share, 3)
        return super().log(logs, *args, **kwargs)


def _sort_names(adapters: Mapping[str, PeftConfig]) -> None:
    """Sort the names of modules in the settings of adapters: PEFT saves sets, whose order differs from process to process."""
    for adapter in adapters.values():
        for field, value in vars(adapter).items():
            if isinstance(value, set):
                setattr(adapter, field, sorted(value))


class ExactResumeMixin:
    """Put before `trl.GRPOTrainer`: a resumed run is bit-identical to an uninterrupted one.

    A checkpoint of another number of processes is resumed, too, but with a new rollout and other random numbers, and a step
    then has other rows; a warning says so.

    Raises:
        StopTraining: from `train()`, when a reward raises it; a checkpoint of all complete steps is saved.
    """

    _step_start = None  # a StepSnapshot from the first step on

    def _run_epoch(self, *args, **kwargs):
        self._step_start = StepSnapshot.take(self)  # before the first rows are drawn, which is where a resume begins
        return super()._run_epoch(*args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch):
        if self._step_start is None or self.state.global_step != self._step_start.step:
            self._step_start = StepSnapshot.take(self)
        return super().training_step(model, inputs, num_items_in_batch)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        stops, named = [], list(zip(self.reward_funcs, self.reward_func_names, strict=True))
        with patch.object(self, "reward_funcs", [defer_stops(reward, name, stops) for reward, name in named]):
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        start = self.accelerator.process_index * len(prompts)  # the rewards of all processes are here
        for (reward, name), values in zip(named, rewards[start : start + len(prompts)].T.tolist(), strict=True):
            if isinstance(reward, torch.nn.Module):
                with deferred(stops):
                    checked_values(name, values, prompts, completions)
        if stop := gather_first_stop(stops):
            self._stop_with_checkpoint(stop)
        return rewards

    def _stop_with_checkpoint(self, stop: StopTraining):
        """Save all complete steps and raise `stop` again; an evaluation inside the training restores nothing."""
        if not self.is_in_train:
            raise stop
        if self.model.training:
            self._step_start.restore(self)
        self._save_checkpoint(self.model, trial=None)
        done = self.state.global_step
        what = f"The state after step {done}" if done else "No step is complete; the state before the first one"
        checkpoint = os.path.join(self.args.output_dir, f"checkpoint-{done}")
        message = f"{stop}\n{what} is saved in {checkpoint}: start again with the same settings to continue from there."
        raise type(stop)(message) from stop

    def _save_before_step(self, model) -> str:
        """Save the state before the current optimizer step, and return the folder; a resume samples new completions."""
        self._begin_rollout()
        return super()._save_before_step(model)

    def _begin_rollout(self):
        """Let the next step sample new completions, and keep its place in the schedule of rollouts."""
        self._step = self.state.global_step * self.args.gradient_accumulation_steps
        self._buffered_inputs = None

    def _rollout_state(self) -> dict:
        """Return what a checkpoint holds besides TRL's own, for `torch.load(..., weights_only=True)`."""
        used_again = self._step % (self.args.steps_per_generation * self.num_iterations) != 0
        prompts = [strip_images_from_messages(prompt) for prompt in self._logs["prompt"]]
        return {
            "step": self._step,
            "inputs": self._buffered_inputs if used_again else None,
            "metrics": {name: list(values) for name, values in self._metrics["train"].items()},
            "texts": {"prompt": prompts} | {name: list(self._logs[name]) for name in ("completion", "advantages")},
            "rewards": {name: list(values) for name, values in self._logs["rewards"].items()},
        }

    def _load_rollout_state(self, rollout: dict):
        """Continue with what `_rollout_state` returned when the checkpoint was saved."""
        self._step = rollout["step"]
        self._buffered_inputs = rollout["inputs"]
        self._metrics["train"].clear()
        self._metrics["train"].update(rollout["metrics"])
        if "texts" in rollout:  # not in a checkpoint of an earlier version
            for name, values in rollout["texts"].items():
                self._logs[name].extend(values)
            for name, values in rollout["rewards"].items():
                self._logs["rewards"][name].extend(values)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        policy = self.model if model is None else model
        if isinstance(policy, PeftModel) and len(policy.peft_config) > 1 and not self.is_fsdp_enabled:
            # if other adapters have their own folders, transformers does not load the one in the checkpoint's folder itself
            policy.load_adapter(resume_from_checkpoint, "default", is_trainable=True)

    def _rollout_file(self, folder: str, process: int) -> str:
        return os.path.join(folder, f"rollout_{process}.pt")

    def _save_rng_state(self, output_dir: str):
        super()._save_rng_state(output_dir)
        torch.save(self._rollout_state(), self._rollout_file(output_dir, self.accelerator.process_index))

    def _load_rng_state(self, checkpoint: str | None):
        super()._load_rng_state(checkpoint)
        if checkpoint is None:
            return
        saved, now = len(list(Path(checkpoint).glob("rollout_*.pt"))), self.accelerator.num_processes
        if saved == now:
            file = self._rollout_file(checkpoint, self.accelerator.process_index)
            self._load_rollout_state(torch.load(file, map_location=self.accelerator.device, weights_only=True))
        else:
            if self.accelerator.is_main_process:
                difference = f"has rollouts of {saved} processes, and there are {now} now"
                logger.warning(
                    "%s %s: the resumed run is not identical to an uninterrupted one.", checkpoint, difference
                )
            self._begin_rollout()
        self._step_start = StepSnapshot.take(self)


class EpochOrderMixin:
    """Mixin for trainers of TRL and transformers: the rows of an epoch, and in GRPO their order, depend on (seed, epoch) alone.

    Data with a column `row_weight` is drawn accordingly, see `weighted_rows`. An epoch has as many rows as the data.

    Raises:
        UserError: from `train()`, for rows that do not fill one batch, and for weights that cannot be used.
    """

    _epoch_sampler = None  # without TRL's sampler and without weights

    def _get_train_sampler(self, dataset=None) -> Sampler:
        sampler, weights = super()._get_train_sampler(dataset), row_weights(self.train_dataset)
        if isinstance(sampler, RepeatSampler):
            if sampler.num_samples < sampler.batch_size:
                raise UserError(
                    f"train_dataset: a batch needs {sampler.batch_size} rows (generation_batch_size / num_generations), but there "
                    f"are {sampler.num_samples}, so nothing would be trained"
                )
            fields = {name: getattr(sampler, name) for name in SAMPLER_FIELDS}
        elif weights is None:
            return sampler
        else:
            fields = {"data_source": self.train_dataset, "mini_repeat_count": 1, "seed": self.args.seed}
        self._epoch_sampler = EpochRepeatSampler(**fields, weights=weights)
        return self._epoch_sampler

    def _run_epoch(self, *args, **kwargs):
        # accelerate passes `set_epoch` on to a sampler only through some of the wrappers that it may put around it
        if self._epoch_sampler is not None:
            self._epoch_sampler.set_epoch(kwargs["epoch"])
        elif isinstance(self.train_dataset, IterableDataset):  # which asks for no sampler
            row_weights(self.train_dataset)
        return super()._run_epoch(*args, **kwargs)


class EpochRepeatSampler(RepeatSampler):
    """TRL's `RepeatSampler`, whose rows and their order depend on (seed, epoch) instead of on how many epochs were drawn here.

    Args:
        weights: shape (rows,), how often each row is drawn, see `weighted_rows`; None if all weigh the same.

    Attributes:
        left_out: numbers of rows whose places the next epoch gives to other rows.
    """

    def __init__(self, *args, weights: numpy.ndarray | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.weights, self.left_out = weights, frozenset()
        self.set_epoch(0)

    def set_epoch(self, epoch: int):
        """Prepare the next pass for `epoch`; epoch 0 has the parent's order."""
        if self.shuffle:
            self.generator.manual_seed(self.seed + epoch)
        chance = numpy.random.default_rng([self.seed, epoch])
        self.rows = range(self.num_samples) if self.weights is None else weighted_rows(self.weights, chance)
        if self.left_out:
            others = chance.permutation([row for row in dict.fromkeys(self.rows) if row not in self.left_out]).tolist()
            fill = itertools.cycle(others)
            self.rows = [next(fill) if row in self.left_out else row for row in self.rows]

    def __iter__(self) -> Iterator[int]:
        return (self.rows[place] for place in super().__iter__())


def row_weights(dataset) -> numpy.ndarray | None:
    """Return the column `row_weight` of a data set; None without one, or where all rows have the same weight.

    Raises:
        UserError: a weight is not a number of at least 0, or all are 0, or the data set is iterable: its rows come in its order.
    """
    if WEIGHT not in (getattr(dataset, "column_names", None) or ()):
        return None
    if isinstance(dataset, IterableDataset):
        raise UserError(f"train_dataset: {WEIGHT} does not work with an iterable data set; expected a Dataset")
    read = [weight_of(Row(f"row {number}", {WEIGHT: value})) for number, value in enumerate(dataset[WEIGHT])]
    if bad := next((each for each in read if isinstance(each, BadRow)), None):
        raise UserError(f"train_dataset, {bad.where}: {bad.reason}: {bad.detail}")
    weights = numpy.array(read)
    if not weights.any():
        raise UserError(f"train_dataset: {WEIGHT} is 0 in all {len(weights)} rows; expected at least one above 0")
    return None if (weights == weights[0]).all() else weights


def weighted_rows(weights: numpy.ndarray, chance: numpy.random.Generator) -> list[int]:
    """Return as many row numbers as there are rows, in order, each as often as its share of all weights says.

    A row whose share is 1.3 comes once or twice, twice with the probability 0.3 (systematic sampling).

    Args:
        weights: shape (rows,), at least 0, not all 0.
    """
    order = chance.permutation(len(weights))
    ends = numpy.cumsum(weights[order])
    places = numpy.arange(len(weights)) + chance.random()
    return sorted(order[numpy.searchsorted(ends / ends[-1] * len(weights), places, side="right")].tolist())


def generator_states() -> tuple:
    """Return the states of the random number generators of Python, NumPy and PyTorch, on the CPU and on all GPUs."""
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return random.getstate(), numpy.random.get_state(), torch.get_rng_state(), on_gpu


def set_generator_states(states: tuple):
    """Set the generators to what `generator_states` returned."""
    in_python, in_numpy, in_torch, on_gpu = states
    random.setstate(in_python)
    numpy.random.set_state(in_numpy)
    torch.set_rng_state(in_torch)
    if on_gpu:
        torch.cuda.set_rng_state_all(on_gpu)


@dataclass
class StepSnapshot:
    """What generation and scoring change before the weights change, as it was when an optimizer step began.

    Attributes:
        step: complete optimizer steps at that time.
        rollout: the trainer's `_rollout_state`.
    """

    step: int
    generators: tuple
    rollout: dict
    tokens_seen: int

    @classmethod
    def take(cls, trainer) -> "StepSnapshot":
        """Return the snapshot of a trainer as it is now."""
        return cls(
            step=trainer.state.global_step,
            generators=generator_states(),
            rollout=trainer._rollout_state(),
            tokens_seen=trainer.state.num_input_tokens_seen,
        )

    def restore(self, trainer):
        """Restore a trainer whose weights and optimizer have not changed since."""
        set_generator_states(self.generators)
        trainer._load_rollout_state(self.rollout)
        trainer.state.num_input_tokens_seen = self.tokens_seen


def defer_stops(reward: Callable, name: str, stops: list[StopTraining]) -> Callable:
    """Return a reward function for TRL that checks the values of `reward`, and appends a StopTraining to `stops`.

    After a stop, it returns zeros. They are never used, because `gather_first_stop` follows at once.

    Args:
        reward: a function. A model is returned unchanged, because TRL calls models differently.
        name: name of the reward, for messages.
    """
    if isinstance(reward, torch.nn.Module):
        return reward
    if is_async_callable(reward):

        async def deferring(prompts, completions, log_metric, log_extra, **columns):
            with deferred(stops):
                check_parameters(name, reward, [*PASSED, *columns])
                columns |= checked_logs(name, len(prompts), log_metric, log_extra)
                values = await reward(prompts=prompts, completions=completions, **columns)
                return checked_values(name, values, prompts, completions)
            return [0.0] * len(prompts)
    else:

        def deferring(prompts, completions, log_metric, log_extra, **columns):
            with deferred(stops):
                check_parameters(name, reward, [*PASSED, *columns])
                columns |= checked_logs(name, len(prompts), log_metric, log_extra)
                values = reward(prompts=prompts, completions=completions, **columns)
                return checked_values(name, values, prompts, completions)
            return [0.0] * len(prompts)

    return deferring


@contextmanager
def deferred(stops: list[StopTraining]) -> Iterator[None]:
    """If the block raises StopTraining, append it to `stops` instead."""
    try:
        yield
    except StopTraining as stop:
        stops.append(stop)


def gather_first_stop(stops: list[StopTraining]) -> StopTraining | None:
    """Return the first stop of any process, in all processes alike; None if there was no stop."""
    return next(iter(gather_object(stops[:1])), None)
