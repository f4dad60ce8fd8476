"""Bi-encoders: models that give each text a vector, so that two texts are as similar as the cosine of their vectors.

sentence-transformers saves such a model as an encoder without a head. The file `modules.json` beside it lists what computes the
vector: the encoder, the pooling of its hidden states, and usually a normalisation, which does not change a cosine.
`pooling_modes` reads that file, and `pool` computes what sentence-transformers computes. The library itself would replace
weights that are missing by random ones with no more than a log message, and would cut long texts without counting them.
"""

import json

import torch
from huggingface_hub.errors import EntryNotFoundError
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from empathy_trl.errors import UserError
from empathy_trl.models.hub_files import (
    ADAPTER_FILE,
    NO_CODE,
    check_exists,
    check_weights,
    first_file,
    hub_errors,
    load_tokenizer,
    model_folder,
)
from empathy_trl.models.label_schema import REGRESSION
from empathy_trl.models.load import loading

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
        modules = _read(name, revision, "modules.json")
        if modules is None:
            return None
        kind = (_read(name, revision, "config_sentence_transformers.json") or {}).get(
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
        settings = _read(name, revision, "sentence_bert_config.json") or {}
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


def _read(name: str, revision: str | None, filename: str):
    """Return the content of a JSON file of a model, None if it has no such file."""
    try:
        return json.loads(first_file(name, revision, [filename]).read_text(encoding="utf-8"))
    except EntryNotFoundError:
        return None
