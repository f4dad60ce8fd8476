"""GRPO from TRL with additions for long runs.

`EmpathyGRPOTrainer` is `trl.GRPOTrainer` with mixins: groups that teach nothing may be replaced (`dynamic_sampling`), prompts are
computed once per group (`shared_prefix.mixin`), an interrupted run resumes exactly, and a loss that is not finite stops it before
the weights change (`exact_resume`). This module overrides these methods of `trl.GRPOTrainer` 1.16 and `transformers.Trainer`; each
calls `super()`:

| method | why |
|---|---|
| `_generate_and_score_completions` | reward weights may follow a schedule; log distinct-2 |
| `_calculate_rewards` | pass rewards the `<think>` at the end of the prompt; keep rewards of weight 0 out of the advantages; log the lengths of thoughts and replies, the share of groups whose completions all earn the same, and which rewards rise with the length; stop if no reward applies, or if all completions are masked |
| `_get_per_token_logps_and_entropies` | without a GPU, keep prompts out of the vocabulary projection |
| `training_step`, `__init__` | without a GPU, make fewer logits at a time, and let adapters and the LM head make fewer copies; also in SFT |

`tests/trainers/test_seams.py` pins the source of every parent method named here.
"""

import dataclasses
import logging
from collections import Counter
from contextlib import AbstractContextManager
from typing import Literal
from unittest.mock import patch

import torch
import trl.trainer.utils
from transformers.integrations import is_fsdp_enabled
from trl import GRPOConfig, GRPOTrainer
from trl.kernels import chunked_logprob

from empathy_trl.errors import StopTraining, UserError
from empathy_trl.models.adapters import fuse_adapters
from empathy_trl.models.batching import opened_thought, render, thought_tokens
from empathy_trl.models.likelihood import PolicyScorer
from empathy_trl.models.limits import check_vocabulary, count_positions_from_mask
from empathy_trl.models.load import check_tags, contiguous_head
from empathy_trl.models.templates import guard_template
from empathy_trl.rewards.base import Reward, WeightSchedule, weight_at
from empathy_trl.tags import THOUGHTS, completion_text, content_text
from empathy_trl.trainers.advice import GRPO_CAUSES, TrainingAdvice
from empathy_trl.trainers.dynamic_sampling import DynamicSamplingMixin, has_spread
from empathy_trl.trainers.exact_resume import EpochOrderMixin, ExactResumeMixin, FiniteUpdatesMixin, WholeRunMixin
from empathy_trl.trainers.shared_prefix.mixin import SharedPrefixMixin

logger = logging.getLogger(__name__)

# the training stops at this many rollouts in a row from which nothing can be learned
LIMIT_WITHOUT_SIGNAL = 3
# how many times a rollout replaces groups by default
MAX_RESAMPLING = 3
# Tokens and words of which the LM head makes logits at a time on a CPU, 17 MB in float32. Of the sizes that were measured with
# SmolLM2, this takes the least time. The C library gets more than 32 MB from the system each time, which has to clear it.
TILE_ROWS, TILE_WIDTH = 2048, 2048


