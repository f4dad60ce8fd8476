"""GGUF files, the format of llama.cpp: `converted` turns one into an ordinary model folder, which all loaders then read.

transformers reads the weights, dequantises them, and derives most of the config. What it leaves out or gets wrong is corrected
here from the file's metadata (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md):

* special tokens: it takes the start token for the end token;
* byte-level BPE: it cuts all texts as GPT-2 does, and forgets which tokens are not cut at all. The tokenizer is built anew, see
  `PRE_TOKENIZERS`;
* positions of Llama 3.1 and later, and those scaled linearly or by YaRN: it leaves the scaling out.

The folder is written once, into `$EMPATHY_TRL_CACHE/gguf` (`~/.cache/empathy_trl/gguf` by default), under a name that is a
hash of the file's content. Weights are kept in float32, as that holds every quantised number exactly; those of a file in bfloat16
stay as they are.
"""

import hashlib
import importlib.util
import logging
import math
import re
import struct
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers
from huggingface_hub.utils import WeakFileLock
from safetensors import SafetensorError
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.integrations.gguf import GGUF_ARCHS
from transformers.integrations.gguf.dequant import GGML_NAME
from transformers.integrations.gguf.reader import _mapped, _read_metadata, _read_tensor_table
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from empathy_trl.errors import UserError, suggestion
from empathy_trl.io import cache_folder, digest, user_path
from empathy_trl.models.hub_files import NO_CODE, check_exists, check_weights, hub_errors, load_tokenizer
from empathy_trl.models.load import whole_weights

logger = logging.getLogger(__name__)

CONVERSION = 1  # to be raised when what is written changes; older folders are then not used any more
ENCODERS = ("bert", "nomic-bert", "jina-bert-v2", "modern-bert", "t5encoder", "clip")
ENCODER_DECODERS = ("t5", "umt5")
# architectures that transformers calls otherwise than the files
NAMES = {"qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "gpt_oss": "gpt-oss", "minimax_m2": "minimax-m2"}
ARRAYS = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
CONTROL, USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type: a special token, and another one that is never cut
SPECIAL_TOKENS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
F32, F16, BF16 = 0, 1, 30  # numbers of types of tensors
LLAMA3_POSITIONS = {  # of all models since Llama 3.1
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

# A text is cut into words, numbers and signs before its bytes are merged; families differ in how many digits stay together
# and in whether marks such as combining accents belong to words.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[LETTERS]+|\p{N}{1,DIGITS}| ?[^\sLETTERS\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _words(digits: int, letters: str = r"\p{L}"):
    pattern = Regex(WORDS.replace("LETTERS", letters).replace("DIGITS", str(digits)))
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), as_bytes])


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
SINGLE_DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])
QWEN = ("qwen2", "deepseek-r1-qwen", "qwen35")  # normalise a text (NFC)
LLAMA3 = ("llama-bpe", "llama3", "llama-v3", "falcon3")  # begin a text with bos; do not merge what is a token
# tokenizer.ggml.pre of byte-level BPE -> how it cuts a text
PRE_TOKENIZERS = {
    **dict.fromkeys(("gpt-2", "gpt2", "phi-2"), GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), SINGLE_DIGITS),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _words(digits=1)),
    "qwen35": _words(digits=1, letters=r"\p{L}\p{M}"),
    **dict.fromkeys(LLAMA3, _words(digits=3)),
}
# of files that do not say, which are older than 2024
BY_ARCHITECTURE = {"qwen2": "qwen2", "gpt2": "gpt-2"}
PROBE = "It's 2024: 3,141 steps — naïve?\n\n  I'M\tglad (she'd said 12345)!"


class Header(NamedTuple):
    """What a GGUF file says before its weights.

    Attributes:
        metadata: key -> value.
        tensors: (name, shape, number of its type, offset in bytes) of each.
        data: bytes in front of the first tensor.
        blob: the file as bytes, which are read when they are used.
    """

    metadata: dict
    tensors: list[tuple]
    data: int
    blob: np.ndarray


def converted(file: Path) -> Path:
    """Return the folder of the model in a GGUF file; the folder is written when the file is used for the first time.

    Several processes may ask at once: one of them writes, the others wait.

    Raises:
        UserError: see `check` and `convert`; or there is no room for the folder.
    """
    folder = place(file)
    if folder.is_dir():
        return folder
    check(file)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(f"{folder}.lock"):
            if not folder.is_dir():
                print(f"{file}: is converted once, into {folder}", flush=True)
                with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as work:
                    convert(file, Path(work) / "model")
                    (Path(work) / "model").rename(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{file}: cannot be converted into {folder}: {error}; EMPATHY_TRL_CACHE names another place for such folders"
        ) from error
    return folder


