"""What a training takes: the machine, the time, and where it can be measured the energy. Part of `run.json`.

Energy is read from the GPUs' own counters (NVML, through the optional package nvidia-ml-py: the extra `carbon`) and from
nowhere else. What CPUs, memory and cooling take is not in it: most machines let only root read their counters, and estimates
from a table of processors are no measurement. Grams of CO2 come from the energy times `CARBON_INTENSITY`, which the
user knows (grams of CO2-equivalent per kWh of their electricity) and we do not.
"""

import math
import os
import platform
import time
from pathlib import Path

from empathy_trl.errors import UserError

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
