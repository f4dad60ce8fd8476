"""A PPO update from first principles, with two separate models, every prompt repeated and nothing shared.

It follows Schulman et al. 2017 and Ziegler et al. 2019 step by step, as a hand-written script would: sample, score,
subtract the KL per token, estimate advantages, then take one gradient step for the policy and one for the critic, which
is a separate model. `ppo_update.py` compares it with `EmpathyPPOTrainer`.
"""

import copy

import torch
from shapes import Shape, token_reward

GAMMA, LAM, VF_COEF, KL_COEF, CLIP, VALUE_CLIP, LEARNING_RATE = 1.0, 0.95, 0.1, 0.05, 0.2, 0.2, 1e-5


class PlainPPO:
    """Policy, reference and critic, and their optimizers.

    Args:
        model: a causal language model with random weights.
        shape: gives the lengths and the group.
        rows: chat prompts, one list of messages each.
        tokenizer: pads on the left.
    """

    def __init__(self, model, shape: Shape, rows: list, tokenizer):
        self.policy, self.reference = model, copy.deepcopy(model).requires_grad_(False)
        self.trunk = copy.deepcopy(model.model)
        self.head = torch.nn.Linear(model.config.hidden_size, 1, device=model.device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        self.shape, self.rows, self.tokenizer, self.done = shape, rows, tokenizer, 0
        self.optimizers = [
            torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)  # as transformers does
            for parameters in (self.policy.parameters(), [*self.trunk.parameters(), *self.head.parameters()])
        ]

    def update(self) -> dict[str, float]:
        """Take one update on the next prompts; returns its figures."""
        ids, prompt = self.rollout()
        completions = ids[:, prompt:]
        with torch.no_grad():
            old, reference = self.log_probs(self.policy, ids, prompt), self.log_probs(self.reference, ids, prompt)
            old_values = self.values(ids, prompt)
        rewards = -KL_COEF * (old - reference)
        rewards[:, -1] += torch.tensor(token_reward(completions.tolist()), device=ids.device)
        advantages = self.advantages(rewards, old_values)
        returns = advantages + old_values
        white = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)

        ratio = (self.log_probs(self.policy, ids, prompt) - old).exp()
        policy_loss = -torch.minimum(ratio * white, ratio.clamp(1 - CLIP, 1 + CLIP) * white).mean()
        values = self.values(ids, prompt)
        near = old_values + (values - old_values).clamp(-VALUE_CLIP, VALUE_CLIP)
        value_loss = 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2).mean()
        (policy_loss + VF_COEF * value_loss).backward()
        for optimizer in self.optimizers:
            torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return {"value_loss": value_loss.item(), "return": returns.mean().item()}

    @torch.no_grad()
    def rollout(self) -> tuple[torch.Tensor, int]:
        """Return prompts with sampled completions, all of full length, and the length of a prompt."""
        start = self.done * self.shape.groups % len(self.rows)
        self.done += 1
        prompts = self.rows[start : start + self.shape.groups]
        encoded = self.tokenizer.apply_chat_template(
            [prompt for prompt in prompts for _ in range(self.shape.group)],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        ).to(self.policy.device)
        length = self.shape.completion
        ids = self.policy.generate(**encoded, do_sample=True, top_k=0, max_new_tokens=length, min_new_tokens=length)
        return ids, encoded["input_ids"].shape[1]

    @staticmethod
    def log_probs(model, ids: torch.Tensor, prompt: int) -> torch.Tensor:
        """Return log-probabilities of the completion's tokens, shape (rows, completion length)."""
        kept = ids.shape[1] - prompt
        logits = model(ids, logits_to_keep=kept + 1).logits[:, :-1]
        return logits.log_softmax(-1).gather(-1, ids[:, prompt:, None]).squeeze(-1)

    def values(self, ids: torch.Tensor, prompt: int) -> torch.Tensor:
        """Return the critic's values before each of the completion's tokens."""
        return self.head(self.trunk(ids).last_hidden_state[:, prompt - 1 : -1]).squeeze(-1)

    @staticmethod
    def advantages(rewards: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return generalised advantage estimates."""
        found, following = torch.zeros_like(values), torch.zeros(len(values), device=values.device)
        for t in reversed(range(values.shape[1])):
            after = values[:, t + 1] if t + 1 < values.shape[1] else 0.0
            following = rewards[:, t] + GAMMA * after - values[:, t] + GAMMA * LAM * following
            found[:, t] = following
        return found
