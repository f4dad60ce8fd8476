"""Provenance: what `run.json` records (versions, commit, machine, time, energy), and a check that `recipe.yaml` is true.

`check_used` compares the settings of a stage, as `recipe.yaml` records them, with the trainer and the model that were built
from them, because libraries, launchers and saved models silently replace some settings.

Energy comes from the GPUs' own counters (NVML, through the optional package nvidia-ml-py: the extra `carbon`). CPUs,
memory and cooling are not counted: on most machines only root can read their counters, and an estimate from a table of
processors is not a measurement. Grams of CO2 are the energy times `CARBON_INTENSITY`, the grams of CO2-equivalent per
kWh of the user's electricity.
"""

import math
import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from empathy_trl.engine import CPU_INSTEAD, Engine
from empathy_trl.errors import UserError, show

RUN_FILE = "run.json"
LIBRARIES = (
    "empathy-trl",
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "peft",
    "datasets",
    "tokenizers",
    "scikit-learn",
)
INTENSITY = "CARBON_INTENSITY"
JOULES_PER_KWH = 3.6e6


# ---- what a recipe says, and what is used ----

# key of `trainer:` -> its value in use, if this is not `trainer.<key>` or `trainer.args.<key>`
IN_EFFECT = {
    "bf16": lambda trainer: trainer.accelerator.mixed_precision == "bf16",
    "fp16": lambda trainer: trainer.accelerator.mixed_precision == "fp16",
    "epsilon": lambda trainer: trainer.epsilon_low,
    "deepspeed": lambda trainer: trainer.args.deepspeed,  # `trainer.deepspeed` is its engine, later
    "generation_kwargs": lambda trainer: (
        trainer.generation_config.to_dict() if hasattr(trainer, "generation_config") else trainer.args.generation_kwargs
    ),
}
# key of `trainer:` -> the values that its config class writes for true and false
BOOLS = {"scale_rewards": ("group", "none"), "include_num_input_tokens_seen": ("all", "no")}
# key, or the beginning of one -> why it is not compared. null and `auto` are not compared either: they leave the choice open
NOT_COMPARED = {
    "task": "chooses the trainer",
    "data": "a corpus refuses keys that it does not read, and its report counts the rows",
    "evaluation": "an evaluation records its own settings",
    "hub": "a push reads it at the end",
    "model.name_or_path": "the adapter and the critic are compared, and the weights are what is at that place",
    "model.revision": "of a folder it is refused; the Hub gives what it names, or an error",
    "model.lora.target_modules": "peft writes names in its own way; see `models.adapters.adapter_changes`",
    "model.from_scratch.vocab_size": "the most that a tokenizer may have; texts with fewer different pieces give fewer",
}


def settings_in_use(stage, trainer) -> dict[str, tuple]:
    """Return dotted key -> (the recipe's value, the value in use) for all settings that can be compared.

    Args:
        stage: a `recipe.Stage`, with a `stage:` name replaced by the folder of that stage.
        trainer: a trainer built by `tasks.TASKS`, ready to train.
    """
    pairs = {
        f"trainer.{key}": (_named(key, value), _trainer_value(key, trainer)) for key, value in stage.trainer.items()
    }
    model = trainer.accelerator.unwrap_model(trainer.model)
    pairs |= {f"model.{key}": pair for key, pair in _model_values(stage, model, trainer.processing_class).items()}
    pairs["seed"] = (stage.seed, trainer.args.seed)
    if stage.rewards:
        weights = trainer.weight_schedules or trainer.reward_weights.tolist()
        for (name, reward), used, weight in zip(stage.rewards.items(), trainer.reward_funcs, weights, strict=True):
            pairs[f"rewards.{name}.weight"] = (reward.weight, weight)
            pairs |= {
                f"rewards.{name}.{key}": (value, getattr(used, key, None)) for key, value in reward.params.items()
            }
    return pairs


