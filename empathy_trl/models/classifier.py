"""Models that score text: classifiers and regressors, which have a head, and bi-encoders, which compare vectors.

`load_classifier` loads a trained one, as a full model or as a LoRA adapter. It refuses a model whose head is untrained.

`new_classifier` creates one for `task: regress` and `task: classify`: an encoder with a new head. The encoder is
pretrained (a Hub id or a folder, such as roberta-base) or built from scratch, as a small RoBERTa with a tokenizer
trained on the texts of the stage. The config of the model describes its outputs, see `label_schema`.

A bi-encoder gives each text a vector, so that two texts are as similar as the cosine of their vectors. sentence-transformers
saves it as an encoder without a head. The file `modules.json` beside it lists what computes the vector: the encoder, the
pooling of its hidden states, and usually a normalisation, which does not change a cosine. `pooling_modes` reads that file, and
`pool` computes what sentence-transformers computes. The library itself would replace weights that are missing by random ones
with no more than a log message, and would cut long texts without counting them.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from huggingface_hub.errors import EntryNotFoundError
from peft import PeftModel
from peft.utils.save_and_load import load_peft_weights
from tokenizers.processors import TemplateProcessing
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
)

from empathy_trl.errors import UserError
from empathy_trl.io import user_name
from empathy_trl.models.hub_files import (
    ADAPTER_FILE,
    NO_CODE,
    adapter_base,
    check_exists,
    check_weights,
    first_file,
    hub_errors,
    load_tokenizer,
    model_folder,
    one_revision,
    tokenizer_of_adapter,
)
from empathy_trl.models.label_schema import REGRESSION, Targets
from empathy_trl.models.limits import check_vocabulary
from empathy_trl.models.load import loading, with_saved_adapter
from empathy_trl.models.tiny import EOS, build_tokenizer

IN_ADAPTER = "base_model.model."  # what peft puts before the name of a weight
# The last layer, as transformers calls it in its encoders and decoders
HEAD = r"\b(classifier|score|out_proj)\.weight$"
# in the order in which sentence-transformers concatenates them
POOLINGS = {
    "cls": lambda hidden, mask: hidden[:, 0],
    "max": lambda hidden, mask: hidden.masked_fill(mask == 0, -torch.inf).amax(dim=1),
    "mean": lambda hidden, mask: (hidden * mask).sum(dim=1) / mask.sum(dim=1),
    "lasttoken": lambda hidden, mask: hidden[torch.arange(len(hidden)), mask.sum(dim=1).flatten().long() - 1],
}
# how older versions of sentence-transformers wrote them: one switch for each
SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
MODULES = ("Transformer", "Pooling", "Normalize", "Dropout")  # the last two do not change a cosine
GENERATIVE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def check_scorer(name: str, revision: str | None = None) -> None:
    """Raise UserError if a model cannot be found, or is of a kind that `scorer.shared_scorer` does not load; reads no weights.

    Args:
        name, revision: as for `shared_scorer`.
    """
    name, revision = one_revision(user_name(name), revision)
    if pooling_modes(name, revision) is not None:
        return
    with hub_errors(name, revision):
        if first_file(name, revision, [ADAPTER_FILE, "config.json"]).name == ADAPTER_FILE:
            return  # its kind is known once it is on its base
        config = AutoConfig.from_pretrained(model_folder(name), revision=revision, **NO_CODE)
    _refuse_generative(name, config)


def load_classifier(
    name: str, *, revision: str | None = None, dtype: str | torch.dtype = "auto", is_trainable: bool = False
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Load a sequence classification model and its tokenizer.

    Args:
        name: Hub id or folder of a full model, or of a LoRA adapter. An adapter is loaded onto the base that it names. A
            `config.json` beside it describes the outputs; without one, their number is read from the adapter's head.
        revision: branch, tag or commit on the Hub.
        dtype: dtype of the weights; `auto` is that of the files.
        is_trainable: an adapter's weights take gradients; otherwise, the model is loaded whole, see `load.loading`.

    Returns:
        The model (a `PeftModel` where the source is an adapter) and its tokenizer, which pads on the right.

    Raises:
        UserError: the model cannot be found, reached or read; it is a generative model; or some of its weights are
            missing (`AutoModelForSequenceClassification` silently puts a random head on a base model), or the embedding
            of a token.
    """
    name = user_name(name)
    check_exists(name)
    with hub_errors(name, revision):
        entry = first_file(name, revision, [ADAPTER_FILE, "config.json"])
    with loading(is_trainable):
        if entry.name == ADAPTER_FILE:
            model, tokenizer = _load_adapter(name, revision, entry, dtype, is_trainable)
        else:
            model, tokenizer = _load_whole(name, revision, dtype)
    if model.config.pad_token_id is None:  # decoders find the end of a text by it
        model.config.pad_token_id = tokenizer.pad_token_id
    _read_activation(name, revision, model.config)
    check_vocabulary(model, tokenizer, name)
    return model, tokenizer


