"""The critic of PPO, which estimates a value for every token, the expected return of the completion; and what PPO computes
from values: generalised advantage estimation (GAE), the value loss, and the KL per token.

The critic is a submodule of the policy, named `critic`, so that one optimizer, one DDP, FSDP or DeepSpeed engine and
one checkpoint hold both. It is excluded from the published policy, from the weights sent to vLLM, and from `generate`
(`without_critic`).

Kind `head` is a linear layer on the policy's last hidden states. Kind `model` is a backbone that reads the same tokens.
Both compute values in the forward pass of the log-probabilities. `ValuesBesideLogProbs` stacks values and
log-probabilities, so that code that splits, packs, pads or joins log-probabilities treats the values alike.

`switch_off_dropout` makes the probabilities and values of a text deterministic, also in training mode.
"""

import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.modeling_outputs import Seq2SeqLMOutput

from empathy_trl.errors import UserError
from empathy_trl.io import read_json, user_name
from empathy_trl.models.hub_files import (
    CRITIC_CONFIG,
    CRITIC_FOLDER,
    CRITIC_HEAD,
    NO_CODE,
    hub_errors,
    load_tokenizer,
    model_folder,
    saved_critic,
    split_revision,
)


class ValueHead(nn.Linear):
    """A linear layer from `hidden_size` to one number, with initial weights 0, plus `centre`, the mean score of a completion.

    Without the centre, a mean far from 0 would be learned by the weights first, because the bias moves only as fast as one of
    many weights. Single tokens would then get wrong values for a long time. The centre is a plain number. As a parameter, it
    would be overwritten by optimizers that keep copies of the parameters. As a buffer in `state_dict`, FSDP2 would refuse it.
    """

    def __init__(self, hidden_size: int):
        super().__init__(hidden_size, 1, dtype=torch.float32)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self.centre = 0.0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden) + self.centre

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # in the file of a saved head, and in DeepSpeed's checkpoints of version 0.1
        if (centre := state_dict.pop(f"{prefix}centre", None)) is not None:
            self.centre = centre.item()
        super()._load_from_state_dict(state_dict, prefix, *args)


