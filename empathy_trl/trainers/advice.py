"""Advice during GRPO and PPO: what a strange curve means, and which key to change.

`TrainingAdvice` reads every logged row. A cause is a function that takes a `History` and returns a message, or None where
the figures do not show it. Each threshold stands above the function that uses it. Healthy runs of this project's recipes reach no
threshold but that of `zero_spread`, once most prompts are solved. `docs/curves.md` has a picture of every cause. To add one, write a
function and add it to `COMMON`, `GRPO_CAUSES` or `PPO_CAUSES`.
"""

import logging
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, variance

from tqdm.auto import tqdm
from transformers import TrainerCallback

from empathy_trl.rewards.base import Reward

logger = logging.getLogger(__name__)

# A window has at least ROWS logged rows, which cover at least STEPS optimizer steps. A single row is too noisy to judge by.
ROWS, STEPS = 5, 10
LENGTH, ENDED, LIMIT = "completions/mean_length", "completions/mean_terminated_length", "trainer.max_completion_length"
# rewards that bound a length, so that its change is what the author asked for
BOUND_LENGTH = ("length", "reasoning_length", "response", "reflection")


@dataclass
class History:
    """The first and the last rows of a training, and its settings: the argument of every cause.

    Attributes:
        args: config of the trainer.
        rewards: name -> the trainer's reward function.
        weights: name -> its weight now.
        first, last: logged rows, a window each; figures that are None or not finite are left out.
        apart: whether the two windows have no row in common, so that they can be compared.
        held_out: rows of the held-out evaluations so far.
        figure: name of the held-out figure in these rows, None without one.
        more_is_better: whether a higher held-out figure is better.
        given: names of the causes that were found before.
    """

    args: object
    rewards: dict[str, Callable]
    weights: dict[str, float]
    first: list[dict]
    last: list[dict]
    apart: bool
    held_out: list[dict]
    figure: str | None
    more_is_better: bool
    given: set[str]

    def before(self, name: str) -> float:
        """Return the mean of a figure over the first window, nan where it was not logged."""
        return _mean(self.first, name)

    def now(self, name: str) -> float:
        """Return the mean of a figure over the last window, nan where it was not logged."""
        return _mean(self.last, name)

    def has_risen(self, name: str = "reward") -> bool:
        """Return whether a figure rose by more than two standard errors from the first window to the last."""
        first, last = ([row[name] for row in rows if name in row] for rows in (self.first, self.last))
        if not self.apart or min(len(first), len(last)) < 2:
            return False
        error = math.sqrt(variance(first) / len(first) + variance(last) / len(last))
        return fmean(last) - fmean(first) > max(2 * error, 1e-6)

    def gains(self) -> dict[str, float]:
        """Return name -> how much the weighted mean of a reward grew from the first window to the last, if it grew."""
        gains = {
            name: weight * (self.now(f"rewards/{name}/mean") - self.before(f"rewards/{name}/mean"))
            for name, weight in self.weights.items()
        }
        return {name: gain for name, gain in gains.items() if gain > 0}

    def best_paid(self) -> str | None:
        """Return the name of the reward whose weighted mean grew most, None if no reward grew."""
        gains = self.gains()
        return max(gains, key=gains.get, default=None)

    def paid_for_length(self, sign: int) -> str | None:
        """Return the name of a reward that grew and that pays more for a longer completion of a group (`sign` 1) or a shorter one (-1)."""
        paid = {
            name: sign * math.copysign(1, self.weights[name]) * self.now(f"rewards/{name}/length_correlation")
            for name in self.gains()
        }
        return max((name for name in paid if paid[name] >= CORRELATED), key=paid.get, default=None)

    def change(self, name: str) -> str:
        """Return how the mean of a reward changed, in words."""
        before, now = self.before(f"rewards/{name}/mean"), self.now(f"rewards/{name}/mean")
        return f"rewards.{name} {'rose' if now > before else 'fell'} from {before:.3g} to {now:.3g}"

    def pair_with(self, *names: str) -> str:
        """Return the advice to add rewards of these names, or to raise their weights if the recipe has them."""
        new = [name for name in names if name not in self.weights]
        known = [f"rewards.{name}.weight (now {self.weights[name]:g})" for name in names if name in self.weights]
        return " or ".join(
            [f"pair it with {' and '.join(new)}"] * bool(new) + [f"raise {' and '.join(known)}"] * bool(known)
        )

    @property
    def kl_weight(self) -> str:
        """The key of the KL's weight with its value."""
        key = "kl_coef" if hasattr(self.args, "kl_coef") else "beta"
        return f"trainer.{key} (now {getattr(self.args, key):g})"

    @property
    def span(self) -> str:
        """The steps of the last window, in words."""
        return f"in the last {len(self.last)} logged rows"


