"""Time and memory of a PPO update (rollout, rewards, optimisation), ours against a plain loop with a separate critic.

python benchmarks/ppo_update.py                  # all four shapes; about 15 minutes on two cores
python benchmarks/ppo_update.py ed4_tiny --rounds 10

Policy, prompts, lengths, rewards and settings are the same: a reference model, one step per rollout. Our critic is the
head on the policy's hidden states, and prompts are shared, as in every run; `--no_sharing` turns that off and shows the
gain without it. torch counts the memory: weights, gradients and optimizer states between two updates, and the peak that
an update adds. The ratio is the geometric mean of the ratios of the times.
"""

import dataclasses
import gc
import tempfile

import torch
from harness import WHOLE, command_line, in_turns, one_step, peak_of, print_ratio, print_table, timed
from plain_ppo import GAMMA, KL_COEF, LAM, LEARNING_RATE, VALUE_CLIP, VF_COEF, PlainPPO
from shapes import SHAPES, Shape, make_model, make_prompts, make_tokenizer, token_reward
from transformers import Qwen2ForCausalLM

from empathy_trl.trainers.ppo import EmpathyPPOTrainer, PPOConfig


def make_plain(shape: Shape) -> PlainPPO:
    """Return the loop from first principles for a shape."""
    tokenizer, device = make_tokenizer(), "cuda" if torch.cuda.is_available() else "cpu"
    rows = make_prompts(shape, tokenizer, 64)["prompt"]
    return PlainPPO(make_model(shape).to(device), shape, list(rows), tokenizer)


def make_ours(shape: Shape, folder: str, sharing: bool) -> EmpathyPPOTrainer:
    """Return our trainer with the same model, prompts and settings."""
    tokenizer = make_tokenizer()
    make_model(shape).save_pretrained(folder)  # the reference is loaded from where the model was
    settings = dataclasses.asdict(shape)
    return EmpathyPPOTrainer(
        model=Qwen2ForCausalLM.from_pretrained(folder),
        processing_class=tokenizer,
        reward_funcs=[token_reward],
        args=PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=settings["group"] * settings["groups"],
            num_generations=settings["group"],
            max_completion_length=settings["completion"],
            generation_kwargs={"min_new_tokens": settings["completion"]},
            learning_rate=LEARNING_RATE,
            critic_learning_rate=LEARNING_RATE,
            gamma=GAMMA,
            lam=LAM,
            vf_coef=VF_COEF,
            cliprange_value=VALUE_CLIP,
            kl_coef=KL_COEF,
            shared_prefix="auto" if sharing else False,
            max_steps=1000,
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=make_prompts(shape, tokenizer, 64),
    )


def plain_step(plain: PlainPPO):
    """Return a function that takes one update of the loop and returns its seconds, as `harness.one_step` does."""

    def step() -> dict[str, float]:
        seconds = {WHOLE: 0.0}
        torch.manual_seed(plain.done)
        with timed(seconds, WHOLE):
            plain.update()
        return seconds

    return step


def standing(modules, optimizers) -> float:
    """Return the MB of weights, gradients and optimizer states."""
    weights = {id(p): p for module in modules for p in module.parameters()}.values()
    states = [value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()]
    gradients = [p.grad for p in weights if p.grad is not None]
    tensors = [*weights, *gradients, *(value for value in states if isinstance(value, torch.Tensor))]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6


def main():
    args = command_line(__doc__, flags={"--no_sharing": "every prompt is read once per completion in ours, too"})
    rows, ratios = [["shape", "prompt / completion / group", "figure", "plain", "ours", "ratio"]], []
    for name in args.shapes:
        gc.collect()
        shape = SHAPES[name]
        with tempfile.TemporaryDirectory() as folder:
            plain, ours = make_plain(shape), make_ours(shape, folder, not args.no_sharing)
            steps = {"plain": plain_step(plain), "ours": one_step(ours)}
            seconds = in_turns(steps, args.rounds, warm_up=2, label=name)
            memory = {
                "plain": standing([plain.policy, plain.reference, plain.trunk, plain.head], plain.optimizers),
                "ours": standing([ours.model, ours.ref_model], [ours.optimizer.optimizer]),
            }
            peaks = {who: memory[who] + peak_of(step) for who, step in steps.items()}
        about = f"{shape.prompt} / {shape.completion} / {shape.group}"
        for figure, pair in (
            ("update (s)", [seconds[who][WHOLE] for who in steps]),
            ("memory at most (MB)", [peaks[who] for who in steps]),
        ):
            rows.append([name, about, figure, *pair, pair[0] / pair[1]])
        ratios.append(seconds["plain"][WHOLE] / seconds["ours"][WHOLE])
    print_table(rows)
    print_ratio(ratios)


if __name__ == "__main__":
    main()