class Critic(nn.Module):
    """Values of hidden states, shape (rows, tokens, hidden) to (rows, tokens), in float32 for any type of weights.

    The head's weights start at 0, so an untrained critic gives every token the same value.

    Args:
        hidden_size: of the policy or, where there is one, of the backbone.
        backbone: a transformers model without a head that gives hidden states, or None to read the policy's.
    """

    def __init__(self, hidden_size: int, backbone: nn.Module | None = None):
        super().__init__()
        self.backbone = backbone
        self.value_head = ValueHead(hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            values = self.value_head(hidden.to(self.value_head.weight.dtype)).squeeze(-1)
        return values.to(torch.promote_types(values.dtype, torch.float32))  # DeepSpeed keeps all weights in bfloat16

    @property
    def _config(self) -> dict:
        """The content of its `critic_config.json`, which a saved critic has to match."""
        return {"kind": "head" if self.backbone is None else "model", "hidden_size": self.value_head.in_features}

    def save(self, folder: Path, state: dict[str, torch.Tensor]):
        """Write the critic into a folder.

        Args:
            state: its weights, which a sharded training has gathered.
        """
        folder.mkdir(parents=True, exist_ok=True)
        parts = {"backbone": {}, "value_head": {"centre": torch.tensor([self.value_head.centre])}}
        for name, weight in state.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = weight.contiguous()
        save_file(parts["value_head"], folder / CRITIC_HEAD)
        if self.backbone is not None:
            self.backbone.save_pretrained(folder, state_dict=parts["backbone"])
        (folder / CRITIC_CONFIG).write_text(json.dumps(self._config, indent=2) + "\n", encoding="utf-8")

    def load(self, folder: Path):
        """Take over the weights of a critic that `save` wrote.

        Raises:
            UserError: it is of another kind or size, or a file cannot be read.
        """
        _check_saved(folder, **self._config)
        self.load_head(folder)
        if self.backbone is not None:
            weights = type(self.backbone).from_pretrained(folder, dtype=torch.float32).state_dict()
            self.backbone.load_state_dict(weights)

    def load_head(self, folder: Path):
        """Take over the value head that `save` wrote.

        Raises:
            UserError: it cannot be read.
        """
        with _readable(folder / CRITIC_HEAD) as file:
            self.value_head.load_state_dict(load_file(file))

    def load_centre(self, folder: Path):
        """Take over the centre of the head that `save` wrote; a training engine has loaded the weights.

        Raises:
            UserError: it cannot be read.
        """
        with _readable(folder / CRITIC_HEAD) as file:
            self.value_head.centre = load_file(file)["centre"].item()


@contextmanager
def _readable(file: Path):
    """Raise UserError if the value head in a file cannot be read."""
    try:
        yield file
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise UserError(f"{file}: holds no value head that can be read: {error}") from error


def _check_saved(folder: Path, **expected):
    """Raise UserError unless the config of a saved critic has the expected values."""
    config = read_json(folder / CRITIC_CONFIG)
    if config | expected != config:
        raise UserError(f"{folder}: holds a critic with {config}; this policy needs one with {expected}")


def build_critic(kind: str, name: str | None, policy, tokenizer) -> Critic:
    """Return a new or a loaded critic.

    Args:
        kind: `head` or `model`.
        name: where it starts, see `PPOConfig.critic_name_or_path`.
        policy: the transformers model, without PEFT or distributed wrappers.
        tokenizer: of the policy.

    Raises:
        UserError: the policy is quantised and the critic would be a part of it, nothing usable is at `name`, or it reads
            other tokens than the policy.
    """
    saved = saved_critic(name)
    if kind == "head":
        if getattr(policy, "is_quantized", False):
            raise UserError(
                "trainer.critic_kind: head reads the hidden states of the policy, whose weights are quantised and cannot be "
                "trained for it; set critic_kind: model with a critic_name_or_path, or model.load_in_4bit: false"
            )
        if name is not None and saved is None:
            raise UserError(
                f"trainer.critic_name_or_path: {name} holds no critic ({CRITIC_CONFIG}) to initialise the head; leave "
                "it out, or set critic_kind: model"
            )
        critic = Critic(policy.config.get_text_config().hidden_size)
        if saved is not None:
            critic.load(saved)
    elif saved is not None:
        critic = _from_saved(saved, policy)
    elif name is None:
        critic = Critic(policy.config.get_text_config().hidden_size, _copy_of(policy))
    else:
        critic = _from_model(name, policy, tokenizer)
    return critic.to(policy.device)


def _from_saved(folder: Path, policy) -> Critic:
    """Return a critic of kind model that `Critic.save` wrote; it may be larger or smaller than the policy."""
    _check_saved(folder, kind="model")
    backbone = AutoModel.from_pretrained(folder, dtype=torch.float32)
    config, vocabulary = backbone.config.get_text_config(), policy.config.get_text_config().vocab_size
    if config.vocab_size != vocabulary:
        raise UserError(
            f"{folder}: holds a critic that reads {config.vocab_size} tokens; the policy writes {vocabulary}"
        )
    critic = Critic(config.hidden_size, backbone)
    critic.load_head(folder)
    return critic


def _copy_of(policy):
    """Return the policy without its vocabulary head, as a model of its own in float32."""
    if is_deepspeed_zero3_enabled():
        raise UserError(
            "trainer.critic_name_or_path: missing; with ZeRO-3 no process has the policy's weights to copy: name a model with "
            "the same tokenizer, such as the policy's own"
        )
    copied = AutoModel.from_config(policy.config, dtype=torch.float32)
    weights = policy.base_model.state_dict()
    if getattr(policy, "is_quantized", False) or copied.state_dict().keys() - weights.keys():
        raise UserError(
            "trainer.critic_name_or_path: missing; a policy with quantised weights or an adapter cannot be copied as critic: "
            "name a model with the same tokenizer, or set critic_kind: head"
        )
    copied.load_state_dict({name: weights[name] for name in copied.state_dict()})
    return copied


def _from_model(name: str, policy, tokenizer) -> Critic:
    """Return a critic that starts from a model with or without a head for one number, such as a reward model."""
    name, revision = split_revision(user_name(name))
    with hub_errors(name, revision):
        folder = model_folder(name)
        config = AutoConfig.from_pretrained(folder, revision=revision, **NO_CODE)
        if load_tokenizer(name, revision).get_vocab() != tokenizer.get_vocab():
            raise UserError(
                f"trainer.critic_name_or_path: {name} has another tokenizer than the policy, and a critic reads the "
                "policy's tokens; expected a model of the policy's family, or critic_kind: head"
            )
        if config.is_encoder_decoder != policy.config.is_encoder_decoder:
            raise UserError(
                f"trainer.critic_name_or_path: {name} is {'an' if config.is_encoder_decoder else 'no'} encoder-decoder, "
                "the policy is not alike; a critic reads what the policy reads"
            )
        rates = any(architecture.endswith("ForSequenceClassification") for architecture in config.architectures or ())
        auto = AutoModelForSequenceClassification if rates else AutoModel
        model = auto.from_pretrained(folder, revision=revision, dtype=torch.float32, **NO_CODE)
    critic = Critic(config.get_text_config().hidden_size, model.base_model)
    head = getattr(model, "score", None)  # of a decoder with one number: a reward model
    if isinstance(head, nn.Linear) and head.out_features == 1:
        critic.value_head.weight.data.copy_(head.weight.data)
    return critic


@dataclass
class Seq2SeqOutputWithValues(Seq2SeqLMOutput):
    """The output of an encoder-decoder with the values of its tokens, in a field of its own: DDP and DeepSpeed take an output
    apart and build it again from the fields of its class.
    """

    token_values: torch.Tensor | None = None


class ValuesBesideLogProbs:
    """Hooks that make a policy with a critic return values beside its log-probabilities.

    While `wanted`, `outputs.log_probs` of TRL's fused head, of shape (rows, tokens), becomes (rows, tokens, 2), the value
    before a token in the last place; an encoder-decoder, which has no such head, gets `outputs.token_values` of shape
    (rows, tokens). Otherwise the model computes as without a critic.

    Attributes:
        wanted: whether values are needed from the next forward passes.
        detached: keep the critic's gradient from the policy's hidden states.

    Args:
        model: the policy as the trainer holds it, whose `critic` is set.
        decoder: the part of it that gives hidden states.
    """

    def __init__(self, model, decoder):
        self.wanted = self.detached = False
        self._critic = model.critic
        self._hidden = None
        decoder.register_forward_hook(self._keep)
        model.register_forward_hook(self._add, with_kwargs=True)

    def _keep(self, decoder, inputs, outputs):
        if self.wanted:
            self._hidden = outputs.last_hidden_state

    def _add(self, model, inputs, kwargs, outputs):
        if not self.wanted:
            return
        hidden, self._hidden = self._hidden, None
        if self._critic.backbone is not None:
            read = {
                key: value for key, value in kwargs.items() if key not in ("labels", "shift_labels", "fused_lm_head")
            }
            hidden = self._critic.backbone(**read | {"use_cache": False}).last_hidden_state
        values = self._critic(hidden.detach() if self.detached else hidden)
        if "log_probs" not in outputs:
            return Seq2SeqOutputWithValues(**outputs, token_values=values)
        # a plain row's last position predicts nothing and has no log-probability
        values = values[:, : outputs.log_probs.shape[1]]
        both = torch.promote_types(values.dtype, outputs.log_probs.dtype)
        outputs["log_probs"] = torch.stack([outputs.log_probs.to(both), values.to(both)], dim=-1)


@contextmanager
def without_critic(model):
    """Take the critic out of a policy for a while, for what is about to walk over all its weights."""
    critic = model._modules.pop(CRITIC_FOLDER)
    try:
        yield
    finally:
        model._modules[CRITIC_FOLDER] = critic


def switch_off_dropout(model: nn.Module):
    """Set all dropout of a model to 0: the probability of modules, and the numbers by which layers and attention drop.

    `trl.trainer.utils.disable_dropout_in_model` knows the modules only, while most attention of transformers, and all of
    BART, reads a number such as `self.attention_dropout`.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and ("dropout" in name or "layerdrop" in name):
                setattr(module, name, 0.0)


# ---- advantages ----

# All tensors have the shape (rows, completion_length). A mask of the same shape is 1 for a token that the policy chose, and 0
# for padding and the output of tools. A masked token is skipped, as if the tokens before and after it were neighbours.


def per_token_kl(log_probs: torch.Tensor, reference: torch.Tensor, estimator: str) -> torch.Tensor:
    """Return an estimate of KL(policy || reference) per token, in nats.

    Args:
        log_probs, reference: of the sampled tokens under the policy that sampled them and under the reference.
        estimator: `k1`, log p - log q, unbiased and of either sign; or `k3`, q/p - 1 - log(q/p), unbiased, never negative,
            and of less variance (Schulman 2020, http://joschu.net/blog/kl-approx.html).
    """
    log_ratio = reference - log_probs
    return -log_ratio if estimator == "k1" else torch.expm1(log_ratio) - log_ratio


def token_rewards(scores: torch.Tensor, penalties: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return minus the penalty at every token that counts, and the score besides at the last one.

    Args:
        scores: shape (rows,).
        penalties: per token.
    """
    last = mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)  # of a row without any token it is masked out again
    rewards = -penalties
    rewards = rewards.scatter_add(1, last[:, None], scores[:, None].to(rewards.dtype))
    return rewards * mask


def advantages_and_returns(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return advantages and returns of every token, 0 where the mask is (Schulman et al. 2016, arXiv 1506.02438).

    delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lam A_{t+1}, R_t = A_t + V_t; after the last token both are 0.

    Args:
        rewards: per token.
        values: what the critic expects before each token.
        gamma, lam: discount, and how far the estimate looks ahead; both in [0, 1].
    """
    advantages = torch.zeros_like(values)
    next_value = next_advantage = values.new_zeros(len(values))
    counts = mask.bool()
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = torch.where(counts[:, t], advantage, 0.0)
        next_advantage = torch.where(counts[:, t], advantage, next_advantage)
        next_value = torch.where(counts[:, t], values[:, t], next_value)
    return advantages, (advantages + values) * mask


def moments(values: torch.Tensor, mask: torch.Tensor, total=lambda sums: sums) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance over the tokens that count; 0 where there are none.

    Args:
        total: adds a tensor up over all processes.
    """
    mask = mask.to(values.dtype)
    amount, number = total(torch.stack([(values * mask).sum(), mask.sum()]))
    mean = amount / number.clamp(min=1)
    spread = total((((values - mean) ** 2) * mask).sum())
    return mean, spread / number.clamp(min=1)


def whitened(values: torch.Tensor, mask: torch.Tensor, total=lambda sums: sums) -> torch.Tensor:
    """Return values with mean 0 and variance 1 over the tokens that count (of all processes), 0 elsewhere."""
    mean, variance = moments(values, mask, total)
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask


def explained_variance(
    values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, total=lambda sums: sums
) -> float | None:
    """Return 1 - Var(returns - values) / Var(returns): 1 for a perfect critic, 0 for a constant, below 0 for a worse one.

    None where all returns are equal.
    """
    _, unexplained = moments(returns - values, mask, total)
    _, variance = moments(returns, mask, total)
    return None if variance < 1e-8 else (1 - unexplained / variance).item()


def clipped_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of every token, and where it was clipped.

    Half the squared error, or that of the value moved by at most `cliprange` from the one at the time of the rollout,
    whichever is larger (the implementation of Schulman et al. 2017, arXiv 1707.06347).
    """
    near = old_values + (values - old_values).clamp(-cliprange, cliprange)
    free, clipped = (values - returns) ** 2, (near - returns) ** 2
    return 0.5 * torch.maximum(free, clipped), clipped > free
