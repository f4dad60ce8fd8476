"""What the tests of encoder-decoders share: a tiny T5 made here, and its tokenizer."""

from types import SimpleNamespace

from empathy_trl.models.tiny import build_model, build_tokenizer

TEXTS = ["number 0 1 2 3 4 5 6 7 8 9", "I lost my keys.", "So sad, I am sorry.", "<answer>joyful</answer>"] * 3


def tiny_t5(seed: int = 0, hidden_size: int = 32):
    """Return model and tokenizer; the tokenizer pads on the left, as everywhere."""
    tokenizer = build_tokenizer(TEXTS, 320, ["answer"])
    sizes = SimpleNamespace(architecture="t5", hidden_size=hidden_size, layers=2, heads=2, max_length=64)
    return build_model(sizes, tokenizer, seed), tokenizer


def save_t5(folder, **settings) -> str:
    """Save such a model with its tokenizer; return the folder."""
    for part in tiny_t5(**settings):
        part.save_pretrained(folder)
    return str(folder)