def check_used(stage, trainer) -> None:
    """Raise UserError if the trainer or its model has another value than the recipe; names all such settings.

    Also if the launcher asks for shards and accelerate makes none, as it does for FSDP on the CPU.
    """
    engine = Engine.here(stage.trainer)
    if engine.name.startswith("FSDP") and not trainer.is_fsdp_enabled:
        raise UserError(
            f"the launcher asks for {engine.name}, but accelerate does not use it here: it shards on GPUs only; {CPU_INSTEAD}"
        )
    wrong = {key: pair for key, pair in settings_in_use(stage, trainer).items() if not _is_same(*pair)}
    if wrong:
        raise UserError("\n".join(_difference(stage, key, *pair) for key, pair in wrong.items()))


def check_precision(recipe, engine: Engine) -> None:
    """Raise UserError if the launcher replaces a recipe's precision. This can be checked before any stage is trained."""
    key = engine.precision
    replaced = [stage for stage in recipe.stages.values() if stage.trainer.get(key) is False]
    if replaced:
        flags = " ".join(f"--stages.{stage.name}.trainer.{key} true" for stage in replaced)
        raise UserError(
            "\n".join(_difference(stage, f"trainer.{key}", False, True) for stage in replaced)
            + f"\nThe launcher sets mixed_precision to {key!r}, in its config file or with --mixed_precision. Expected the same in "
            f"both: accelerate launch --mixed_precision no, or for the recipe {flags}"
        )


def _difference(stage, key: str, asked, used) -> str:
    return f"stages.{stage.name}.{key}: the recipe says {show(asked)}, but {show(used)} is used"


def _named(key: str, value):
    yes, no = BOOLS.get(key, (True, False))
    return (yes if value else no) if isinstance(value, bool) else value


def _trainer_value(key: str, trainer):
    if key in IN_EFFECT:
        return IN_EFFECT[key](trainer)
    return getattr(trainer, key, getattr(trainer.args, key))