def _load_whole(name: str, revision: str | None, dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a model that is not an adapter, and its tokenizer."""
    with hub_errors(name, revision):
        config = AutoConfig.from_pretrained(model_folder(name), revision=revision, **NO_CODE)
    _refuse_generative(name, config)
    model, report = _load_full(name, revision, config, dtype)
    _check_head(name, report["missing_keys"])
    check_weights(name, report)
    return model, _load_tokenizer(name, revision, model.config)


def _load_full(name: str, revision: str | None, config, dtype) -> tuple[PreTrainedModel, dict]:
    """Return a model that is not an adapter, and what transformers reports about its weights."""
    with hub_errors(name, revision):
        try:
            # Weights of another shape are reported like missing ones, instead of as an error without their names.
            return AutoModelForSequenceClassification.from_pretrained(
                model_folder(name),
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
    model = with_saved_adapter(model, name, revision, is_trainable=is_trainable)
    return model, _load_tokenizer(*tokenizer_of_adapter(name, revision, base, base_revision), model.config)


def _load_tokenizer(name: str, revision: str | None, config) -> PreTrainedTokenizerBase:
    """Load a classifier's tokenizer, with padding on the right regardless of the saved side.

    With padding on the left, the output of a model with learned positions (GPT-2, BERT) for a text depends on the length of the
    other texts in the batch. XLNet has no learned positions, and its head reads the last position.
    """
    return load_tokenizer(name, revision, **({} if config.model_type == "xlnet" else {"padding_side": "right"}))


def _adapter_config(name: str, revision: str | None, base: str, base_revision: str | None, brought: dict):
    """Return the config for an adapter's base: the adapter's own, or the base's with as many outputs as its head."""
    with hub_errors(name, revision):
        try:
            first_file(name, revision, ["config.json"])
            return AutoConfig.from_pretrained(name, revision=revision, **NO_CODE)
        except EntryNotFoundError:
            pass
    with hub_errors(base, base_revision):
        config = AutoConfig.from_pretrained(model_folder(base), revision=base_revision, **NO_CODE)
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
            "`task: regress` or `task: classify`, or name a model that has one; or, for a similarity, a bi-encoder with its modules.json"
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


# RoBERTa counts positions from the padding token's id + 1, which is 0 + 1 in our tokenizers
FIRST_POSITION = 1
DROPOUT = 0.2  # a few thousand short texts are learned by heart without it


def new_classifier(
    config, targets: Targets, *, seed: int, texts: Iterable[str] = ()
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return an encoder with a fresh head for the targets, and its tokenizer (padding on the right).

    Args:
        config: has the attributes of `recipe.Model`; `config.lora` is not applied here.
        targets: what the head puts out.
        seed: of the weights that are made here: of all of them, or of the head.
        texts: training texts for the tokenizer of a model from scratch.

    Raises:
        UserError: the model cannot be found or read, or is none that takes a head.
    """
    if config.from_scratch is None:
        return _on_pretrained(config, targets, seed)
    scratch = config.from_scratch
    tokenizer = build_encoder_tokenizer(texts, scratch.vocab_size, scratch.max_length)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(
            encoder_config(scratch, tokenizer, targets), dtype=torch.float32
        )
    return model, tokenizer


def _on_pretrained(config, targets: Targets, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder and its tokenizer; only the head may be new."""
    name, revision = user_name(config.name_or_path), config.revision
    check_exists(name)
    options = {"revision": revision, "dtype": config.dtype}
    if config.attn_implementation is not None:
        options["attn_implementation"] = config.attn_implementation
    with hub_errors(name, revision):
        first_file(name, revision, ["config.json"])
        folder = model_folder(name)
        shape = AutoConfig.from_pretrained(folder, revision=revision, **NO_CODE)
        tokenizer = _load_tokenizer(name, revision, shape)
        if type(shape) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            raise UserError(
                f"{name}: a {shape.model_type} model takes no classification head; expected an encoder such as roberta-base"
            )
        targets.write(shape)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model, report = AutoModelForSequenceClassification.from_pretrained(
                folder, config=shape, output_loading_info=True, ignore_mismatched_sizes=True, **NO_CODE, **options
            )
    body = f"{model.base_model_prefix}."
    wrong = [key for key in sorted(report["missing_keys"]) if key.startswith(body) and ".pooler." not in key]
    if wrong:
        raise UserError(f"{name}: the weights do not fit config.json: {', '.join(wrong[:3])} missing")
    model.name_or_path, model.config.pad_token_id = name, tokenizer.pad_token_id
    check_vocabulary(model, tokenizer, name)
    return model, tokenizer


def build_encoder_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerBase:
    """Train the byte-level BPE tokenizer of `tiny.py` and let it mark the beginning of a text, and both of a pair.

    RoBERTa's head reads the first position, which therefore has to be the same token in every text.
    """
    tokenizer = build_tokenizer(texts, vocab_size, max_length=max_length)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{EOS} $A", pair=f"{EOS} $A {EOS} $B", special_tokens=[(EOS, tokenizer.eos_token_id)]
    )
    tokenizer.cls_token = tokenizer.sep_token = EOS
    tokenizer.padding_side, tokenizer.chat_template = "right", None
    return tokenizer


def encoder_config(from_scratch, tokenizer: PreTrainedTokenizerBase, targets: Targets) -> RobertaConfig:
    """Return the configuration of a small RoBERTa with the targets as its outputs."""
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=from_scratch.hidden_size,
        intermediate_size=2 * from_scratch.hidden_size,
        num_hidden_layers=from_scratch.layers,
        num_attention_heads=from_scratch.heads,
        max_position_embeddings=from_scratch.max_length + FIRST_POSITION,
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    targets.write(config)
    return config


def pooling_modes(name: str, revision: str | None) -> list[str] | None:
    """Return the keys of `POOLINGS` by which a model pools, or None for a model that is not a bi-encoder.

    Args:
        name: folder or Hub id.
        revision: branch, tag or commit on the Hub.

    Raises:
        UserError: the model cannot be found or read, or is one of sentence-transformers that this package cannot compute.
    """
    check_exists(name)
    with hub_errors(name, revision):
        if first_file(name, revision, [ADAPTER_FILE, "config.json"]).name == ADAPTER_FILE:
            return None
        config = AutoConfig.from_pretrained(model_folder(name), revision=revision, **NO_CODE)
        if any(each.endswith("ForSequenceClassification") for each in config.architectures or ()):
            return None  # newer cross-encoders have a modules.json, too
        modules = _read_json(name, revision, "modules.json")
        if modules is None:
            return None
        kind = (_read_json(name, revision, "config_sentence_transformers.json") or {}).get(
            "model_type", "SentenceTransformer"
        )
        folders = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
        others = [each for each in folders if each not in MODULES]
        if kind != "SentenceTransformer" or others or "Pooling" not in folders:
            what = f"is a {kind}" if kind != "SentenceTransformer" else f"consists of {', '.join(folders)}"
            raise UserError(
                f"{name}: {what} (modules.json); expected a bi-encoder made of Transformer and Pooling, or a model with a trained "
                "head for sequence classification"
            )
        pooling = json.loads(
            first_file(name, revision, [f"{folders['Pooling']}/config.json"]).read_text(encoding="utf-8")
        )
        modes = pooling.get("pooling_mode") or [mode for switch, mode in SWITCHES.items() if pooling.get(switch)]
    modes = [modes] if isinstance(modes, str) else list(modes) or ["mean"]
    if unknown := [mode for mode in modes if mode not in POOLINGS]:
        raise UserError(
            f"{name}: {folders['Pooling']}/config.json pools by {unknown[0]!r} (choices: {', '.join(POOLINGS)})"
        )
    return modes


def load_bi_encoder(
    name: str, revision: str | None, dtype: str | torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the encoder of a bi-encoder, and its tokenizer, which pads on the right.

    The config describes the one output of a pair of texts, `cosine`, whose range of labels is [0, 1]: vectors of unrelated
    texts are about orthogonal, and a cosine below 0 says no more.

    Args:
        name, revision: of a model for which `pooling_modes` returns some.
        dtype: of the weights.

    Raises:
        UserError: it cannot be read, or some of its weights are missing.
    """
    with hub_errors(name, revision), loading(is_trainable=False):
        # Weights of another shape are reported like missing ones, instead of as an error without their names.
        model, report = AutoModel.from_pretrained(
            name, revision=revision, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **NO_CODE
        )
        settings = _read_json(name, revision, "sentence_bert_config.json") or {}
    # BERT's own pooler reads the first token; its output is not used
    report["missing_keys"] = {key for key in report["missing_keys"] if not key.startswith("pooler.")}
    check_weights(name, report)
    model.config.text_max_length = settings.get("max_seq_length")
    model.config.compares_texts, model.config.problem_type = True, REGRESSION
    model.config.id2label, model.config.label_ranges = {0: "cosine"}, {"cosine": [0.0, 1.0]}
    return model, load_tokenizer(name, revision, padding_side="right")


def pool(hidden: torch.Tensor, mask: torch.Tensor, modes: list[str]) -> torch.Tensor:
    """Return one vector of length 1 per text, float32 of shape (texts, modes × width).

    Args:
        hidden: last hidden states, of shape (texts, tokens, width).
        mask: 1 for a token and 0 for the padding behind a text, of shape (texts, tokens).
        modes: keys of `POOLINGS`, whose vectors are concatenated.
    """
    hidden, mask = hidden.float(), mask.unsqueeze(-1).float()
    pooled = torch.cat([POOLINGS[mode](hidden, mask) for mode in modes], dim=1)
    return torch.nn.functional.normalize(pooled, dim=1)


def _read_json(name: str, revision: str | None, filename: str):
    """Return the content of a JSON file of a model, None if it has no such file."""
    try:
        return json.loads(first_file(name, revision, [filename]).read_text(encoding="utf-8"))
    except EntryNotFoundError:
        return None