def _mean(rows: list[dict], name: str) -> float:
    values = [row[name] for row in rows if name in row]
    return fmean(values) if values else math.nan


# above: more than half of the completions are judged without their end
CLIPPED = 0.5


def clipped(run: History) -> str | None:
    """Most completions are cut off, and no reward that pays for length explains it."""
    figure = "completions/clipped_ratio"
    share = run.now(figure)
    if not share > CLIPPED or run.given & {"longer"} or longer(run):
        return None
    if not run.apart and not run.before(figure) > CLIPPED:  # it is growing: wait until `longer` can be told apart
        return None
    limit = f"{LIMIT} (now {run.args.max_completion_length})"
    if share > 0.99:
        return (
            f"all completions {run.span} are cut off at {limit}. If samples.md shows complete answers that are followed by "
            "more text, the model has not learned to stop: train it first on completions with an end token (task sft, with "
            "a chat template that writes this token). Otherwise raise the limit"
        )
    return (
        f"{share:.0%} of the completions {run.span} are cut off at {limit}, so the rewards judge fragments. Raise it, or "
        "ask for shorter answers (the reward length, the prompt)"
    )


# below: 0 but for rounding
NOTHING = 1e-6


def nothing_earned(run: History) -> str | None:
    """A reward that counts has paid its minimum to every completion, at first and now."""
    rows, counting = run.first + run.last, [name for name, weight in run.weights.items() if weight > 0]

    def is_idle(name: str) -> bool:
        lowest = run.rewards[name].range[0] if isinstance(run.rewards[name], Reward) else -math.inf
        mean, std = f"rewards/{name}/mean", f"rewards/{name}/std"
        return all(row.get(mean, math.inf) - lowest < NOTHING and row.get(std, math.inf) < NOTHING for row in rows)

    idle = [name for name in counting if is_idle(name)]
    if not idle and all(row.get("reward_std", math.inf) < NOTHING and abs(row["reward"]) < NOTHING for row in rows):
        idle = counting  # functions, whose minimum is not known
    if not idle:
        return None
    return (
        f"{', '.join(f'rewards.{name}' for name in idle)} gave every completion {run.span} the lowest value, so the policy learns "
        "nothing from this. Show it what earns more (a warm start: a stage with task sft before this one), or make the task easier (a "
        "reward that pays for a part, such as format with partial: true; easier prompts). samples.md shows what it writes"
    )


# above: most of the computing is spent on groups that teach nothing
AGREEING = 0.6


def zero_spread(run: History) -> str | None:
    """In most groups, all completions earn the same, after `dynamic_sampling` has replaced what it could."""
    args = run.args
    share, more = run.now("zero_spread_share"), "set trainer.dynamic_sampling: true"
    if getattr(args, "dynamic_sampling", False):
        share = 1 - run.now("groups_kept") * args.num_generations / args.generation_batch_size
        more = f"raise trainer.max_resampling (now {args.max_resampling})"
    skip = "" if getattr(args, "skip_solved", None) else " or set trainer.skip_solved"
    if (
        not share > AGREEING or nothing_earned(run) or run.given & {"kl_runs_away", "entropy_collapses"}
    ):  # which explain it
        return None
    return (
        f"in {share:.0%} of the groups {run.span}, all completions earn the same, so these groups teach nothing. Raise "
        f"trainer.temperature (now {args.temperature:g}) or trainer.num_generations (now {args.num_generations}), or {more}. If "
        f"most prompts are solved, take harder ones{skip}"
    )


# above: completions are this many times as long as at first, and longer than this share of the limit (short answers may have to grow)
GROWN, NEAR_LIMIT = 1.5, 0.5
# at least: correlation of a reward with the length of completions to the same prompt; that of a reward for length is above 0.9
CORRELATED = 0.5


def longer(run: History) -> str | None:
    """The reward rises while completions grow, and one reward pays more for the longer of two completions."""
    before, now = run.before(LENGTH), run.now(LENGTH)
    limit, name = run.args.max_completion_length, run.paid_for_length(1)
    if not run.has_risen() or name is None or name in BOUND_LENGTH or not now > GROWN * before:
        return None
    if limit and now < NEAR_LIMIT * limit:
        return None
    return (
        f"the reward rises with the length of the completions (from {before:.0f} to {now:.0f} tokens; {LIMIT} is {limit}): "
        f"{run.change(name)}, and the longer completion of a group earns more of it (correlation "
        f"{run.now(f'rewards/{name}/length_correlation'):.2f}). It is probably being hacked: read samples.md, "
        f"{run.pair_with('length', 'repetition_penalty')}, or lower rewards.{name}.weight (now {run.weights[name]:g})"
    )


