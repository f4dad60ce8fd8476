"""Dynamic sampling: groups that teach nothing are replaced by groups of fresh prompts; solved prompts are left out for an epoch.

GRPO compares the completions of one prompt, its group. If all of them earn the same, all advantages are 0, and the group teaches
nothing. With `dynamic_sampling: true`, such groups are replaced before the loss is computed, at most `max_resampling`
times per rollout; the idea is from DAPO (Yu et al. 2025, arXiv 2503.14476). A batch keeps its size: groups for which no replacement
is found stay.

With `skip_solved: k`, a prompt that was solved in each of its last k visits is left out of the next epoch (`SolvedPrompts`). Other
prompts take its place, so the length of an epoch, the number of steps and the learning rates do not change.

`DynamicSamplingMixin` overrides these methods of `trl.GRPOTrainer` 1.16 and `transformers.Trainer`; each calls `super()`:

| method | why |
|---|---|
| `_generate_and_score_completions` | generate and score first, replace groups, and let the parent compute the rest for what is kept |
| `_calculate_rewards` | note which prompts are solved |
| `_run_epoch` | leave out prompts that have been solved |

The parent computes advantages, log-probabilities, padding and counts of tokens from the kept groups alone, so all of its settings
(`scale_rewards`, `multi_objective_aggregation`, vLLM's correction and others) work as usual. Only what it would generate and score is
given to it.
"""

import hashlib
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from unittest.mock import patch

import numpy
import torch
from accelerate.utils import gather_object
from torch.utils.data import IterableDataset
from trl.trainer.utils import nanstd

from empathy_trl.errors import UserError
from empathy_trl.trainers.exact_resume import row_weights, weighted_rows

logger = logging.getLogger(__name__)

# totals of a group that are nearer to each other than this count as equal; sums of weighted rewards are rounded
EQUAL = 1e-6


