"""Tiny models for the tests of chat, made here."""

from types import SimpleNamespace

from empathy_trl.models.tiny import build_model, build_tokenizer

TEXTS = ["I was so scared when the lights went out.", "How are you? Fine, and you?", "*nods* + *leans in*"] * 3
TAGS = ["react", "respond", "reflect"]


def small(architecture: str = "qwen2", seed: int = 0, max_length: int = 512, layers: int = 2):
    """Return a random model and its tokenizer."""
    tokenizer = build_tokenizer(TEXTS, 330, TAGS, max_length)
    sizes = SimpleNamespace(architecture=architecture, hidden_size=16, layers=layers, heads=2, max_length=max_length)
    return build_model(sizes, tokenizer, seed), tokenizer


def sharpened(architecture: str = "qwen2", seed: int = 0, **sizes):
    """Return a random model whose likeliest tokens are far ahead of the others, so that rounding changes none; it never ends."""
    import torch

    model, tokenizer = small(architecture, seed, **sizes)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.6)
        model.get_input_embeddings().weight[tokenizer.eos_token_id] = 0  # the output's, too: never the likeliest
    return model, tokenizer
