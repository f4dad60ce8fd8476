"""Language models and classifiers: loading, making tiny ones, generating with them and scoring with them.

`load_model` here is for those who have no recipe; it imports torch when it is called.
"""

from pathlib import Path
from types import SimpleNamespace


def load_model(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    attn_implementation: str | None = None,
    load_in_4bit: bool = False,
    chat_template: str | None = None,
    is_trainable: bool = False,
):
    """Load a language model, causal or encoder-decoder, and its tokenizer.

    Args:
        name_or_path: Hub id, also `USER/REPO@revision`, or folder of a full model or of a LoRA adapter, which is put on
            the base that it names.
        revision: branch, tag or commit on the Hub.
        dtype: of the weights: auto (that of the files), float32, bfloat16 or float16.
        attn_implementation: of transformers, such as `sdpa`; None leaves the choice to it.
        load_in_4bit: quantise the weights while they are loaded; needs a GPU and bitsandbytes.
        chat_template: `godel` for models that were trained on its input form; None keeps the tokenizer's own.
        is_trainable: an adapter's weights take gradients.

    Returns:
        `(model, tokenizer)`: the model (a `PeftModel` where the source is an adapter) on the CPU unless it is quantised,
        and its tokenizer, which pads on the left.

    Raises:
        UserError: the model cannot be found, reached or read, or has no chat template.
    """
    from empathy_trl.models.hub_files import one_revision
    from empathy_trl.models.load import load_model as load

    name, revision = one_revision(str(name_or_path), revision)
    config = SimpleNamespace(
        name_or_path=name,
        revision=revision,
        dtype=dtype,
        attn_implementation=attn_implementation,
        load_in_4bit=load_in_4bit,
        chat_template=chat_template,
        from_scratch=None,
        lora=None,
    )
    return load(config, seed=0, is_trainable=is_trainable)