def place(file: Path) -> Path:
    """Return where the folder of a GGUF file is, or will be."""
    state = file.stat()
    return user_path(cache_folder("gguf")) / f"{file.stem}-{_content(file, state.st_size, state.st_mtime_ns)}"


@lru_cache
def _content(file: Path, size: int, time: int) -> str:
    """Return a hash of a file's content and of what converts it."""
    with file.open("rb") as opened:
        content = hashlib.file_digest(opened, "sha256").hexdigest()
    return digest([content, transformers.__version__, CONVERSION])


def check(file: Path) -> Header:
    """Return what a file says before its weights.

    Raises:
        UserError: the package `gguf` is missing; the file is not GGUF, one of several parts, damaged, of an architecture or a
            quantisation that cannot be read, or no decoder.
    """
    check_exists(str(file))
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f'{file}: needs the package gguf; install it with pip install "empathy-trl[gguf]"')
    header = _read(file)
    parts = header.metadata.get("split.count", 1)
    if parts > 1 or re.search(r"-\d{5}-of-\d{5}\.gguf$", file.name, re.IGNORECASE):
        raise UserError(
            f"{file}: is one of {parts if parts > 1 else 'several'} parts of a model; join them with `llama-gguf-split --merge "
            f"{re.sub(r'-[0-9]{5}-of', '-00001-of', file.name)} whole.gguf`, and name whole.gguf"
        )
    _check_architecture(file, header)
    _check_types(file, header)
    return header


def _read(file: Path) -> Header:
    """Read a file's header."""
    with file.open("rb") as opened:
        start = opened.read(40)
    if not start.startswith(b"GGUF"):
        pointer = start.startswith(b"version https://git-lfs")
        hint = "; it is a pointer of Git LFS: run `git lfs pull`" if pointer else ""
        raise UserError(f"{file}: is not a GGUF file: begins with {start[:16]!r}, expected b'GGUF'{hint}")
    try:
        blob = _mapped(str(file))
        metadata, count, position = _read_metadata(blob, str(file), ARRAYS)
        tensors, end = _read_tensor_table(blob, count, position)
    except (struct.error, ValueError, OverflowError, MemoryError, KeyError) as error:
        why = "" if isinstance(error, struct.error) else f": {error}"  # the bytes end within a number
        raise UserError(
            f"{file}: the GGUF file is broken or cut off ({len(blob):,} bytes){why}; download it again"
        ) from error
    alignment = metadata.get("general.alignment", 32)
    return Header(metadata, tensors, math.ceil(end / alignment) * alignment, blob)


def _check_architecture(file: Path, header: Header) -> None:
    """Raise UserError unless transformers can read the architecture, and it is that of a decoder."""
    name = header.metadata["general.architecture"]
    known = {NAMES.get(each, each) for each in GGUF_SUPPORTED_ARCHITECTURES} | set(GGUF_ARCHS)
    decoders_only = sorted(known - {*ENCODERS, *ENCODER_DECODERS, "general", "tokenizer"})
    if name in ENCODERS or name in ENCODER_DECODERS:
        kind = "an encoder" if name in ENCODERS else "an encoder-decoder"
        raise UserError(
            f"{file}: holds {kind} ({name}); only decoders are read from GGUF files (such as llama or qwen2). Name the folder or "
            "the Hub id of the model instead"
        )
    if name not in decoders_only:
        raise UserError(
            f"{file}: transformers {transformers.__version__} cannot read the architecture {name!r} from GGUF"
            f"{suggestion(name, decoders_only)}; name the folder or the Hub id of the model instead"
        )


