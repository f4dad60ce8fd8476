"""From the `model:` part of a recipe to a model and its tokenizer.

There are three sources: from scratch (see `scratch.py`), a full model (Hub id or local folder), and a LoRA
adapter (Hub id or local folder), which is put on the base model that it names and stays an adapter: not
merged, so that training can go on and the base can be shared. A quantised base is loaded in 4 bits (QLoRA).

Whatever can go wrong on the way to a file (a mistyped folder, a gated model, no network) or in it (cut off,
another format, weights that are not there) ends in a `UserError` that names the model; see `hub_errors`.
"""

import importlib.util
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from peft import LoraConfig, PeftModel, TaskType
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from empathy_trl.errors import UserError
from empathy_trl.scratch import build_model, build_tokenizer

__all__ = ["build_model", "build_tokenizer", "check_tags", "load_model", "lora_config"]

ADAPTER_FILE = "adapter_config.json"
# The vocabulary is in one of these; without any, transformers makes a tokenizer that turns every text into nothing.
VOCABULARY_FILES = [
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
]


def load_model(
    config,
    *,
    seed: int,
    texts: Iterable[str] | None = None,
    tags: Sequence[str] = (),
    is_trainable: bool = True,
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Load or build a causal or encoder-decoder language model and its tokenizer (padding on the left).

    Args:
        config: has the attributes of `recipe.Model`; a `stage:` name is already replaced by the folder of
            that stage. `config.lora` is not applied here: trainers take `lora_config(config.lora)` beside the
            model.
        seed: of the initial weights of a model from scratch.
        texts: training texts for the tokenizer of a model from scratch.
        tags: names of the tags that a model from scratch gets as tokens; for a pretrained model they are
            plain text.
        is_trainable: an adapter's weights take gradients. Give such a model to a trainer without a
            `peft_config`.

    Returns:
        The model (a `PeftModel` where the source is an adapter; float32 on the CPU where it is from scratch)
        and its tokenizer.

    Raises:
        UserError: the model cannot be found, reached or read, or an optional package is missing.
    """
    if config.from_scratch is not None:
        return _from_scratch(config, seed, texts, tags)

    name, revision = expand(config.name_or_path), config.revision
    check_exists(name)
    with hub_errors(name, revision):
        entry = first_file(name, revision, [ADAPTER_FILE, "config.json"])
    if entry.name != ADAPTER_FILE:
        return _load_full(config, name, revision), _load_tokenizer(name, revision)

    with hub_errors(name, revision):
        base, base_revision = adapter_base(entry, name)
    model = _load_full(config, base, base_revision)
    with hub_errors(name, revision):
        model = PeftModel.from_pretrained(model, name, revision=revision, is_trainable=is_trainable)
        try:  # a trainer saves the tokenizer beside the adapter; one saved by hand may lack it
            first_file(name, revision, ["tokenizer_config.json"])
        except EntryNotFoundError:
            return model, _load_tokenizer(base, base_revision)
    return model, _load_tokenizer(name, revision)


def lora_config(lora, task_type: str = TaskType.CAUSAL_LM) -> LoraConfig | None:
    """Translate the `lora:` part of a recipe (`recipe.Lora`) for peft; None stays None (full fine-tuning).

    Args:
        lora: None or the section.
        task_type: of peft; with `SEQ_CLS` the head is trained in full and saved with the adapter.
    """
    if lora is None:
        return None
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type=task_type,
    )


def check_tags(tags_of_rewards: dict[str, Sequence[str]], tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tag that a reward looks for and that the tokenizer holds as a special token.

    Trainers decode completions with `skip_special_tokens=True`: such a tag would be gone before the reward
    sees it.

    Args:
        tags_of_rewards: name of a reward -> names of the tags it looks for, such as `answer`.
        tokenizer: of the policy.

    Raises:
        UserError: names the first such token and its reward.
    """
    special = set(tokenizer.all_special_tokens)
    for reward, tags in tags_of_rewards.items():
        for token in (token for tag in tags for token in (f"<{tag}>", f"</{tag}>")):
            if token in special:
                raise UserError(
                    f"rewards.{reward}: the tag {token} is a special token of this tokenizer, so it is gone "
                    "from every completion before a reward sees it; add it as an ordinary token "
                    "(tokenizer.add_tokens), or choose another tag"
                )


def _from_scratch(config, seed: int, texts: Iterable[str] | None, tags: Sequence[str]):
    """Train a tokenizer on the texts and build a random model for it."""
    if texts is None:
        raise UserError("model.from_scratch: needs training texts to build a tokenizer from")
    if config.load_in_4bit:
        raise UserError("model.load_in_4bit: only a pretrained model (model.name_or_path) can be quantised")
    scratch = config.from_scratch
    tokenizer = build_tokenizer(texts, scratch.vocab_size, tags, scratch.max_length)
    model = build_model(scratch, tokenizer, seed)
    if config.dtype != "auto":
        model.to(getattr(torch, config.dtype))
    if config.attn_implementation is not None:
        try:
            model.set_attn_implementation(config.attn_implementation)
        except (ImportError, ValueError) as error:
            raise UserError(f"model.attn_implementation: {error}") from error
    return model, tokenizer


def _load_full(config, name: str, revision: str | None) -> PreTrainedModel:
    """Load a model that is not an adapter."""
    options = {"revision": revision, "dtype": config.dtype}
    if config.attn_implementation is not None:
        options["attn_implementation"] = config.attn_implementation
    if config.load_in_4bit:
        options["quantization_config"] = _four_bits()
    check_exists(name)
    with hub_errors(name, revision):
        first_file(name, revision, ["config.json"])  # its errors are clearer than those of transformers
        try:
            architecture = AutoConfig.from_pretrained(name, revision=revision)
        except (ImportError, ValueError) as error:  # an unknown architecture
            raise UserError(f"{name}: cannot be loaded: {error}") from error
        _refuse_classifier(name, architecture)
        try:
            auto = AutoModelForSeq2SeqLM if architecture.is_encoder_decoder else AutoModelForCausalLM
            # Weights of another shape are reported like missing ones, instead of as an error without their names.
            model, report = auto.from_pretrained(
                name, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
        except (ImportError, ValueError) as error:  # no flash attention, impossible option
            raise UserError(f"{name}: cannot be loaded: {error}") from error
    check_weights(name, report)
    if config.load_in_4bit:
        _keep_trainable(model)
    return model


def _refuse_classifier(name: str, config) -> None:
    for architecture in config.architectures or ():
        if architecture.endswith("ForSequenceClassification"):
            raise UserError(
                f"{name}: is a classifier or regressor ({architecture}), which generates no text; expected a language "
                "model here, or a stage with `task: regress` or `task: classify` (evaluate.py: --stage)"
            )


def check_weights(name: str, report: dict) -> None:
    """Refuse a model of which transformers made up weights at random, because it did not find them in the files.

    Args:
        name: of the model.
        report: of transformers (`output_loading_info`); tied weights, which are stored once, do not count there.

    Raises:
        UserError: names the first three such weights.
    """
    wrong = [f"{key} (missing)" for key in sorted(report["missing_keys"])]
    wrong += [
        f"{key} ({list(stored)} in the file, {list(expected)} by config.json)"
        for key, stored, expected in sorted(report["mismatched_keys"])
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"{name}: the weights do not fit config.json: {', '.join(wrong[:3])}{more}")


def _four_bits() -> BitsAndBytesConfig:
    """QLoRA's quantisation: 4-bit NormalFloat, computed in bfloat16, the constants quantised too."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            'model.load_in_4bit: needs bitsandbytes; install it with pip install "empathy-trl[quantization]"'
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _keep_trainable(model: PreTrainedModel) -> None:
    """Stop bitsandbytes from repacking 4-bit weights at the first forward in evaluation mode on some CPUs.

    It does so for speed where the CPU has AVX512-BF16, and never undoes it: a later training step would then get no
    gradients through these layers, without a word.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _load_tokenizer(name: str, revision: str | None) -> PreTrainedTokenizerBase:
    """Load a tokenizer that pads on the left, as generation needs; a missing pad token is the end token."""
    with hub_errors(name, revision):
        first_file(name, revision, VOCABULARY_FILES)
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, padding_side="left")
    if tokenizer.chat_template is None:
        raise UserError(
            f"{name}: the tokenizer has no chat template (no file chat_template.jinja, no chat_template in "
            "tokenizer_config.json), and every recipe prompts by chat; expected an instruction-tuned model"
        )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"{name}: the tokenizer has neither a pad nor an end-of-sequence token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def expand(name: str) -> str:
    """Return a local path with its `~` resolved; a Hub id unchanged."""
    return os.path.expanduser(name)


def _looks_local(name: str) -> bool:
    """Whether a name that is no folder was meant to be one; a Hub id reads `name` or `owner/name`."""
    return name.startswith((".", "/", "~", "outputs/", "stage:")) or name.count("/") > 1


def check_exists(name: str) -> None:
    """Raise UserError if a name can only mean a local folder and there is none; the Hub is not asked."""
    if Path(name).is_file():
        raise UserError(f"{name}: is a file; expected the folder of a model")
    if not Path(name).is_dir() and _looks_local(name):
        raise UserError(f"{name}: no such folder; expected the folder of a model, or a Hub id such as owner/name")


def first_file(name: str, revision: str | None, filenames: Sequence[str]) -> Path:
    """Return the first of some files that a folder or Hub repository has.

    Raises:
        EntryNotFoundError: it has none of them.
        OSError, HFValidationError, httpx.HTTPError: the repository does not exist or cannot be reached.
    """
    folder = Path(name)
    if folder.is_dir():
        for filename in filenames:
            if (folder / filename).is_file():
                return folder / filename
        content = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
        raise EntryNotFoundError(f"expected {' or '.join(filenames)}, found {content}")
    for filename in filenames:
        try:
            return Path(hf_hub_download(name, filename, revision=revision))
        except EntryNotFoundError as error:  # not in the repository, or (offline) not in the cache
            missing = error
    raise missing


def adapter_base(adapter_file: Path, name: str) -> tuple[str, str | None]:
    """Return the name and the revision of the base model of an adapter."""
    try:
        adapter = json.loads(adapter_file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{name}: {ADAPTER_FILE} is not valid JSON: {error}") from error
    base = adapter.get("base_model_name_or_path")
    if not base:
        raise UserError(f"{name}: {ADAPTER_FILE} names no base model (base_model_name_or_path is empty)")
    return expand(base), adapter.get("revision")


@contextmanager
def hub_errors(name: str, revision: str | None) -> Iterator[None]:
    """Turn what transformers, peft and the Hub raise about a model into a `UserError` with the way out.

    The libraries do not check what is in a file before they use it: any of the last group is how they say that a
    file is cut off (`ValueError`, of which JSON's is one) or holds something else than they expect.
    """
    try:
        yield
    except UserError:  # also a ValueError
        raise
    except (OSError, EntryNotFoundError, HFValidationError, httpx.HTTPError, SafetensorError) as error:
        raise UserError(_explain(name, revision, error)) from error
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise UserError(f"{name}: cannot be read: {type(error).__name__}: {error}") from error


def _explain(name: str, revision: str | None, error: BaseException) -> str:
    """Say what is wrong. transformers wraps the Hub's errors in an OSError, so its causes count too."""
    causes = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__

    def any_is(*types: type[BaseException]) -> bool:
        return any(isinstance(cause, types) for cause in causes)

    login = "run `hf auth login`, or name a local folder instead"
    if any_is(SafetensorError) or Path(name).is_dir():
        return f"{name}: cannot be read: {error}"
    if any_is(HFValidationError):
        return f"{name}: neither an existing folder nor a valid Hub id (owner/name)"
    if any_is(GatedRepoError):
        return f"{name}: gated model; accept the licence on https://huggingface.co/{name} and {login}"
    if any_is(RepositoryNotFoundError):
        return f"{name}: no such local folder and no such model on the Hub; if it is private, {login}"
    if any_is(RevisionNotFoundError):
        return f"{name}: no revision {revision!r} of this model on the Hub"
    if any_is(RemoteEntryNotFoundError):
        return f"{name}: not a model that transformers can load: {error}"
    if any_is(LocalEntryNotFoundError, ConnectionError, httpx.HTTPError):
        return (
            f"{name}: not in the local cache, and the Hub cannot be reached; connect and, "
            f"if the model is gated or private, {login}"
        )
    return f"{name}: cannot be loaded: {error}"
