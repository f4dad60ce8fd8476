"""Token ids as text, one by one: no character is cut, and no tag is lost."""

import pytest

from empathy_trl.chat.local import TokenDecoder, hidden_ids
from tests.chat.small_models import small


@pytest.mark.parametrize(
    ("text", "special"),
    [("é🙂漢字 <react>*nods*</react> and", []), ("  two  spaces\n\n", []), ("end", ["<eos>"])],
)
def test_tokens_become_text_one_by_one(text, special):
    _, tokenizer = small()
    decoder = TokenDecoder(tokenizer)
    ids = tokenizer(text + "".join(special), add_special_tokens=False)["input_ids"]
    chunks = [decoder.feed(token) for token in ids]
    assert "".join(chunks) + decoder.close() == text
    assert not any("\ufffd" in chunk for chunk in chunks)


def test_half_a_character_never_comes_out():
    _, tokenizer = small()
    decoder = TokenDecoder(tokenizer)
    ids = tokenizer("a🙂", add_special_tokens=False)["input_ids"][:-1]
    assert "".join(map(decoder.feed, ids)) + decoder.close() == "a"


def test_tags_are_shown_even_where_they_are_special_tokens():
    _, tokenizer = small()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<answer>", "</answer>"]})
    decoder = TokenDecoder(tokenizer)
    ids = tokenizer("<answer>so</answer><eos>", add_special_tokens=False)["input_ids"]
    assert "".join(map(decoder.feed, ids)) == "<answer>so</answer>"
    assert tokenizer.eos_token_id in hidden_ids(tokenizer)
