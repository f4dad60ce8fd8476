"""Dynamic sampling: groups that teach nothing are replaced by groups of fresh prompts.

GRPO compares the completions of one prompt, its group. If all of them earn the same, all advantages are 0, and the group was
generated in vain. With `dynamic_sampling: true`, such groups are replaced before the loss is computed, at most `max_resampling`
times per rollout; the idea is from DAPO (Yu et al. 2025, arXiv 2503.14476). A batch keeps its size: places that cannot be filled
keep their first group.

`DynamicSamplingMixin` overrides these methods of `trl.GRPOTrainer` 1.16; each calls `super()`:

| method | why |
|---|---|
| `_generate_and_score_completions` | generate and score first, replace groups, and let the parent compute the rest for what is kept |

The parent computes advantages, log-probabilities, padding and counts of tokens from the kept groups alone, so all of its settings
(`scale_rewards`, `multi_objective_aggregation`, vLLM's correction and others) mean what they always mean. Only what it would
generate and score is given to it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import numpy
import torch
from accelerate.utils import gather_object
from torch.utils.data import IterableDataset
from trl.trainer.utils import nanstd

from empathy_trl.errors import UserError

# totals of a group that are nearer to each other than this count as equal; sums of weighted rewards are rounded
EQUAL = 1e-6


def has_spread(
    rewards: torch.Tensor, weights: torch.Tensor, num_generations: int, aggregation: str = "sum_then_normalize"
) -> torch.Tensor:
    """Return for each group whether its completions earn different rewards, so that it teaches something.

    TRL's own `frac_reward_zero_std` compares a rounded standard deviation with 0 and misses most groups without spread as soon
    as a weight is not a power of two.

    Args:
        rewards: shape (groups × num_generations, reward functions); nan where a reward does not apply.
        weights: shape (reward functions,).
        aggregation: TRL's `multi_objective_aggregation`. The total counts, but with "normalize_then_sum" each reward for
            itself: two rewards that cancel out in the total still teach.

    Returns:
        Shape (groups,), bool. Completions to which no reward applies do not count.
    """
    weighted = rewards * weights.to(rewards.device)
    if aggregation == "sum_then_normalize":
        total = weighted.nansum(dim=1)
        total[weighted.isnan().all(dim=1)] = torch.nan
        weighted = total[:, None]
    groups = weighted.view(-1, num_generations, weighted.shape[1])
    spread = groups.nan_to_num(-math.inf).amax(dim=1) - groups.nan_to_num(math.inf).amin(dim=1)
    return (spread >= EQUAL).any(dim=1)


class FreshRows:
    """An endless order of row numbers, shuffled anew in each pass, that depends on the seed alone.

    Attributes:
        position: how many were drawn so far. A trainer that continues with the position continues with the order.
    """

    def __init__(self, rows: int, seed: int):
        self.rows, self.seed, self.position = rows, seed, 0
        self._order: tuple[int, list[int]] = (-1, [])  # number of the pass, its row numbers

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        number, place = divmod(self.position, self.rows)
        if self._order[0] != number:
            self._order = number, numpy.random.default_rng([self.seed, number]).permutation(self.rows).tolist()
        self.position += 1
        return self._order[1][place]


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
    does not have yet. Every process generates the same number of groups, which are dealt to the places that are free in any
    process. An evaluation replaces nothing.

    Figures of rewards and completions, such as `reward` and `zero_spread_share`, are those of the first draw: of the prompts that
    a run without dynamic sampling would have, so that its curves compare. `frac_reward_zero_std`, the samples and the figures of
    the loss (`entropy`, `kl`, clip ratios) are of what is trained on. `num_tokens` counts everything that was generated. Also
    logged, per rollout:

    | figure | meaning |
    |---|---|
    | `groups_drawn` | groups that were generated, at most 1 + `max_resampling` times those of a batch |
    | `groups_kept` | groups of the batch that teach something; the others could not be replaced |

    Raises:
        UserError: groups cannot be replaced, because the prompts are not rows of a data set alone: tools, environments, a
            `rollout_func`, images, or an iterable data set.
    """

    _resampling = False  # whether groups are drawn that replace others

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._replaces_groups = getattr(self.args, "dynamic_sampling", False)
        if not self._replaces_groups:
            return
        obstacles = {
            "tools": self.tools,
            "an environment_factory": self.environment_factories,
            "a rollout_func": self.rollout_func,
            "a model that reads images": self._is_vlm,
            "an iterable train_dataset": isinstance(self.train_dataset, IterableDataset),
        }
        for name, occurs in obstacles.items():
            if occurs:
                raise UserError(f"trainer.dynamic_sampling: true does not work with {name}; expected false")
        self._fresh_rows = FreshRows(len(self.train_dataset), self.args.seed)

    def _generate_and_score_completions(self, inputs):
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
        """Return the next row whose prompt is not in `prompts`, and append its prompt; any row if all prompts are there."""
        data = self._epoch_sampler.data_source
        for _ in range(len(data)):
            row = data[next(self._fresh_rows)]
            if row["prompt"] not in prompts:
                break
        prompts.append(row["prompt"])
        return row

    @contextmanager
    def _in_first_draw_figures(self) -> Iterator[None]:
        """Inside the block, what is logged is forgotten, but for the number of tokens, and nothing stops for want of signal."""
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
        metrics = self._metrics["train"]
        totals = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
        totals[rewards.isnan().all(dim=1)] = torch.nan
        metrics["reward"][-1], metrics["reward_std"][-1] = torch.nanmean(totals).item(), nanstd(totals).item()
        for name, values in zip(self.reward_func_names, rewards.T, strict=True):
            metrics[f"rewards/{name}/mean"][-1] = torch.nanmean(values).item()
            metrics[f"rewards/{name}/std"][-1] = nanstd(values).item()

    def _rollout_state(self) -> dict:
        state = {"fresh_rows": self._fresh_rows.position} if self._replaces_groups else {}
        return super()._rollout_state() | state

    def _load_rollout_state(self, rollout: dict):
        super()._load_rollout_state(rollout)
        if self._replaces_groups:
            self._fresh_rows.position = rollout.get("fresh_rows", 0)