def _check_types(file: Path, header: Header) -> None:
    """Raise UserError if a quantisation cannot be read, or the file ends before its last tensor."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize  # an extra

    names = {each.value: each.name for each in GGMLQuantizationType}
    if header.metadata["general.architecture"] in GGUF_ARCHS:
        readable = {F32, F16, BF16, *GGML_NAME}
    else:
        readable = {each for each in names if _can_dequantize(dequantize, GGML_QUANT_SIZES, GGMLQuantizationType(each))}
    used = {kind for _, _, kind, _ in header.tensors}
    if unknown := sorted(used - readable):
        wrong = ", ".join(names.get(each, f"type {each}") for each in unknown)
        choices = ", ".join(names[each] for each in sorted(readable))
        raise UserError(f"{file}: tensors of {wrong} cannot be dequantised (choices: {choices})")
    sizes = {GGMLQuantizationType(each): GGML_QUANT_SIZES[GGMLQuantizationType(each)] for each in used}
    last = max(
        (offset + math.prod(shape) * sizes[kind][1] // sizes[kind][0] for _, shape, kind, offset in header.tensors),
        default=0,
    )
    if header.data + last > len(header.blob):
        raise UserError(
            f"{file}: the GGUF file is cut off: {len(header.blob):,} bytes, expected {header.data + last:,}; download it again"
        )


def _can_dequantize(dequantize, sizes: dict, kind) -> bool:
    try:
        dequantize(np.zeros((1, sizes[kind][1]), dtype=np.uint8), kind)
    except (NotImplementedError, KeyError):
        return False
    return True


@whole_weights()
def convert(file: Path, folder: Path) -> None:
    """Save the model and the tokenizer in a GGUF file as an ordinary folder.

    Raises:
        UserError: see `check`; or its tensors are not those of the model.
    """
    header = check(file)
    config, tokenizer = read(file)
    config._name_or_path = ""
    kinds = {kind for _, _, kind, _ in header.tensors}
    with hub_errors(str(file), None):
        model, report = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.bfloat16 if kinds <= {F32, BF16} and BF16 in kinds else torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **NO_CODE,
        )
    check_weights(str(file), report)
    _check_complete(file, header, model)
    # save_pretrained refuses a model that counts as quantised; the reader has dequantised this one
    model.hf_quantizer = model.is_quantized = None
    config.dtype, config.architectures = model.dtype, [type(model).__name__]
    model.config, model.generation_config = config, GenerationConfig.from_model_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if _cuts(load_tokenizer(str(folder), None)) != _cuts(tokenizer):
        raise UserError(
            f"{file}: its tokenizer cuts texts as {header.metadata.get('tokenizer.ggml.pre')!r} (tokenizer.ggml.pre), but transformers "
            f"cuts those of a {config.model_type} differently; name the folder or the Hub id of the model instead"
        )


def _cuts(tokenizer) -> tuple:
    """Return how a tokenizer cuts a text: into words, if it does so at all, and into tokens."""
    words = tokenizer.backend_tokenizer.pre_tokenizer
    return words and words.pre_tokenize_str(PROBE), tokenizer(PROBE)["input_ids"]


def _check_complete(file: Path, header: Header, model) -> None:
    """Raise UserError if the file has weights that the model has no place for, which the reader would leave out."""
    own = {name: math.prod(shape) for name, shape, *_ in header.tensors if not name.startswith("rope_")}
    more = sum(own.values()) - sum(each.numel() for each in model.parameters())
    if more > 0 and header.metadata["general.architecture"] not in GGUF_ARCHS:  # these leave out a second head
        raise UserError(
            f"{file}: {more:,} of its {sum(own.values()):,} weights have no place in {type(model).__name__} of transformers "
            f"{transformers.__version__}; name the folder or the Hub id of the model instead"
        )


def read(file: Path) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Return config and tokenizer of the model in a GGUF file; its weights are not read, and nothing is written.

    Raises:
        UserError: see `check`; or they cannot be derived from its metadata.
    """
    header = check(file)
    with hub_errors(str(file), None):
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, **NO_CODE)
        config._name_or_path = str(file)
        for key in ("quantization_config", "_model_name_or_path"):
            config.__dict__.pop(key, None)
        for name, key in SPECIAL_TOKENS.items():
            setattr(config, f"{name}_id", header.metadata.get(f"tokenizer.ggml.{key}_token_id"))
        _scale_positions(file, header, config)
        return config, _tokenizer(file, header, config)