@dataclasses.dataclass
class EmpathyGRPOConfig(GRPOConfig):
    """`trl.GRPOConfig` with the fields `shared_prefix`, `dynamic_sampling`, `max_resampling` and `skip_solved`.

    Raises:
        ValueError: `shared_prefix` is not "auto", True or False; `max_resampling` or `skip_solved` is below 1; the former has no
            effect; a group that may have to be replaced would span processes.
    """

    shared_prefix: bool | Literal["auto"] = dataclasses.field(
        default="auto",
        metadata={
            "help": "Compute a prompt once for all its completions. auto: where the model allows it and it saves work; "
            "true: the same, but a model that does not allow it is an error; false: never."
        },
    )

    dynamic_sampling: bool = dataclasses.field(
        default=False,
        metadata={
            "help": "Replace groups whose completions all earn the same, and which therefore teach nothing, by groups of "
            "fresh prompts before the loss is computed (DAPO)."
        },
    )
    max_resampling: int | None = dataclasses.field(
        default=None,
        metadata={"help": "How many times a rollout may replace groups, with dynamic_sampling: true; by default 3."},
    )

    skip_solved: int | None = dataclasses.field(
        default=None,
        metadata={
            "help": "Leave a prompt out of the next epoch if it was solved in each of its last k visits, where k is this number: "
            "all of its completions earned the highest total reward so far. Other prompts take its place."
        },
    )

    def __post_init__(self):
        if not isinstance(self.shared_prefix, bool) and self.shared_prefix != "auto":
            raise ValueError(f"shared_prefix: {self.shared_prefix!r} should be 'auto', True or False")
        if self.dynamic_sampling not in (True, False):
            raise ValueError(f"dynamic_sampling: {self.dynamic_sampling!r} should be True or False")
        if self.max_resampling is not None and not self.dynamic_sampling:
            raise ValueError(f"max_resampling: {self.max_resampling} has no effect without dynamic_sampling: true")
        for name in ("max_resampling", "skip_solved"):
            value = getattr(self, name)
            if value is not None and type(value) is not int:
                raise ValueError(f"{name}: {value!r} should be a whole number")
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value} should be at least 1")
        super().__post_init__()
        if not self.dynamic_sampling:
            return
        self.max_resampling = self.max_resampling or MAX_RESAMPLING
        rows = self.generation_batch_size // self.world_size
        if rows % self.num_generations:
            raise ValueError(
                f"dynamic_sampling: true needs whole groups in each of the {self.world_size} processes, which generates {rows} "
                f"completions (per_device_train_batch_size × steps_per_generation); expected a multiple of num_generations, "
                f"{self.num_generations}"
            )


def length_correlations(rewards: torch.Tensor, lengths: torch.Tensor, num_generations: int) -> list[float]:
    """Return the correlation of every reward with the length of a completion, within groups: from -1 to 1.

    It is nan where a reward or the length does not vary within any group.

    Args:
        rewards: shape (groups × num_generations, reward functions); nan where a reward does not apply.
        lengths: shape (groups × num_generations,), in tokens.
    """
    grouped = rewards.double().view(-1, num_generations, rewards.shape[1])
    applies = ~grouped.isnan()
    lengths = torch.where(applies, lengths.double().view(-1, num_generations, 1), torch.nan)
    x, y = ((each - each.nanmean(dim=1, keepdim=True)).nan_to_num(0.0) for each in (grouped, lengths))
    spreads = (x.square().sum((0, 1)) * y.square().sum((0, 1))).sqrt()
    return torch.where(spreads > 1e-9, (x * y).sum((0, 1)) / spreads, torch.nan).tolist()


