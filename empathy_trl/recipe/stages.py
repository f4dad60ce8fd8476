"""The life of a stage's output folder: new, interrupted, complete, or made by another recipe.

`run.json` in the folder says which recipe (by fingerprint) made it and how far it came. The launcher asks
`inspect_stage` what to do and notes in the `StageFolder` when the stage is complete.

What a training takes: the machine, the time, and where it can be measured the energy. Part of `run.json`.

Energy is read from the GPUs' own counters (NVML, through the optional package nvidia-ml-py: the extra `carbon`) and from
nowhere else. What CPUs, memory and cooling take is not in it: most machines let only root read their counters, and estimates
from a table of processors are no measurement. Grams of CO2 come from the energy times `CARBON_INTENSITY`, which the
user knows (grams of CO2-equivalent per kWh of their electricity) and we do not.
"""

import json
import math
import os
import platform
import shutil
import subprocess
import time
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from empathy_trl.errors import UserError
from empathy_trl.io import digest, json_or_none, write_text
from empathy_trl.recipe.layers import RECIPE_FILE, read_yaml, stage_of
from empathy_trl.recipe.validate import fields_without_effect
from empathy_trl.rewards import REWARDS
from empathy_trl.rewards.base import Reward

RUN_FILE = "run.json"
# evaluation and publishing do not change the weights, so they do not make a stage another one
NOT_IN_FINGERPRINT = ("evaluation", "hub")
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


def fingerprint(stage: dict, earlier: dict[str, str], rows: str | None = None) -> str:
    """Return a hash of everything that decides a stage's weights, as far as it can be told without reading a model.

    A model that another run of this launcher left in a folder counts by that run's fingerprint: trained again with other
    settings, it is another one.

    Args:
        stage: the stage as resolved (`Recipe.resolved()["stages"][name]`).
        earlier: stage name -> fingerprint of the stages before it.
        rows: `digest` of the training rows, where they can be read before the run.
    """
    content = {key: value for key, value in stage.items() if key not in NOT_IN_FINGERPRINT}
    if content.get("rewards"):
        content["rewards"] = {name: _decisive(name, reward) for name, reward in content["rewards"].items()}
    parent = _made_by((stage["model"] or {}).get("name_or_path"), earlier)
    judges = judges_in(stage.get("rewards"), earlier)
    critic = _made_by((stage.get("trainer") or {}).get("critic_name_or_path"), earlier)
    more = ({"judges": judges} if judges else {}) | ({"critic": critic} if critic else {})
    return digest({**content, "parent": parent, "rows": rows} | more)


def known_fingerprint(path: Path, stage: dict, earlier: dict[str, str], rows: str | None) -> str:
    """Return `fingerprint`, or that of the run in a stage's folder where only trainer fields without effect differ.

    Version 0.1 took such fields, and they are part of its fingerprints; a recipe has to leave them out now.
    """
    record, recipe = json_or_none(path / RUN_FILE), path / RECIPE_FILE
    if record is not None and recipe.is_file():
        stages = read_yaml(recipe).get("stages", {})
        before = stages.get(record.get("stage"), {}).get("trainer", {})
        dropped = {key: before[key] for key in fields_without_effect(stage["task"]) if key in before}
        known = fingerprint({**stage, "trainer": dropped | stage["trainer"]}, earlier, rows)
        if known == record.get("fingerprint"):
            return known
    return fingerprint(stage, earlier, rows)


def judges_in(rewards: dict | None, earlier: dict[str, str]) -> dict[str, str]:
    """Return reward -> fingerprint of the run that made its model, for those in a resolved `rewards` section that have one.

    A model is an earlier stage's, as in `model: stage:reward`, or lies in the folder of another run.
    """
    made = {name: _made_by(entry.get("model"), earlier) for name, entry in (rewards or {}).items()}
    return {name: fingerprint for name, fingerprint in made.items() if fingerprint is not None}


def _made_by(model, earlier: dict[str, str]) -> str | None:
    """Return the fingerprint of the run that made a model; None for one that does not come from this launcher."""
    if not isinstance(model, str):
        return None
    if (stage := stage_of(model)) is not None:
        return earlier.get(stage)
    record = json_or_none(Path(model).expanduser() / RUN_FILE)
    return None if record is None else record.get("fingerprint")


def _decisive(name: str, reward: dict) -> dict:
    """Return a reward without what its class lists as `operational`: a longer timeout makes no other run."""
    operational = () if "import" in reward else REWARDS.get(name, Reward).operational
    return {key: value for key, value in reward.items() if key not in operational}


@dataclass
class StageFolder:
    """One stage's output folder.

    Attributes:
        path: where the model and everything about it goes.
        status: `new`, `interrupted` or `complete`.
        checkpoint: the last usable checkpoint of an interrupted run, if there is one.
        record: the content of `run.json`.
    """

    path: Path
    status: str
    checkpoint: Path | None
    record: dict

    def save(self, **changes):
        """Write `run.json` with `changes`; the file is replaced in one go."""
        self.record.update(changes)
        write_text(self.path / RUN_FILE, json.dumps(self.record, indent=2) + "\n")


