"""Warnings while PPO runs, with what to do: a critic that knows nothing, a policy that runs away, a reward that is hacked."""

import logging
from statistics import fmean

from transformers import TrainerCallback

logger = logging.getLogger(__name__)

WINDOW = 10  # logged rows that are looked at together
KL_LIMIT = 1.0  # nats per token: the policy's own tokens are e times as likely as under the reference
COLLAPSE = 0.5  # a length or a variety below this share of what it was at first


class PPOAdvice(TrainerCallback):
    """Logs a warning, once for each of three troubles, when it shows in the last ten logged rows.

    * the explained variance stays under 0 after the critic's warm-up;
    * the KL to the reference is above one nat per token;
    * the reward is above that of the first ten rows while the length or distinct-2 is below half of what it was.
    """

    def __init__(self):
        self.rows, self.said = [], set()  # the first and the last ones

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or "reward" not in (logs or {}):
            return
        row = {name: value for name, value in logs.items() if value is not None}  # TRL's word for: nothing was measured
        if state.global_step <= args.critic_warmup_steps:
            row.pop("explained_variance", None)
        self.rows.append(row)
        del self.rows[WINDOW:-WINDOW]
        if len(self.rows) < WINDOW:
            return
        last = self.rows[-WINDOW:]
        self._critic(last, args)
        self._kl(last, args)
        if len(self.rows) >= 2 * WINDOW:
            self._hacking(self.rows[:WINDOW], last)

    def _critic(self, last, args):
        values = [row["explained_variance"] for row in last if "explained_variance" in row]
        if len(values) == WINDOW and max(values) < 0:
            self._say(
                "critic",
                f"the critic explains nothing (explained variance {fmean(values):.2f} over {WINDOW} logged rows): its values "
                "make the advantages worse than a constant would. Raise trainer.critic_learning_rate (now "
                f"{args.critic_learning_rate:g}) or trainer.critic_warmup_steps (now {args.critic_warmup_steps}), or lower it "
                "if value_loss grows",
            )

    def _kl(self, last, args):
        kl = fmean(row.get("kl", 0.0) for row in last)
        if kl > KL_LIMIT:
            self._say(
                "kl",
                f"the policy runs away from its reference (KL {kl:.2f} nats per token): read samples.md before trusting the "
                f"reward. Raise trainer.kl_coef (now {args.kl_coef:g}) or lower trainer.learning_rate (now "
                f"{args.learning_rate:g})",
            )

    def _hacking(self, first, last):
        def mean(rows, name):
            return fmean(row[name] for row in rows if name in row) if any(name in row for row in rows) else 0.0

        if mean(last, "reward") <= mean(first, "reward"):
            return
        for name, words in (("completions/mean_length", "length of completions"), ("distinct_2", "distinct-2")):
            before, now = mean(first, name), mean(last, name)
            if now < COLLAPSE * before:
                self._say(
                    name,
                    f"the reward rises while the {words} collapses (from {before:.3g} to {now:.3g}): it is probably being "
                    "hacked. Read samples.md, and add a reward that this costs (length, distinct, repetition_penalty) or raise "
                    "trainer.kl_coef",
                )

    def _say(self, trouble: str, message: str):
        if trouble not in self.said:
            self.said.add(trouble)
            logger.warning("%s", message)
