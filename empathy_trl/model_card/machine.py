"""A card's words on the machine, the time and the energy, from `run.json` (see `consumption`)."""

from empathy_trl.model_card.escape import text


def machine(record: dict) -> str:
    """Return a sentence on what trained the model and for how long."""
    hardware = record.get("hardware") if isinstance(record.get("hardware"), dict) else {}
    gpus = [str(gpu) for gpu in hardware.get("gpus") or []]
    counted = [f"{gpus.count(name)} × {text(name)}" for name in dict.fromkeys(gpus)]
    parts = counted or (["no GPU"] if hardware else [])
    if hardware.get("cpu"):
        parts.append(f"{text(hardware.get('cores'))} cores of {text(hardware['cpu'])}")
    if hardware.get("memory_gb"):
        parts.append(f"{text(hardware['memory_gb'])} GB of memory")
    on = f"on a machine with {', '.join(parts)}" if parts else "on a machine that is not known"
    processes = record.get("processes")
    several = f", in {text(processes)} processes" if isinstance(processes, int) and processes > 1 else ""
    seconds, sessions = record.get("train_seconds"), record.get("sessions")
    took = f"for {duration(seconds)}" if _is_number(seconds) else "for a time that is not known"
    took += f" (in {sessions} sessions)" if isinstance(sessions, int) and sessions > 1 else ""
    return f"Trained {took} {on}{several}."


def carbon(record: dict) -> str:
    """Return what is known of energy and CO2: measured figures, or that there are none and how to get them."""
    energy = _energy(record)
    if energy is None:
        return (
            "Energy and carbon: not measured. On NVIDIA GPUs, `pip install nvidia-ml-py` before the training measures the "
            "energy, and `CARBON_INTENSITY` (grams of CO2 per kWh of your electricity) turns it into grams."
        )
    what = f"Energy: {energy['kwh']:.4g} kWh, measured ({text(energy.get('of', 'GPUs'))}); processors, memory and cooling are not in it."
    grams = emissions(record)
    if grams is None:
        return f"{what} Multiply it with the grams of CO2 per kWh of the electricity to get the carbon."
    return f"{what} At {energy['grams_per_kwh']:g} g of CO2-equivalent per kWh, as the author states it, that is {grams:.4g} g."


def emissions(record: dict) -> float | None:
    """Return grams of CO2-equivalent, from measured energy; None where either factor is not known."""
    energy = _energy(record)
    if energy is None or not _is_number(energy.get("grams_per_kwh")):
        return None
    return round(energy["kwh"] * energy["grams_per_kwh"], 3)


def duration(seconds: float) -> str:
    """Return seconds in words: `95 s`, `12 min`, `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _energy(record: dict) -> dict | None:
    energy = record.get("energy")
    return energy if isinstance(energy, dict) and _is_number(energy.get("kwh")) else None


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