def inspect_stage(path: Path, fingerprint: str) -> StageFolder:
    """Look at a stage's output folder without changing it.

    Raises:
        UserError: the folder holds files, but no readable `run.json`: it was not made by this launcher.
    """
    record = _read_record(path)
    if record is None or record["fingerprint"] != fingerprint:
        return StageFolder(path, "new", None, {"fingerprint": fingerprint})
    if record["status"] == "complete":
        return StageFolder(path, "complete", None, record)
    return StageFolder(path, "interrupted", last_checkpoint(path), record)


def make_way(path: Path, fingerprint: str, fresh: bool) -> str | None:
    """Clear the folder for a run with these settings and say what was done, if anything had to be.

    The run of other settings is kept beside, under its fingerprint, and comes back when its settings do. `fresh`
    deletes the run that is there.
    """
    record = _read_record(path)
    if record is not None and fresh:
        shutil.rmtree(path)
        return f"deleted {path} (--fresh)"
    said = []
    if record is not None and record["fingerprint"] != fingerprint:
        kept = _unused(path.with_name(f"{path.name}.{record['fingerprint']}"))
        path.rename(kept)
        said.append(f"{path} was made by other settings or other data; it is kept as {kept}")
    before = path.with_name(f"{path.name}.{fingerprint}")
    if not fresh and not path.exists() and before.exists():
        before.rename(path)
        said.append(f"{path} is back from {before}")
    return "; ".join(said) or None


def _unused(path: Path) -> Path:
    number = 2
    free = path
    while free.exists():
        free = path.with_name(f"{path.name}-{number}")
        number += 1
    return free


def _read_record(path: Path) -> dict | None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    try:
        record = json.loads((path / RUN_FILE).read_text(encoding="utf-8"))
        return record if {"fingerprint", "status"} <= dict(record).keys() else _not_ours(path)
    except (OSError, ValueError, TypeError):
        return _not_ours(path)


def _not_ours(path: Path):
    raise UserError(
        f"{path}: exists, but has no {RUN_FILE} written by this launcher; move it away or choose another --output_dir"
    )


def last_checkpoint(path: Path) -> Path | None:
    """Return the newest `checkpoint-N` in `path` whose files are whole, or None."""
    checkpoints = [folder for folder in path.glob("checkpoint-*") if folder.name.split("-")[-1].isdigit()]
    newest_first = sorted(checkpoints, key=lambda folder: int(folder.name.split("-")[-1]), reverse=True)
    return next((folder for folder in newest_first if _is_whole(folder)), None)


def _is_whole(checkpoint: Path) -> bool:
    """Whether a crash cut the writing of a checkpoint short; the trainer writes `trainer_state.json` last."""
    from safetensors import SafetensorError, safe_open

    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        for file in checkpoint.glob("*.safetensors"):
            with safe_open(file, framework="numpy"):
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    return isinstance(state, dict) and all(zipfile.is_zipfile(file) for file in checkpoint.glob("*.pt*"))


def provenance(seed: int) -> dict:
    """Return what somebody needs to repeat a run: versions, git commit, seed, time and machine."""

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
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *command: str) -> str:
    return subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


INTENSITY = "CARBON_INTENSITY"
JOULES_PER_KWH = 3.6e6


def hardware() -> dict:
    """Return processor, cores, memory (GB) and GPUs of this machine, as far as known; no name of machine or user."""
    import torch

    gpus = [torch.cuda.get_device_name(device) for device in range(torch.cuda.device_count())]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": _processor(), "cores": os.cpu_count(), "memory_gb": round(memory / 1e9, 1), "gpus": gpus}


def _processor(file: Path = Path("/proc/cpuinfo")) -> str | None:
    """Return the model of the processor: Linux has it in a file only, others name at least the architecture."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, None) or platform.processor() or platform.machine() or None


def carbon_intensity() -> float | None:
    """Return `$CARBON_INTENSITY`, grams of CO2-equivalent per kWh; None where it is not set.

    Raises:
        UserError: it is no number, or below 0.
    """
    text = os.environ.get(INTENSITY)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UserError(f"{INTENSITY}: {text!r} is no number from 0; expected grams of CO2 per kWh, such as 380")
    return value


def gpu_joules() -> float | None:
    """Return what the GPUs of this job have taken since their driver was loaded, or None where no counter can be read.

    The first GPU of each of this machine's processes counts; what other jobs do on the same GPUs is in it.
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


class Consumption:
    """What a training takes, over all its sessions: the ones that `run.json` knows of, and this one.

    Of a session that was killed, `run.json` knows what it took up to its last checkpoint.

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
        """Return what `run.json` says: `train_seconds`, `sessions`, `energy`.

        `energy` is null where not every session was measured, else `{"kwh", "of"}` and, where it is known,
        `grams_per_kwh`.
        """
        now = None if self.joules is None or self.energy is None else gpu_joules()
        energy = None
        if now is not None:
            kwh = self.energy["kwh"] + (now - self.joules) / JOULES_PER_KWH
            known = {} if self.intensity is None else {"grams_per_kwh": self.intensity}
            energy = {"kwh": round(kwh, 6), "of": "GPUs, by their own counters (NVML)", **known}
        seconds = round(self.seconds + time.perf_counter() - self.start, 1)
        return {"train_seconds": seconds, "sessions": self.sessions, "energy": energy}
