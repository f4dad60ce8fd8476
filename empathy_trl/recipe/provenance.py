"""Provenance in `run.json`: versions, commit, machine, time, and energy if it can be measured.

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

from empathy_trl.errors import UserError

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
