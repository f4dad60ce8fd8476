"""A small Qwen2 with its tokenizer, and the section of a recipe that names it."""

from types import SimpleNamespace

from empathy_trl.models.tiny import build_model, build_tokenizer

TEXTS = ["My dog died and I cried all night.", "<reasoning>My dog died.</reasoning><answer>sad</answer>"] * 5
TAGS = ["reasoning", "answer"]


def recipe_model(name=None, **changes):
    """A stand-in for `recipe.Model`."""
    settings = dict.fromkeys(
        ("revision", "attn_implementation", "lora", "from_scratch", "chat_template", "chat_template_kwargs")
    )
    settings |= {"name_or_path": None if name is None else str(name), "dtype": "auto", "load_in_4bit": False}
    return SimpleNamespace(**settings | changes)


def sizes(architecture="qwen2"):
    shape = {"hidden_size": 64, "layers": 2, "heads": 4, "vocab_size": 300, "max_length": 64}
    return SimpleNamespace(architecture=architecture, **shape)


def save_tiny(folder, architecture="qwen2"):
    """Save a small model with its tokenizer; return the tokenizer."""
    tokenizer = build_tokenizer(TEXTS, 300, TAGS)
    for part in (build_model(sizes(architecture), tokenizer, seed=0), tokenizer):
        part.save_pretrained(folder)
    return tokenizer