# below this share of the initial value, a length or variety has collapsed
COLLAPSE = 0.5


def shorter(run: History) -> str | None:
    """The reward rises while completions that end by themselves shrink to less than half."""
    before, now, name = run.before(ENDED), run.now(ENDED), run.paid_for_length(-1) or run.best_paid()
    if not run.has_risen() or name is None or not 0 < now < COLLAPSE * before or run.weights.keys() & {*BOUND_LENGTH}:
        return None
    return (
        f"the reward rises while the completions shrink (from {before:.0f} to {now:.0f} tokens): {run.change(name)}. It is "
        f"probably being hacked: read samples.md, {run.pair_with('length')}"
    )


def less_varied(run: History) -> str | None:
    """The reward rises while distinct-2 falls to less than half."""
    before, now, name = run.before("distinct_2"), run.now("distinct_2"), run.best_paid()
    if not run.has_risen() or name is None or not now < COLLAPSE * before:
        return None
    return (
        f"the reward rises while the completions repeat themselves (distinct-2 fell from {before:.3g} to {now:.3g}): "
        f"{run.change(name)}. It is probably being hacked: read samples.md, {run.pair_with('repetition_penalty', 'distinct')}, "
        f"or raise {run.kl_weight}"
    )


def held_out_falls(run: History) -> str | None:
    """The reward rises while the held-out figure is worse than the interval of its best value, twice in a row."""
    rows, name = [row for row in run.held_out if run.figure in row], run.best_paid()
    if not run.has_risen() or name is None or len(rows) < 3:
        return None
    sign, bound = (1, f"{run.figure}_low") if run.more_is_better else (-1, f"{run.figure}_high")
    best = max(rows[:-2], key=lambda row: sign * row[run.figure])
    if not all(bound in best and sign * (row[run.figure] - best[bound]) < 0 for row in rows[-2:]):
        return None
    title = run.figure.removeprefix("eval_").replace("_", " ")
    return (
        f"the reward rises while the held-out {title} gets worse (from {best[run.figure]:.3g} at step {best['step']} to "
        f"{rows[-1][run.figure]:.3g}, beyond its 95 % interval): {run.change(name)}, which the evaluation does not reward. Take the best "
        f"checkpoint (evaluation.best: {run.figure.removeprefix('eval_')}), lower rewards.{name}.weight (now "
        f"{run.weights[name]:g}), or raise {run.kl_weight}"
    )


# above: nats per token, the policy's own tokens are e^3 = 20 times as likely as under the reference
KL_LIMIT = 3.0


def kl_runs_away(run: History) -> str | None:
    """The policy is far from its reference and moves further away."""
    kl = run.now("kl")
    if not kl > KL_LIMIT or (run.apart and kl <= run.before("kl")):
        return None
    return (
        f"the policy is far from its reference (KL {kl:.3g} nats per token {run.span}): read samples.md before trusting the reward. "
        f"Raise {run.kl_weight} or lower trainer.learning_rate (now {run.args.learning_rate:g})"
    )


# below this share of the initial entropy, sampling hardly finds anything new
ENTROPY_COLLAPSE = 0.1


def entropy_collapses(run: History) -> str | None:
    """The policy is nearly certain of every token."""
    before, now = run.before("entropy"), run.now("entropy")
    if not run.apart or not now < ENTROPY_COLLAPSE * before:
        return None
    return (
        f"the entropy has collapsed (from {before:.2g} to {now:.2g} nats per token): completions to one prompt are nearly the "
        f"same, and little is left to compare. Raise trainer.temperature (now {run.args.temperature:g}) or {run.kl_weight}, "
        f"set trainer.entropy_coef (now {run.args.entropy_coef:g}), or lower trainer.learning_rate (now "
        f"{run.args.learning_rate:g})"
    )


# below: the values predict the returns clearly worse than their mean would; a little below 0 is noise
UNEXPLAINED = -0.2


def critic_explains_nothing(run: History) -> str | None:
    """The critic's values are worse than a constant, in every row of the window."""
    values = [row["explained_variance"] for row in run.last if "explained_variance" in row]
    if len(values) < len(run.last) or max(values) >= 0 or fmean(values) >= UNEXPLAINED:
        return None
    args = run.args
    return (
        f"the critic explains nothing (explained variance {fmean(values):.2f} {run.span}): its values make the advantages worse "
        f"than a constant would. Lower trainer.critic_learning_rate (now {args.critic_learning_rate:g}) if value_loss grows; "
        f"otherwise raise it, or trainer.critic_warmup_steps (now {args.critic_warmup_steps})"
    )