def totals(rewards: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the total reward of each completion, shape (rows,); nan where no reward applies. Arguments: as for `has_spread`."""
    total = (rewards * weights.to(rewards.device)).nansum(dim=1)
    total[rewards.isnan().all(dim=1)] = torch.nan
    return total


def has_spread(
    rewards: torch.Tensor, weights: torch.Tensor, num_generations: int, aggregation: str = "sum_then_normalize"
) -> torch.Tensor:
    """Return for each group whether its completions earn different rewards, so that it teaches something.

    TRL's own `frac_reward_zero_std` compares a rounded standard deviation with 0 and misses most groups without spread as soon
    as a weight is not a power of two.

    Args:
        rewards: shape (groups × num_generations, reward functions); nan where a reward does not apply.
        weights: shape (reward functions,).
        aggregation: TRL's `multi_objective_aggregation`. The spread is that of the total; with "normalize_then_sum", that of
            each reward: two rewards that cancel out in the total still teach.

    Returns:
        Shape (groups,), bool. Completions to which no reward applies do not count.
    """
    if aggregation == "sum_then_normalize":
        weighted = totals(rewards, weights)[:, None]
    else:
        weighted = rewards * weights.to(rewards.device)
    groups = weighted.view(-1, num_generations, weighted.shape[1])
    spread = groups.nan_to_num(-math.inf).amax(dim=1) - groups.nan_to_num(math.inf).amin(dim=1)
    return (spread >= EQUAL).any(dim=1)


class FreshRows:
    """An endless order of row numbers, shuffled anew in each pass, that depends on the seed alone.

    Args:
        rows: how many there are.
        seed: of the order, at least 0.
        weights: shape (rows,), how often each row is drawn, see `exact_resume.weighted_rows`; None if all weigh the same.

    Attributes:
        position: how many were drawn so far. To continue an order, set it.
    """

    def __init__(self, rows: int, seed: int, weights: numpy.ndarray | None = None):
        self.rows, self.seed, self.weights, self.position = rows, seed, weights, 0
        self._order: tuple[int, list[int]] = (-1, [])  # number of the pass, its row numbers

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        number, place = divmod(self.position, self.rows)
        if self._order[0] != number:
            chance = numpy.random.default_rng([self.seed, number, 1])  # not those of the epoch with this number
            rows = self.rows if self.weights is None else weighted_rows(self.weights, chance)
            self._order = number, chance.permutation(rows).tolist()
        self.position += 1
        return self._order[1][place]


def prompt_key(prompt: str | list[dict]) -> str:
    """Return a short text that tells a prompt from all others."""
    return hashlib.sha256(repr(prompt).encode(errors="backslashreplace")).hexdigest()[:16]


@dataclass
class SolvedPrompts:
    """Counts how often prompts were solved, and decides which of them an epoch leaves out.

    A visit is one group of completions. It solves its prompt if each completion earns the highest total reward that any
    completion has earned so far in this run. As long as all completions have earned the same, nothing is solved. A total above
    the highest so far sets all counts back to 0.

    Attributes:
        needed: after so many visits in a row that solved a prompt, the next epoch leaves it out. The epoch after that has it again.
        highest, lowest: totals so far.
        streaks: `prompt_key` -> visits in a row that solved it.
        epoch: number of the epoch that `left_out` is for.
        left_out: keys of the prompts that this epoch leaves out.
    """

    needed: int
    highest: float = -math.inf
    lowest: float = math.inf
    streaks: dict[str, int] = field(default_factory=dict)
    epoch: int = -1
    left_out: list[str] = field(default_factory=list)

    def note(self, prompts: list[str], totals: torch.Tensor):
        """Count one visit for each prompt.

        Args:
            prompts: keys, one per group.
            totals: what the completions earned, shape (groups, num_generations); nan where no reward applies.
        """
        earned = totals[~totals.isnan()]
        if not len(earned):
            return
        if earned.max() > self.highest + EQUAL:
            self.highest = earned.max().item()
            self.streaks.clear()
        self.lowest = min(self.lowest, earned.min().item())
        solved = (totals >= self.highest - EQUAL).all(dim=1) & (self.lowest < self.highest - EQUAL)
        for prompt, is_solved in zip(prompts, solved.tolist(), strict=True):
            self.streaks[prompt] = self.streaks.get(prompt, 0) + 1 if is_solved else 0

    def leave_out(self, epoch: int, prompts: list[str], batch: int) -> frozenset[int]:
        """Return the numbers of the rows that an epoch leaves out. The first call for an epoch decides.

        Args:
            epoch: its number, from 0.
            prompts: keys of all rows.
            batch: prompts that a batch needs; if fewer would be left, nothing is left out, and a warning says so.
        """
        if epoch != self.epoch:
            solved = {prompt for prompt, times in self.streaks.items() if times >= self.needed} - set(self.left_out)
            if solved and (left := len(set(prompts) - solved)) < batch:
                logger.warning(
                    "trainer.skip_solved: epoch %d leaves out none of the solved prompts (%d): only %d others would be left, "
                    "and a batch needs %d.",
                    epoch + 1,
                    len(solved),
                    left,
                    batch,
                )
                solved = set()
            self.epoch, self.left_out = epoch, sorted(solved)
        solved = set(self.left_out)
        return frozenset(row for row, prompt in enumerate(prompts) if prompt in solved)


@dataclass
class Completion:
    """One completion with everything that the parent's method takes over.

    Attributes:
        row: the row of the data.
        extra: what rewards logged about it with `log_extra`, column -> value.
    """

    row: dict
    prompt_ids: list[int]
    completion_ids: list[int]
    completion: str | list[dict]
    log_probs: list[float] | None
    extra: dict


class DynamicSamplingMixin:
    """Put before `trl.GRPOTrainer`: replaces groups without spread, as `args.dynamic_sampling` says (default false).

    A group is replaced if its completions all earn the same (`has_spread`), or if `mask_truncated_completions` masks all of
    them. Fresh prompts come from the training rows in an order of their own (`FreshRows`), preferably prompts that this rollout
    does not have yet. Every process generates the same number of groups, which replace groups of any process. In an evaluation,
    no group is replaced.

    Figures of rewards and completions, such as `reward` and `zero_spread_share`, are those of the first draw: of the prompts that
    a run without dynamic sampling would have, so that the curves can be compared. `frac_reward_zero_std`, the samples and the
    figures of the loss (`entropy`, `kl`, clip ratios) are those of the groups that are trained on. `num_tokens` counts everything
    that was generated. Also logged, per rollout:

    | figure | meaning |
    |---|---|
    | `groups_drawn` | groups that were generated, at most 1 + `max_resampling` times those of a batch |
    | `groups_kept` | groups of the batch that teach something; the others could not be replaced |
    | `prompts_skipped` | with `args.skip_solved`: rows that this epoch leaves out, because their prompts are solved |

    Raises:
        UserError: groups cannot be replaced, because the prompts are not rows of a data set alone: tools, environments, a
            `rollout_func`, images, or an iterable data set; or prompts cannot be left out, because of environments or an
            iterable data set.
    """

    _resampling = False  # whether groups are drawn that replace others

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._replaces_groups = getattr(self.args, "dynamic_sampling", False)
        needed = getattr(self.args, "skip_solved", None)
        self._solved = SolvedPrompts(needed) if needed else None
        iterable = {
            "an environment_factory": self.environment_factories,
            "an iterable train_dataset": isinstance(self.train_dataset, IterableDataset),
        }
        others = {"tools": self.tools, "a rollout_func": self.rollout_func, "a model that reads images": self._is_vlm}
        for setting, obstacles in (
            ("dynamic_sampling", iterable | others if self._replaces_groups else {}),
            ("skip_solved", iterable if self._solved else {}),
        ):
            for name, occurs in obstacles.items():
                if occurs:
                    value = str(getattr(self.args, setting)).lower()
                    raise UserError(f"trainer.{setting}: {value} does not work with {name}; leave it out")
        if self._replaces_groups:
            self._fresh_rows = FreshRows(len(self.train_dataset), self.args.seed, row_weights(self.train_dataset))

    def _run_epoch(self, *args, **kwargs):
        if self._solved is not None and (sampler := self._epoch_sampler) is not None:
            if kwargs["resume_from_checkpoint"] is not None and kwargs["epoch"] == kwargs["epochs_trained"]:
                self._load_solved(kwargs["resume_from_checkpoint"])  # before the rows of the epoch are drawn
            if (
                kwargs["epoch"] == 0
                and self.state.num_train_epochs <= self._solved.needed
                and not self._replaces_groups
            ):
                logger.warning(
                    "trainer.skip_solved: %d leaves out nothing in this run of %d epoch(s): a prompt can be left out only after that many "
                    "visits, usually one per epoch.",
                    self._solved.needed,
                    self.state.num_train_epochs,
                )
            prompts = [prompt_key(prompt) for prompt in sampler.data_source["prompt"]]
            sampler.left_out = self._solved.leave_out(kwargs["epoch"], prompts, sampler.batch_size)
        return super()._run_epoch(*args, **kwargs)

    def _load_solved(self, checkpoint: str):
        """Continue with what a checkpoint says about solved prompts, which is the same in all of its processes."""
        for process in (self.accelerator.process_index, 0):
            if os.path.isfile(file := self._rollout_file(checkpoint, process)):
                rollout = torch.load(file, map_location="cpu", weights_only=True)
                self._solved = SolvedPrompts(**rollout.get("solved", {"needed": self._solved.needed}))
                return

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self._solved is not None and self.model.training:
            keys = gather_object([prompt_key(row["prompt"]) for row in inputs])[:: self.num_generations]
            self._solved.note(keys, totals(rewards, self.reward_weights).view(-1, self.num_generations))
        return rewards

    def _generate_and_score_completions(self, inputs):
        if self._solved is not None and self.model.training:
            self._metrics["train"]["prompts_skipped"].append(float(len(self._epoch_sampler.left_out)))
        if not self._replaces_groups or not self.model.training:
            return super()._generate_and_score_completions(inputs)
        first, first_rewards = self._draw(inputs)
        kept, rewards = self._replace(first, first_rewards)
        self._pending_extra_logs.clear()
        for column in {column for each in kept for column in each.extra}:
            self._pending_extra_logs[column] = [each.extra.get(column) for each in kept]
        generated = (
            [each.prompt_ids for each in kept],
            [each.completion_ids for each in kept],
            None,  # the mask of tools
            [each.completion for each in kept],
            None if kept[0].log_probs is None else [each.log_probs for each in kept],
            {},  # extra fields of a rollout_func
            None,  # images of the prompts
            [],  # images of tools
        )
        with (
            patch.object(self, "_generate", lambda prompts: generated),
            patch.object(self, "_calculate_rewards", lambda *_: rewards),
        ):
            output = super()._generate_and_score_completions([each.row for each in kept])
        self._log_rewards(first_rewards)
        return output

    def _draw(self, rows: list[dict]) -> tuple[list[Completion], torch.Tensor]:
        """Generate and score one completion for each row of this process.

        Returns:
            The completions of this process, and the rewards of all processes, shape (rows of all, reward functions).
        """
        prompts = [row["prompt"] for row in rows]
        prompt_ids, completion_ids, _, completions, log_probs, *_ = self._generate(prompts)
        rewards = self._calculate_rewards(rows, prompts, completions, completion_ids)
        columns = dict(self._pending_extra_logs)
        self._pending_extra_logs.clear()
        extras = [{column: values[i] for column, values in columns.items()} for i in range(len(rows))]
        parts = rows, prompt_ids, completion_ids, completions, log_probs or [None] * len(rows), extras
        return [Completion(*each) for each in zip(*parts, strict=True)], rewards

    def _replace(self, kept: list[Completion], rewards: torch.Tensor) -> tuple[list[Completion], torch.Tensor]:
        """Return the completions of this process and the rewards of all, with groups that teach nothing replaced."""
        size, processes = self.num_generations, self.accelerator.num_processes
        kept, rewards, teaches = list(kept), rewards.clone(), self._teaches(kept, rewards)
        first_group = self.accelerator.process_index * len(kept) // size  # of this process
        drawn, prompts = len(teaches), []
        for _ in range(self.args.max_resampling):
            free = [group for group, does in enumerate(teaches) if not does]
            if not free:
                break
            prompts = prompts or gather_object([each.row["prompt"] for each in kept[::size]])
            fresh, fresh_rewards = self._draw_again(math.ceil(len(free) / processes), prompts)
            better = [group for group, does in enumerate(self._teaches(fresh, fresh_rewards)) if does]
            drawn += len(fresh_rewards) // size
            fresh = gather_object(fresh)
            for group, source in zip(free, better, strict=False):
                teaches[group] = True
                rows, source = slice(group * size, (group + 1) * size), slice(source * size, (source + 1) * size)
                rewards[rows] = fresh_rewards[source]
                if 0 <= (start := (group - first_group) * size) < len(kept):
                    kept[start : start + size] = fresh[source]
        self._metrics["train"]["groups_drawn"].append(float(drawn))
        self._metrics["train"]["groups_kept"].append(float(sum(teaches)))
        return kept, rewards

    def _teaches(self, completions: list[Completion], rewards: torch.Tensor) -> list[bool]:
        """Return for each group of all processes whether the loss learns from it.

        Args:
            completions: those of this process.
            rewards: those of all processes.
        """
        teaches = has_spread(rewards, self.reward_weights, self.num_generations, self.multi_objective_aggregation)
        if self.mask_truncated_completions:
            ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
            ended = torch.tensor([each.completion_ids[-1] in ends for each in completions], device=rewards.device)
            teaches &= self.accelerator.gather(ended).view(-1, self.num_generations).any(dim=1)
        return teaches.tolist()

    def _draw_again(self, groups: int, prompts: list) -> tuple[list[Completion], torch.Tensor]:
        """Draw groups of fresh prompts in this process, and as many in all others.

        Args:
            prompts: those that this rollout has in any process; the fresh ones are appended.
        """
        rows = [self._fresh_row(prompts) for _ in range(groups * self.accelerator.num_processes)]
        start = self.accelerator.process_index * groups
        own = [dict(row) for row in rows[start : start + groups] for _ in range(self.num_generations)]
        with self._in_first_draw_figures():
            return self._draw(own)

    def _fresh_row(self, prompts: list) -> dict:
        """Return the next row whose prompt is not in `prompts`, and append its prompt; any row if all prompts are there.

        Rows that this epoch leaves out are passed over likewise.
        """
        data, left_out = self._epoch_sampler.data_source, self._epoch_sampler.left_out
        for _ in range(len(data)):
            row = data[number := next(self._fresh_rows)]
            if number not in left_out and row["prompt"] not in prompts:
                break
        prompts.append(row["prompt"])
        return row

    @contextmanager
    def _in_first_draw_figures(self) -> Iterator[None]:
        """Log nothing inside the block except the number of tokens, and accept a rollout without signal."""
        logged = [self._metrics["train"], self._pending_metrics]
        before = [{name: list(values) for name, values in figures.items()} for figures in logged]
        self._resampling = True
        try:
            yield
        finally:
            self._resampling = False
            for figures, old in zip(logged, before, strict=True):
                figures.clear()
                figures.update(old)
            self._metrics["train"]["num_tokens"] = [self.state.num_input_tokens_seen]

    def _log_rewards(self, rewards: torch.Tensor):
        """Replace the figures that the parent has logged about the kept rewards by those of the first draw."""
        metrics, total = self._metrics["train"], totals(rewards, self.reward_weights)
        metrics["reward"][-1], metrics["reward_std"][-1] = torch.nanmean(total).item(), nanstd(total).item()
        for name, values in zip(self.reward_func_names, rewards.T, strict=True):
            metrics[f"rewards/{name}/mean"][-1] = torch.nanmean(values).item()
            metrics[f"rewards/{name}/std"][-1] = nanstd(values).item()

    def _rollout_state(self) -> dict:
        state = {"fresh_rows": self._fresh_rows.position} if self._replaces_groups else {}
        if self._solved is not None:
            state["solved"] = asdict(self._solved)
        return super()._rollout_state() | state

    def _load_rollout_state(self, rollout: dict):
        super()._load_rollout_state(rollout)
        if self._replaces_groups:
            self._fresh_rows.position = rollout.get("fresh_rows", 0)
        if "solved" in rollout and self._solved is not None:
            self._solved = SolvedPrompts(**rollout["solved"])