def _model_values(stage, model, tokenizer) -> dict[str, tuple]:
    """Return key of `model:` -> (the recipe's value, the model's)."""
    section, config = stage.model, model.config
    pairs = {"load_in_4bit": (section.load_in_4bit, bool(getattr(model, "is_loaded_in_4bit", False)))}
    if section.dtype != "auto":
        bare = model.get_base_model() if hasattr(model, "peft_config") else model
        # ZeRO-3 loads the weights in the type that it computes in; its optimizer holds them in float32
        in_float32 = hasattr(next(bare.parameters()), "ds_id") and section.dtype == "float32"
        pairs["dtype"] = (section.dtype, "float32" if in_float32 else str(bare.dtype).removeprefix("torch."))
    if section.attn_implementation is not None:
        used = config._attn_implementation.removeprefix("shared_prefix_")  # it wraps the named one
        # from the Hub's kernels
        is_flash = section.attn_implementation.startswith("flash_attention") and "flash-attn" in used
        pairs["attn_implementation"] = (section.attn_implementation, section.attn_implementation if is_flash else used)
    from empathy_trl.models.templates import pinned_argument, template_text  # imports torch

    if section.chat_template is not None:
        is_used = template_text(section.chat_template, tokenizer) in tokenizer.chat_template
        pairs["chat_template"] = (section.chat_template, section.chat_template if is_used else "another")
    for name, value in (section.chat_template_kwargs or {}).items():
        is_pinned = pinned_argument(name, value) in str(tokenizer.chat_template)
        pairs[f"chat_template_kwargs.{name}"] = (value, value if is_pinned else "another value")
    if (lora := section.lora) is not None:
        adapter = getattr(model, "peft_config", {}).get("default")
        fields = {"r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
        pairs |= {f"lora.{key}": (getattr(lora, key), getattr(adapter, field, None)) for key, field in fields.items()}
    if (scratch := section.from_scratch) is not None:
        pairs["from_scratch.architecture"] = (scratch.architecture, config.model_type)
        pairs["from_scratch.hidden_size"] = (scratch.hidden_size, config.hidden_size)
        pairs["from_scratch.layers"] = (scratch.layers, config.num_hidden_layers)
        pairs["from_scratch.heads"] = (scratch.heads, config.num_attention_heads)
        pairs["from_scratch.max_length"] = (scratch.max_length, tokenizer.model_max_length)
    return pairs


def _is_same(asked, used) -> bool:
    """Return whether a value of a recipe and one of the trainer mean the same."""
    if asked is None:  # leaves the choice open
        return True
    used = getattr(used, "value", used)  # of an enum
    used = list(used) if isinstance(used, tuple) else used
    if isinstance(asked, str) and isinstance(used, list):
        return asked in ("none", "all", "") or set(asked.split()) <= {
            str(getattr(each, "value", each)) for each in used
        }
    if isinstance(asked, str) and not isinstance(used, str):
        return used is not None  # the config class has read a file, or JSON
    if isinstance(asked, dict) and used is not None:
        used = used if isinstance(used, dict) else vars(used)
        return all(key in used and _is_same(value, used[key]) for key, value in asked.items())
    return asked == used


def provenance(seed: int) -> dict:
    """Return what a reader needs to repeat a run: versions, git commit, seed, time and machine."""
    return {
        "seed": seed,
        "versions": versions(),
        "git_commit": git_commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
    }


def versions() -> dict[str, str]:
    """Return the installed version of Python and of every library that decides the result."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of this package's own checkout, with `+changes` if files differ; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *command: str) -> str:
    return subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


def hardware() -> dict:
    """Return processor, cores, memory (GB) and GPUs of this machine, as far as known, without host or user name."""
    import torch

    gpus = [torch.cuda.get_device_name(device) for device in range(torch.cuda.device_count())]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": _processor(), "cores": os.cpu_count(), "memory_gb": round(memory / 1e9, 1), "gpus": gpus}


def _processor(file: Path = Path("/proc/cpuinfo")) -> str | None:
    """Return the model of the processor, which Linux has in a file; elsewhere at least the architecture."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, None) or platform.processor() or platform.machine() or None


def carbon_intensity() -> float | None:
    """Return `$CARBON_INTENSITY`, grams of CO2-equivalent per kWh; None if it is not set.

    Raises:
        UserError: it is not a number, or below 0.
    """
    text = os.environ.get(INTENSITY)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UserError(
            f"{INTENSITY}: {text!r} is not a number of at least 0; expected grams of CO2 per kWh, such as 380"
        )
    return value


def gpu_joules() -> float | None:
    """Return the energy of this job's GPUs since their driver was loaded, or None if no counter can be read.

    Counted is the first GPU of each process on this machine, including what other jobs do on it.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        devices = range(min(torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        ids = [f"GPU-{torch.cuda.get_device_properties(device).uuid}" for device in devices]
        handles = [pynvml.nvmlDeviceGetHandleByUUID(each) for each in ids]
        return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles) / 1000  # of millijoules
    except ImportError:
        return None
    except pynvml.NVMLError:  # an old GPU, or a part of one, has no counter
        return None


class ResourceUsage:
    """Time and energy of a training over all its sessions: those that `run.json` has noted, and this one.

    For a session that was killed, `run.json` has the usage up to its last checkpoint.

    Args:
        record: the content of `run.json` as an earlier session left it.

    Raises:
        UserError: from `carbon_intensity`.
    """

    def __init__(self, record: dict):
        resumed = "started" in record
        self.seconds = record.get("train_seconds", 0.0)
        self.sessions = record.get("sessions", int(resumed)) + 1
        self.energy = record.get("energy") if resumed else {"kwh": 0.0}
        self.intensity = carbon_intensity()
        self.start, self.joules = time.perf_counter(), gpu_joules()

    def so_far(self) -> dict:
        """Return `train_seconds`, `sessions` and `energy`, as `run.json` notes them.

        `energy` is null if a session was not measured, else `{"kwh", "of"}` and, if it is known, `grams_per_kwh`.
        """
        now = None if self.joules is None or self.energy is None else gpu_joules()
        energy = None
        if now is not None:
            kwh = self.energy["kwh"] + (now - self.joules) / JOULES_PER_KWH
            known = {} if self.intensity is None else {"grams_per_kwh": self.intensity}
            energy = {"kwh": round(kwh, 6), "of": "GPUs, by their own counters (NVML)", **known}
        seconds = round(self.seconds + time.perf_counter() - self.start, 1)
        return {"train_seconds": seconds, "sessions": self.sessions, "energy": energy}
