"""New models for `task: regress` and `task: classify`: an encoder with a head that is still to be trained.

The encoder is pretrained (a Hub id or a folder, such as roberta-base) or made from nothing, in the shape of RoBERTa and
with a tokenizer trained on the stage's own texts. What such a model puts out is described in its config, see
`outputs.py`. Trained models are loaded by `classifiers.py`, which refuses one whose head is as new as the heads made
here.
"""

from collections.abc import Iterable

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
)

from empathy_trl.errors import UserError
from empathy_trl.hub import NO_CODE, check_exists, expand, first_file, hub_errors, load_tokenizer
from empathy_trl.outputs import Targets
from empathy_trl.scratch import EOS, build_tokenizer

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
    name, revision = expand(config.name_or_path), config.revision
    check_exists(name)
    options = {"revision": revision, "dtype": config.dtype}
    if config.attn_implementation is not None:
        options["attn_implementation"] = config.attn_implementation
    with hub_errors(name, revision):
        first_file(name, revision, ["config.json"])
        tokenizer = load_tokenizer(name, revision)
        shape = AutoConfig.from_pretrained(name, revision=revision, **NO_CODE)
        if type(shape) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            raise UserError(
                f"{name}: a {shape.model_type} model takes no classification head; expected an encoder such as roberta-base"
            )
        targets.write(shape)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model, report = AutoModelForSequenceClassification.from_pretrained(
                name, config=shape, output_loading_info=True, ignore_mismatched_sizes=True, **NO_CODE, **options
            )
    body = f"{model.base_model_prefix}."
    wrong = [key for key in sorted(report["missing_keys"]) if key.startswith(body) and ".pooler." not in key]
    if wrong:
        raise UserError(f"{name}: the weights do not fit config.json: {', '.join(wrong[:3])} missing")
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def build_encoder_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerBase:
    """Train the byte-level BPE tokenizer of `scratch.py` and let it mark the beginning of a text, and both of a pair.

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