COMMON = {
    "nothing_earned": nothing_earned,
    "longer": longer,
    "shorter": shorter,
    "clipped": clipped,
    "less_varied": less_varied,
    "held_out_falls": held_out_falls,
    "kl_runs_away": kl_runs_away,
    "entropy_collapses": entropy_collapses,
}
GRPO_CAUSES = {**COMMON, "zero_spread": zero_spread}
# not `zero_spread`: a critic also learns from groups whose completions all earn the same
PPO_CAUSES = {**COMMON, "critic_explains_nothing": critic_explains_nothing}


def first_step(args, row: dict) -> list[str]:
    """Return notes about figures of the first step that look wrong and are not."""
    notes = []
    if row.get("learning_rate") == 0 and args.warmup_steps:
        notes.append(
            f"a learning rate of 0 is normal: with trainer.warmup_steps ({args.warmup_steps:g}), it rises from 0"
        )
    if abs(row.get("loss", 1.0)) < NOTHING and not hasattr(args, "kl_coef"):
        notes.append("a loss of 0 is normal in GRPO: the advantages of a group add up to 0. Look at the reward instead")
    return notes


class TrainingAdvice(TrainerCallback):
    """Logs a warning with advice, once per cause, and keeps it in `given`.

    A resume first reads the rows before its checkpoint, so it knows what was found before and does not repeat it.

    Args:
        trainer: the GRPO or PPO trainer.
        causes: name -> function from `History` to a message or None.

    Attributes:
        given: `{"step", "cause", "message"}` for every cause found so far, as `run.json` has it.
        figure, more_is_better: name of the held-out figure in the logged rows (`eval_accuracy`), if there is one, and whether
            a higher value is better.
        save: called with `given` when it changes.
    """

    def __init__(self, trainer, causes: dict[str, Callable[[History], str | None]]):
        self.trainer, self.causes = trainer, causes
        self.figure: str | None = None
        self.more_is_better = True
        self.save: Callable[[list[dict]], object] = lambda given: None
        self.given, self._rows, self._held_out = [], [], []

    def on_train_begin(self, args, state, control, **kwargs):
        self.given, self._rows, self._held_out = [], [], []
        if state.is_world_process_zero:
            for row in state.log_history:
                self._read(row, args, state)
            self.save(self.given)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero:
            return
        if state.global_step == 1:
            for note in first_step(args, logs or {}):
                tqdm.write(f"step 1: {note}", file=sys.stderr)  # a note, not a warning; loggers show warnings only
        if new := self._read({"step": state.global_step} | (logs or {}), args, state):
            for advice in new:
                logger.warning("step %d: %s", advice["step"], advice["message"])
            self.save(self.given)

    def _read(self, row: dict, args, state) -> list[dict]:
        """Take in a logged row; return the advice that is new."""
        row = {name: value for name, value in row.items() if isinstance(value, (int, float)) and math.isfinite(value)}
        self._held_out += [row] * (self.figure in row)
        if "reward" in row:
            self._rows.append(row)
        if row["step"] <= getattr(args, "critic_warmup_steps", 0):
            row.pop("explained_variance", None)
        size = max(ROWS, math.ceil(STEPS / max(1, state.logging_steps)))
        del self._rows[size:-size]
        if len(self._rows) < size:
            return []
        found = {advice["cause"] for advice in self.given}
        run = History(
            args=args, rewards=dict(zip(self.trainer.reward_func_names, self.trainer.reward_funcs, strict=True)),
            weights=self._weights(), first=self._rows[:size], last=self._rows[-size:], apart=len(self._rows) >= 2 * size,
            held_out=self._held_out, figure=self.figure, more_is_better=self.more_is_better, given=found,
        )  # fmt: skip
        messages = {name: cause(run) for name, cause in self.causes.items() if name not in found}
        new = [{"step": int(row["step"]), "cause": name, "message": text} for name, text in messages.items() if text]
        self.given += new
        return new

    def _weights(self) -> dict[str, float]:
        """Return name -> weight of the rewards; a scheduled weight is that of the last row."""
        weights = dict(zip(self.trainer.reward_func_names, self.trainer.reward_weights.tolist(), strict=True))
        return {name: self._rows[-1].get(f"reward_weight/{name}", weight) for name, weight in weights.items()}
