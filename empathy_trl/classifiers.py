"""Load a model with a head that scores text: a classifier or a regressor, as a full model or as a LoRA adapter.

What its outputs mean is in `outputs.py`.
"""

import json
import re
import warnings
from pathlib import Path

import torch
from huggingface_hub.errors import EntryNotFoundError
from peft import PeftModel
from peft.utils.save_and_load import load_peft_weights
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from empathy_trl.errors import UserError
from empathy_trl.hub import (
    ADAPTER_FILE,
    NO_CODE,
    adapter_base,
    check_exists,
    check_weights,
    expand,
    first_file,
    hub_errors,
    load_tokenizer,
    tokenizer_of_adapter,
)

IN_ADAPTER = "base_model.model."  # what peft puts before the name of a weight
# The last layer, as transformers calls it in its encoders and decoders
HEAD = r"\b(classifier|score|out_proj)\.weight$"
GENERATIVE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def load_classifier(
    name: str, *, revision: str | None = None, dtype: str | torch.dtype = "auto", is_trainable: bool = False
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Load a sequence classification model and its tokenizer.

    Args:
        name: Hub id or folder of a full model, or of a LoRA adapter. An adapter is put on the base that it names; a
            `config.json` beside it describes the outputs, else their number is read from the adapter's own head.
        revision: branch, tag or commit on the Hub.
        dtype: of the weights; `auto` is that of the files.
        is_trainable: an adapter's weights take gradients.

    Returns:
        The model (a `PeftModel` where the source is an adapter) and its tokenizer, which pads as it was saved.

    Raises:
        UserError: the model cannot be found, reached or read; it is a generative model; or some of its weights are in
            no file (`AutoModelForSequenceClassification` puts a random head on a base model without a word).
    """
    name = expand(name)
    check_exists(name)
    with hub_errors(name, revision):
        entry = first_file(name, revision, [ADAPTER_FILE, "config.json"])
    if entry.name == ADAPTER_FILE:
        model, tokenizer = _load_adapter(name, revision, entry, dtype, is_trainable)
    else:
        with hub_errors(name, revision):
            config = AutoConfig.from_pretrained(name, revision=revision, **NO_CODE)
        _refuse_generative(name, config)
        model, report = _load_full(name, revision, config, dtype)
        _check_head(name, report["missing_keys"])
        check_weights(name, report)
        tokenizer = load_tokenizer(name, revision)
    if model.config.pad_token_id is None:  # decoders find the end of a text by it
        model.config.pad_token_id = tokenizer.pad_token_id
    _read_activation(name, revision, model.config)
    return model, tokenizer


def _load_full(name: str, revision: str | None, config, dtype) -> tuple[PreTrainedModel, dict]:
    """Return a model that is not an adapter, and what transformers reports about its weights."""
    with hub_errors(name, revision):
        try:
            # Weights of another shape are reported like missing ones, instead of as an error without their names.
            return AutoModelForSequenceClassification.from_pretrained(
                name,
                revision=revision,
                config=config,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **NO_CODE,
            )
        except (ImportError, ValueError) as error:  # such as an architecture for which transformers has no such head
            raise UserError(f"{name}: cannot be loaded as a classifier or regressor: {error}") from error


def _load_adapter(
    name: str, revision: str | None, adapter_file: Path, dtype, is_trainable: bool
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Return an adapter on its base, whose head it must bring, and the tokenizer beside it (or the base's)."""
    with hub_errors(name, revision):
        base, base_revision = adapter_base(adapter_file, name)
        brought = load_peft_weights(name, device="cpu", revision=revision)
    check_exists(base)
    config = _adapter_config(name, revision, base, base_revision, brought)
    model, report = _load_full(base, base_revision, config, dtype)
    made_up = report["missing_keys"] | {key for key, *_ in report["mismatched_keys"]}
    _check_head(name, {key for key in made_up if IN_ADAPTER + key not in brought})
    with hub_errors(name, revision), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            model = PeftModel.from_pretrained(model, name, revision=revision, is_trainable=is_trainable)
        except UserWarning as error:
            raise UserError(f"{name}: the adapter's weights do not fit {ADAPTER_FILE}: {error}") from error
    return model, load_tokenizer(*tokenizer_of_adapter(name, revision, base, base_revision))


def _adapter_config(name: str, revision: str | None, base: str, base_revision: str | None, brought: dict):
    """Return the config for an adapter's base: the adapter's own, or the base's with as many outputs as its head."""
    with hub_errors(name, revision):
        try:
            first_file(name, revision, ["config.json"])
            return AutoConfig.from_pretrained(name, revision=revision, **NO_CODE)
        except EntryNotFoundError:
            pass
    with hub_errors(base, base_revision):
        config = AutoConfig.from_pretrained(base, revision=base_revision, **NO_CODE)
    heads = [weight for key, weight in brought.items() if re.search(HEAD, key)]
    if heads and len(heads[0]) != config.num_labels:
        config.num_labels = len(heads[0])
    return config


def _refuse_generative(name: str, config) -> None:
    for architecture in config.architectures or ():
        if architecture.endswith(GENERATIVE):
            raise UserError(
                f"{name}: is a generative model ({architecture}) without a classification head; expected a model trained "
                "with `task: regress` or `task: classify`, or another one for sequence classification"
            )


def _check_head(name: str, missing: set[str]) -> None:
    """Raise UserError if there are weights that transformers had to make up."""
    if missing:
        shown = ", ".join(sorted(missing)[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        raise UserError(
            f"{name}: has no trained head: {shown} are in none of its files and would be random; train one with "
            "`task: regress` or `task: classify`, or name a model that has one"
        )


def _read_activation(name: str, revision: str | None, config) -> None:
    """Copy the activation function of a newer sentence-transformers cross-encoder from its own file to the config."""
    if config.to_dict().get("sentence_transformers"):
        return
    with hub_errors(name, revision):
        try:
            file = first_file(name, revision, ["config_sentence_transformers.json"])
        except EntryNotFoundError:
            return
        config.sentence_transformers = json.loads(file.read_text(encoding="utf-8"))