def token_pairs(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the pairs of neighbouring tokens as one number each, shape (pairs,).

    Args:
        ids: shape (rows, length).
        mask: the same shape, 1 where a token counts.
    """
    both = (mask[:, :-1] * mask[:, 1:]).bool()
    return (ids[:, :-1] * 2**32 + ids[:, 1:])[both]


def without_watched(rewards: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the rewards, nan in completions to which only rewards of weight 0 apply.

    TRL leaves a completion out of its group if no reward applies to it. Rewards of weight 0 are only logged. Without this function,
    such a completion would count as one that has earned 0, which would change the advantages of its group.

    Args:
        rewards, weights: as for `dynamic_sampling.has_spread`.
    """
    counts = (weights != 0).to(rewards.device)
    if counts.all() or not counts.any():  # a schedule may start at 0 for all
        return rewards
    return rewards.masked_fill(rewards[:, counts].isnan().all(dim=1, keepdim=True), torch.nan)


def check_reward_weights(weights: list, reward_funcs, args: GRPOConfig | None):
    """Raise UserError unless the trainer's argument `reward_weights` has one entry per reward and is alone.

    Args:
        reward_funcs, args: as the trainer takes them.
    """
    if args is not None and args.reward_weights is not None:
        raise UserError(
            f"reward_weights: {weights} is given to the trainer and {args.reward_weights} in args.reward_weights; expected "
            "one of the two"
        )
    for weight in weights:
        if not isinstance(weight, int | float | WeightSchedule):
            raise UserError(f"reward_weights: {weight!r} in {weights} is neither a number nor a WeightSchedule")
    rewards = reward_funcs if isinstance(reward_funcs, list) else [] if reward_funcs is None else [reward_funcs]
    if len(weights) != len(rewards):
        raise UserError(
            f"reward_weights: {weights} has {len(weights)} entries; expected {len(rewards)}, one per reward function"
        )


def declared_weights(reward_funcs) -> list | None:
    """Return the weights of the `Reward`s, 1 for other functions; None where all are 1."""
    rewards = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    weights = [reward.weight if isinstance(reward, Reward) else 1.0 for reward in rewards]
    return weights if any(weight != 1.0 for weight in weights) else None


def only_labels() -> AbstractContextManager:
    """Inside the block, TRL's fused LM head projects only positions with a label, without a GPU as well.

    TRL does so where Triton runs, and projects all positions elsewhere, to spare compilers a new shape per batch. On a CPU nothing is
    compiled, and with a long prompt the prompt's projection may be half of the whole step.
    """
    return patch.object(trl.trainer.utils, "_use_triton", lambda device: True)


class OnCpuMixin:
    """Mixin for trainers of TRL: without a GPU, the LM head makes fewer logits, and both it and adapters make fewer copies.

    TRL's head makes the logits of 4096 tokens and 32,768 words at a time. Triton computes with them in place; without it, PyTorch
    makes about eight copies, of 537 MB each.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.accelerator.device.type == "cpu":
            fuse_adapters(self.model)
            contiguous_head(self.accelerator.unwrap_model(self.model))

    def training_step(self, *args, **kwargs):
        words = self.accelerator.unwrap_model(self.model).config.get_text_config().vocab_size
        if self.accelerator.device.type != "cpu" or words <= TILE_WIDTH:
            return super().training_step(*args, **kwargs)
        with (
            patch.object(chunked_logprob, "TOKEN_CHUNK_SIZE", TILE_ROWS),
            patch.object(trl.trainer.utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", TILE_WIDTH),
            only_labels(),
        ):
            return super().training_step(*args, **kwargs)


class EmpathyGRPOTrainer(
    DynamicSamplingMixin,
    SharedPrefixMixin,
    ExactResumeMixin,
    EpochOrderMixin,
    FiniteUpdatesMixin,
    WholeRunMixin,
    OnCpuMixin,
    GRPOTrainer,
):
    """`trl.GRPOTrainer` with shared prompts, scheduled weights, an exact resume, and a stop on a non-finite loss.

    Args:
        reward_weights: one entry per reward function, a number or a `WeightSchedule` (see `empathy_trl.rewards.base`).
            Without it, `GRPOConfig.reward_weights` applies, as in TRL; without both, the `weight` of each `Reward` (1
            for other functions). The rewards of environments, which TRL adds itself, keep the weight that TRL gives
            them.
        **kwargs: everything `trl.GRPOTrainer` takes; `args` may be an `EmpathyGRPOConfig`. A chat template that refuses a
            system message is extended (`models.templates.guard_template`), and GPT-2 counts positions from the mask
            (`count_positions_from_mask`). The `tags` of a `Reward` are checked against the tokenizer's special tokens. A
            `Reward` that `needs_policy` gets a `PolicyScorer`.

    Raises:
        UserError: weights are given here and in `args`, or not one per reward function; a reward needs a tag that the
            tokenizer drops when it decodes; or FSDP's memory-saving loading would leave the reference model empty.
        NonFiniteLoss: from `train()`.
        StopTraining: from `train()`, when a reward raises it or returns something other than one finite number or None
            per completion, or when no reward applies to any completion of three rollouts in a row, or
            `mask_truncated_completions` masks all completions of three rollouts in a row; a checkpoint of all complete
            steps is saved.
    """

    _kl_setting = "beta"
    _causes = GRPO_CAUSES

    def __init__(self, model, reward_funcs=None, args=None, *others, reward_weights: list | None = None, **kwargs):
        if isinstance(reward_funcs, dict):
            raise UserError("reward_funcs: a mapping; expected a list, such as load_rewards makes of this mapping")
        if reward_weights is not None:
            check_reward_weights(reward_weights, reward_funcs, args)
        elif args is None or args.reward_weights is None:
            reward_weights = declared_weights(reward_funcs)
        if getattr(args, "skip_solved", None) and any(
            isinstance(each, WeightSchedule) for each in reward_weights or ()
        ):
            raise UserError(
                f"trainer.skip_solved: {args.skip_solved} compares the total rewards of the whole run, so a weight must not follow "
                "a schedule; expected numbers as weights, or no skip_solved"
            )
        super().__init__(model, reward_funcs, args, *others, **kwargs)
        if self.ref_model is not None and is_fsdp_enabled():  # with the memory-saving loading
            raise UserError(
                f"{self._kl_setting}: {self.beta:g} needs a reference model, which TRL would fill with zeros in all processes but the "
                "first; expected fsdp_cpu_ram_efficient_loading: false in the accelerate config, an adapter (model.lora), which "
                f"needs no second model, or {self._kl_setting}: 0"
            )
        for each in (self.model, self.ref_model):
            if each is not None:
                count_positions_from_mask(each)
        check_vocabulary(self._scoring_model(), self._tokenizer, self._scoring_model().name_or_path or "the model")
        self.weight_schedules = reward_weights
        if self._tokenizer.chat_template is not None:
            guard_template(self._tokenizer)
        self.advice = TrainingAdvice(self, self._causes)
        self.add_callback(self.advice)
        self._without_signal = Counter()  # problem -> rollouts in a row that had it
        for name, reward in zip(self.reward_func_names, self.reward_funcs, strict=True):
            if not isinstance(reward, Reward):
                continue
            check_tags({name: reward.tags}, self._tokenizer, optional=reward.reply_tags is not None)
            if reward.needs_policy:
                reward.policy = PolicyScorer(
                    self._scoring_model, self._tokenizer, self.args.per_device_train_batch_size
                )

    def _opens_thoughts(self) -> bool:
        """Return whether completions may begin inside a thought that TRL does not parse itself."""
        parses = any(getattr(self._tokenizer, name, None) for name in ("response_template", "response_schema"))
        template = str(self._tokenizer.chat_template)
        return any(mark in template for mark in THOUGHTS) and not parses

    def _behind_thought(self, prompt: str | list[dict], completion: str | list[dict]) -> str | list[dict]:
        """Return a completion with `<think>` in front if the chat template ends its prompt with this tag."""
        if isinstance(prompt, str) or isinstance(completion, str):  # no template writes these
            return completion
        settings = {"add_generation_prompt": True, "tokenize": False, **self.chat_template_kwargs}
        thought = opened_thought(render(self._tokenizer, prompt, **settings))
        first, *others = completion
        return [first | {"content": thought + content_text(first["content"])}, *others]

    def _log_thoughts(self, completions: list, completion_ids: list[list[int]]):
        """Log the mean lengths of thoughts and replies in tokens, which add up to TRL's `completions/mean_length`.

        A rollout in which no completion has a thought logs nothing.
        """
        texts = [completion_text(completion, thoughts=True) for completion in completions]
        thoughts = [thought_tokens(self._tokenizer, *each) for each in zip(completion_ids, texts, strict=True)]
        lengths = [(thought, len(ids) - thought) for thought, ids in zip(thoughts, completion_ids, strict=True)]
        thought, reply = self.accelerator.gather(torch.tensor(lengths, device=self.accelerator.device)).T.float()
        if thought.any():
            self._metrics[self._mode]["completions/mean_thought_length"].append(thought.mean().item())
            self._metrics[self._mode]["completions/mean_reply_length"].append(reply.mean().item())

    @property
    def _mode(self) -> str:
        """Under which name TRL keeps the metrics of what is done now."""
        return "train" if self.model.training else "eval"

    def _scoring_model(self):
        return self.accelerator.unwrap_model(self.model)

    def _generate_and_score_completions(self, inputs):
        if self.weight_schedules is not None:
            self._set_weights(self.weight_schedules, self.state.global_step / max(1, self.state.max_steps))
        output = super()._generate_and_score_completions(inputs)
        pairs = token_pairs(output["completion_ids"], output["completion_mask"] * output.get("tool_mask", 1))
        pairs = self.accelerator.gather(self.accelerator.pad_across_processes(pairs, pad_index=-1))
        pairs = pairs[pairs >= 0]
        if len(pairs):
            self._metrics[self._mode]["distinct_2"].append(len(pairs.unique()) / len(pairs))
        return output

    def _set_weights(self, schedules: list, progress: float):
        """Give the first rewards their weights at `progress`; those of environments come after them and keep theirs."""
        for index, schedule in enumerate(schedules):
            self.reward_weights[index] = weight = weight_at(schedule, progress)
            if not isinstance(schedule, (int, float)):
                self._metrics[self._mode][f"reward_weight/{self.reward_func_names[index]}"].append(weight)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        if self._opens_thoughts():
            completions = list(map(self._behind_thought, prompts, completions))
        self._log_thoughts(completions, completion_ids_list)
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        rewards = without_watched(rewards, self.reward_weights)
        mode = self._mode
        groups = self.num_generations if mode == "train" else self.num_generations_eval
        spread = has_spread(rewards, self.reward_weights, groups, self.multi_objective_aggregation)
        self._metrics[mode]["zero_spread_share"].append((~spread).float().mean().item())
        lengths = torch.tensor([len(ids) for ids in completion_ids_list], device=rewards.device)
        lengths = self.accelerator.gather(lengths)
        for name, value in zip(self.reward_func_names, length_correlations(rewards, lengths, groups), strict=True):
            self._metrics[mode][f"rewards/{name}/length_correlation"].append(value)
        if mode == "train" and not self._resampling:
            applies = ~rewards.isnan().all(dim=0)
            self._stop_without_signal(
                f"no reward ({', '.join(self.reward_func_names)}) applies to any of the {len(rewards)} completions; each "
                "returned None, or has weight 0. Check the columns that they read, and try them with `empathy-trl explain`",
                not applies.any(),
            )
            for name, each in zip(self.reward_func_names, applies.tolist(), strict=True):
                problem = f"rewards.{name} does not apply to any of the {len(rewards)} completions"
                self._stop_without_signal(problem, not each and bool(applies.any()), stop=False)
            self._stop_without_signal(
                f"all {len(rewards)} completions (100 %) are cut off at trainer.max_completion_length "
                f"({self.max_completion_length} tokens), and trainer.mask_truncated_completions leaves such completions out "
                "of the loss, so nothing is learned. Raise the former or set the latter to false",
                self.mask_truncated_completions and self._metrics[mode]["completions/clipped_ratio"][-1] == 1,
            )
        return rewards

    def _stop_without_signal(self, problem: str, occurs: bool, stop: bool = True):
        """Warn if nothing can be learned from a rollout, and stop at the third such rollout in a row.

        Args:
            problem: what is wrong and what to check, the same text in every rollout.
            occurs: whether this rollout has the problem, the same in all processes.
            stop: if False, the third rollout only causes a warning.
        """
        self._without_signal[problem] = count = self._without_signal[problem] + 1 if occurs else 0
        if count > 1:
            problem = f"{count} rollouts in a row: {problem}"
        if count == LIMIT_WITHOUT_SIGNAL and stop:
            self._stop_with_checkpoint(StopTraining(f"{problem}."))
        if count == (1 if stop else LIMIT_WITHOUT_SIGNAL):
            logger.warning("step %d: %s.", self.state.global_step + 1, problem)

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        with only_labels():
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    def _rollout_state(self) -> dict:
        return super()._rollout_state() | {"shares": self._shares}  # what has switched itself off stays off

    def _load_rollout_state(self, rollout: dict):
        super()._load_rollout_state(rollout)
        self._shares.update(rollout["shares"])