def _scale_positions(file: Path, header: Header, config) -> None:
    """Set the scaling of rotary positions, which the reader leaves out."""
    architecture = header.metadata["general.architecture"]
    rope = getattr(config, "rope_parameters", None)
    scaling = f"{architecture}.rope.scaling"
    kind = header.metadata.get(f"{scaling}.type", "none")
    table = next((each for each in header.tensors if each[0] == "rope_freqs.weight"), None)
    if table is not None:
        _, shape, _, offset = table
        start = header.data + offset
        divisors = torch.from_numpy(header.blob[start : start + 4 * shape[0]].view(np.float32).copy())
        config.rope_parameters = LLAMA3_POSITIONS | {
            "rope_theta": rope["rope_theta"],
            "factor": float(divisors.max().round()),
        }
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
        plain = 1 / rope["rope_theta"] ** (torch.arange(0, 2 * len(scaled), 2) / (2 * len(scaled)))
        if not torch.allclose(plain / scaled, divisors, rtol=1e-3):
            raise UserError(f"{file}: its positions are scaled (rope_freqs.weight) otherwise than those of Llama 3")
    elif kind in ("linear", "yarn") and rope and rope.get("rope_type") == "default":
        rope |= {"rope_type": kind, "factor": header.metadata[f"{scaling}.factor"]}
        if kind == "yarn":
            length = header.metadata.get(f"{scaling}.original_context_length", config.max_position_embeddings)
            rope["original_max_position_embeddings"] = length
    elif kind != "none" and (rope or {}).get("rope_type") != kind:
        logger.warning(
            "%s: scales positions (%s), which transformers' reader may leave out; check the replies of the model",
            file,
            kind,
        )


def _tokenizer(file: Path, header: Header, config) -> PreTrainedTokenizerBase:
    """Return the tokenizer. Of byte-level BPE it is built here; of others, transformers' reader builds it, with corrections."""
    metadata, tokens = header.metadata, header.metadata[ARRAYS[0]]
    special = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in SPECIAL_TOKENS.items()}
    special = {name: tokens[number] for name, number in special.items() if number is not None}
    pre = metadata.get("tokenizer.ggml.pre") or BY_ARCHITECTURE.get(metadata["general.architecture"], "default")
    if metadata["tokenizer.ggml.model"] == "gpt2":
        backend = _byte_level_bpe(file, metadata, pre)
    else:
        backend = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, **NO_CODE).backend_tokenizer
    known = backend.get_vocab()  # the reader renames a few tokens
    kinds = zip(tokens, metadata.get("tokenizer.ggml.token_type", ()), strict=False)
    kinds = {token: kind for token, kind in kinds if kind in (CONTROL, USER_DEFINED) and token in known}
    backend.add_tokens([AddedToken(each, normalized=False, special=kind == CONTROL) for each, kind in kinds.items()])
    begins = metadata.get("tokenizer.ggml.add_bos_token", pre in LLAMA3 or metadata["tokenizer.ggml.model"] == "llama")
    begin, end = (begins, "bos_token"), (metadata.get("tokenizer.ggml.add_eos_token", False), "eos_token")
    around = [special[name] if wanted and name in special else None for wanted, name in (begin, end)]
    parts = [[each for each in (around[0], text, around[1]) if each] for text in ("$A", "$B")]
    ids = [(each, tokens.index(each)) for each in around if each]
    backend.post_processor = TemplateProcessing(single=parts[0], pair=parts[0] + parts[1], special_tokens=ids)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=metadata.get("tokenizer.chat_template"),
        model_max_length=config.max_position_embeddings,
        clean_up_tokenization_spaces=False,
        **special,
    )
    again = tokenizer.decode(tokenizer(PROBE, add_special_tokens=False)["input_ids"])
    if again != PROBE:
        logger.warning("%s: its tokenizer changes a text: %r becomes %r", file, PROBE, again)
    return tokenizer


def _byte_level_bpe(file: Path, metadata: dict, pre: str) -> Tokenizer:
    """Return a byte-level BPE tokenizer without its added tokens."""
    if pre not in PRE_TOKENIZERS:
        logger.warning(
            "%s: cuts texts as %r (tokenizer.ggml.pre), which is not known here%s; they are cut as GPT-2 does, and the model may read "
            "other tokens than it was trained with",
            file,
            pre,
            suggestion(pre, PRE_TOKENIZERS),
        )
    vocabulary = {token: number for number, token in enumerate(metadata[ARRAYS[0]])}
    merges = [tuple(merge.split(" ")) for merge in metadata[ARRAYS[1]]]
    backend = Tokenizer(BPE(vocabulary, merges, ignore_merges=pre in LLAMA3))
    if pre in QWEN:
        backend.normalizer = NFC()
    backend.pre_tokenizer = PRE_TOKENIZERS.get(pre, GPT2)
    backend.decoder = decoders.ByteLevel()
    return backend
