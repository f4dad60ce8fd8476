"""Tiny language models from scratch: a tokenizer trained on the texts, and a model with random weights.

With them, a laptop without a GPU and without the Hub runs every stage of every recipe on the real code path. Three
decisions matter for the rest of the package:

* The tokenizer is a byte-level BPE, so any text is reproduced unchanged (in Unicode's composed form, NFC). It is
  trained on the words of the stage's own texts, in which frequent words become one token each (with and without the
  space before them), because fewer tokens per example are the cheapest speed-up for a tiny model. It splits words as
  Qwen's tokenizer does: `AutoTokenizer` opens every tokenizer beside a Qwen2 model with Qwen's class, which keeps the
  vocabulary and replaces everything else, so any other splitting would change silently on reload.
* Tags such as `<reasoning>` become ordinary added tokens: each is one token and survives decoding with
  `skip_special_tokens=True`, which trainers do before they call a reward. Special tokens would be removed, and every
  reward that looks for tags would always be zero.
* A turn of the chat template costs one token (its role), or two for the assistant (role and end). A conversation reads
  `<|user|>How are you?<|assistant|>Fine.<eos>`: the rendered prompt is a prefix of the rendered prompt and completion,
  and a model trained on it learns to stop.
"""

import math
import re
from collections.abc import Iterable, Sequence

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    Gemma2Config,
    GenerationConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    T5Config,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from empathy_trl.errors import UserError
from empathy_trl.tags import tag_marks

PAD, EOS = "<pad>", "<eos>"
ROLES = ("system", "user", "assistant")
SPECIAL_TOKENS = (PAD, EOS, *(f"<|{role}|>" for role in ROLES))
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer(
    texts: Iterable[str], vocab_size: int, tags: Sequence[str] = (), max_length: int = 512
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer; the same texts in the same order give the same tokenizer.

    Args:
        texts: training strings; tags inside them are cut out, not learned as words.
        vocab_size: all tokens together: 256 bytes, 5 special tokens, two per tag, and merges. Texts with
            fewer different pieces than that give a smaller vocabulary.
        tags: names such as `reasoning`; `<reasoning>` and `</reasoning>` become ordinary tokens.
        max_length: tokens the model can read (`model_max_length`).

    Raises:
        UserError: `texts` is empty, or `vocab_size` is too small for the bytes, special tokens and tags.
    """
    tag_tokens = tag_marks(dict.fromkeys(tags))
    smallest = 256 + len(SPECIAL_TOKENS) + len(tag_tokens)
    if vocab_size < smallest:
        raise UserError(
            f"model.from_scratch.vocab_size: {vocab_size} is too small; expected at least {smallest} "
            f"(256 bytes, {len(SPECIAL_TOKENS)} special tokens, {len(tag_tokens)} tag tokens)"
        )
    texts = list(texts)
    if not any(texts):
        raise UserError("model.from_scratch: no training text to build a tokenizer from")

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(tag_tokens),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    pieces = (piece for text in texts for piece in _without(text, [*SPECIAL_TOKENS, *tag_tokens]))
    bpe.train_from_iterator(pieces, trainer)
    bpe.add_tokens([AddedToken(token, normalized=False) for token in tag_tokens])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=PAD,  # bytes leave nothing unknown; unset, Qwen's class would add a token of its own for it
        extra_special_tokens=[f"<|{role}|>" for role in ROLES],
        padding_side="left",
        model_max_length=max_length,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _without(text: str, tokens: Sequence[str]) -> list[str]:
    """Cut the tokens out of a text, as the tokenizer itself does before it splits the rest into words."""
    return [piece for piece in re.split("|".join(map(re.escape, tokens)), text) if piece]


def build_model(from_scratch, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """Build a randomly initialised float32 model; the same seed gives bit-identical weights.

    The global random state is as before afterwards, so that a model more or less does not change the order of
    the data.

    Args:
        from_scratch: has the attributes of `recipe.FromScratch` (architecture, hidden_size, layers, heads,
            max_length).
        tokenizer: gives the vocabulary size and the ids of the special tokens.
        seed: of the initial weights.

    Raises:
        UserError: unknown architecture, or a width that cannot be split over the heads.
    """
    config = model_config(from_scratch, tokenizer)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    # Only the CPU generator is used, so only it is saved: `torch.manual_seed` would also touch those of the
    # GPUs.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        model = auto.from_config(config, dtype=torch.float32)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id if config.is_encoder_decoder else None,
    )
    return model


def model_config(from_scratch, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    """Return the transformers configuration of a small model: tied embeddings, no dropout.

    Grouped-query attention has half as many key-value heads as query heads where their number is even. The
    gated feed-forward layers are 8/3 as wide as the model and T5's plain ones 4 times: equally many
    parameters.

    Raises:
        UserError: unknown architecture, or a width that cannot be split over the heads.
    """
    builders = {
        "qwen2": _decoder_config,
        "llama": _decoder_config,
        "gemma2": _decoder_config,
        "t5": _t5_config,
    }
    if from_scratch.architecture not in builders:
        raise UserError(
            f"model.from_scratch.architecture: unknown architecture {from_scratch.architecture!r} "
            f"(choices: {', '.join(builders)})"
        )
    hidden_size, heads = from_scratch.hidden_size, from_scratch.heads
    if hidden_size % (2 * heads):  # rotary positions turn pairs of numbers, so a head needs an even width
        raise UserError(f"model.from_scratch.hidden_size: {hidden_size} must be divisible by 2 × heads = {2 * heads}")
    return builders[from_scratch.architecture](from_scratch, tokenizer)


def _decoder_config(from_scratch, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    """Configuration of a Qwen2, Llama or Gemma 2."""
    hidden_size, heads = from_scratch.hidden_size, from_scratch.heads
    config_class, extra = {
        "qwen2": (Qwen2Config, {}),
        "llama": (LlamaConfig, {}),
        # Half of Gemma's layers look back over half of the positions only, as in the original. Its soft cap
        # on the attention scores is off: SDPA ignores it and eager attention does not, so the two would
        # disagree.
        "gemma2": (
            Gemma2Config,
            {
                "head_dim": hidden_size // heads,
                "query_pre_attn_scalar": hidden_size // heads,
                "sliding_window": max(1, from_scratch.max_length // 2),
                "attn_logit_softcapping": None,
            },
        ),
    }[from_scratch.architecture]
    return config_class(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=math.ceil(hidden_size * 8 / 3 / 32) * 32,  # in 32s, as 4-bit kernels like it
        num_hidden_layers=from_scratch.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2 if heads % 2 == 0 else heads,
        max_position_embeddings=from_scratch.max_length,
        # Wider ones learn the training rows faster and generalise worse: on the embedded corpus a held-out language
        # modelling loss of 6.0 with 0.02 against 6.3 with sqrt(2 / 5d) and 6.9 with 0.072.
        initializer_range=0.02,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **extra,
    )


def _t5_config(from_scratch, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    """Configuration of a T5 with `layers` in the encoder and as many in the decoder."""
    return T5Config(
        vocab_size=len(tokenizer),
        d_model=from_scratch.hidden_size,
        d_kv=from_scratch.hidden_size // from_scratch.heads,
        d_ff=4 * from_scratch.hidden_size,
        num_layers=from_scratch.layers,
        num_heads=from_scratch.heads,
        dropout_rate=0.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
