"""Where a saved critic of PPO lies; without torch, so that a recipe can be checked by it."""

from pathlib import Path

FOLDER = "critic"  # beside the policy's own files
CONFIG_FILE, HEAD_FILE = "critic_config.json", "value_head.safetensors"


def saved_critic(name: str | None) -> Path | None:
    """Return the folder of a saved critic that a name means: itself, or the one inside a policy's folder."""
    for folder in (Path(name).expanduser(), Path(name).expanduser() / FOLDER) if name else ():
        if (folder / CONFIG_FILE).is_file():
            return folder
    return None
