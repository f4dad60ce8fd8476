"""A card's part on training: the stages, the rewards and their weights, and the main settings."""

from typing import Any

from empathy_trl.evaluation.tables import markdown
from empathy_trl.model_card import wording
from empathy_trl.model_card.escape import code, text
from empathy_trl.model_card.stage_files import StageFiles, lineage
from empathy_trl.recipe.layers import stage_of
from empathy_trl.recipe.yaml_io import RECIPE_FILE
from empathy_trl.rewards import REWARDS

# keys of `trainer` in the order of the card -> what they are called
SETTINGS = {
    "learning_rate": "learning rate",
    "lr_scheduler_type": "learning rate schedule",
    "max_steps": "optimizer steps",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch per device",
    "gradient_accumulation_steps": "batches accumulated",
    "num_generations": "answers per prompt",
    "num_iterations": "passes over each batch of answers",
    "max_completion_length": "tokens of an answer at most",
    "max_length": "tokens of a text at most",
    "temperature": "temperature of the answers",
    "beta": "weight of the KL penalty",
    "kl_coef": "weight of the KL penalty",
    "epsilon": "clipping range",
    "loss_type": "loss",
    "loss": "loss",
    "bf16": "bfloat16",
}
PICTURES = {
    "reward_curve.png": "The training, step by step",
    "critic_curves.png": "Whether PPO was well, step by step",
}


def procedure(files: StageFiles) -> str:
    """Return stages, rewards and settings as Markdown, with links to what lies beside the card."""
    stages = lineage(files.recipe, files.name)
    parts = [_stages(files, stages)]
    if files.stage.get("rewards"):
        parts += [_rewards(files.stage["rewards"])]
    parts += [_settings(files)]
    parts += [f"![{words}]({name})" for name, words in PICTURES.items() if files.has(name)]
    links = [f"[every setting]({RECIPE_FILE})"]
    links += ["[answers from the training, with their rewards](samples.md)"] * files.has("samples.md")
    return "\n\n".join([*parts, f"See also: {', '.join(links)}."])


def _stages(files: StageFiles, stages: dict[str, dict]) -> str:
    """Return the stages that led to this model, as a table."""
    rows = [["stage", "how", "starts from", "data"]]
    for name, stage in stages.items():
        here = "**" * (name == files.name)
        pairwise = (stage.get("trainer") or {}).get("objective") == "pairwise"
        how = wording.PAIRWISE_SHORT if pairwise else wording.SHORT.get(stage.get("task"), text(stage.get("task")))
        rows.append(
            [f"{here}{text(name)}{here}", how, _start(stage.get("model") or {}), _data(stage.get("data") or {})]
        )
    role = " This model is the one in bold." if len(stages) > 1 else ""
    if files.record.get("status") != "complete":
        role += " **Its training was not finished when it was published.**"
    return f"Recipe {code(files.recipe.get('name'))} of empathy-trl.{role}\n\n{markdown(rows)}"


def _start(model: dict) -> str:
    parent = stage_of(model.get("name_or_path"))
    scratch = model.get("from_scratch")
    if parent is not None:
        start = f"stage {text(parent)}"
    elif scratch:
        shape = ", ".join(f"{key.replace('_', ' ')} {text(scratch.get(key))}" for key in ("layers", "hidden_size"))
        start = f"nothing ({text(scratch.get('architecture'))}, {shape})"
    else:
        start = code(model.get("name_or_path"))
    lora = model.get("lora")
    return (
        start
        + (f", LoRA of rank {text(lora.get('r'))}" if lora else "")
        + (", in 4 bits" if model.get("load_in_4bit") else "")
    )


def _data(data: dict) -> str:
    low, high = data.get("portion") or (0, 1)
    part = f", part {low:.0%} to {high:.0%} of the training rows" if (low, high) != (0, 1) else ""
    return f"{code(data.get('name'))} from {code(data.get('path'))}{part}"


def _rewards(rewards: dict[str, dict]) -> str:
    rows = [["reward", "weight", "what it pays for", "what it misses", "settings"]]
    for name, entry in rewards.items():
        rows.append([code(name), weight(entry.get("weight", 1.0)), *_meaning(name, entry), _parameters(name, entry)])
    return "What an answer earned is the weighted sum of these rewards.\n\n" + markdown(rows)


def weight(value: Any) -> str:
    """Return a reward's weight in words; a schedule says where it goes."""
    if isinstance(value, dict):
        share = f"{value['until']:.0%}" if isinstance(value.get("until"), (int, float)) else text(value.get("until"))
        return f"{text(value.get('start'))} to {text(value.get('end'))} over the first {share} of the training"
    return text(value)


def _meaning(name: str, entry: dict) -> tuple[str, str]:
    """Return what a reward pays for, and what it misses; of the author's own only that it is one."""
    if entry.get("import"):
        return f"the author's own: {code(entry['import'])}", ""
    return wording.REWARDS.get(name, ("", ""))


def _parameters(name: str, entry: dict) -> str:
    """Return the parameters that decide the reward, without addresses, time limits and the like."""
    hidden = {"weight", "import", *getattr(REWARDS.get(name), "operational", ())}
    return ", ".join(code(f"{key}: {value}") for key, value in entry.items() if key not in hidden)


def _settings(files: StageFiles) -> str:
    trainer = files.stage.get("trainer") or {}
    settings = {words: trainer[key] for key, words in SETTINGS.items() if trainer.get(key) not in (None, False)}
    settings["seed"] = files.record.get("seed", files.stage.get("seed"))
    return "Main settings: " + "; ".join(f"{words} {text(value)}" for words, value in settings.items()) + "."
