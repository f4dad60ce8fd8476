"""GODEL's input format: rendered, saved with the tokenizer, and asked for where a tokenizer has none."""

from typing import get_args

import pytest
from transformers import AutoTokenizer, T5Tokenizer

from empathy_trl.errors import UserError
from empathy_trl.models.load import set_template
from empathy_trl.recipe.schema import Model
from empathy_trl.tags import CHAT_TEMPLATES
from tests.trainers.tiny_t5 import tiny_t5

SYSTEM = "Instruction: given a dialog context, you need to response empathically."
GROUNDED = f"{SYSTEM}\n[KNOWLEDGE] Paris is in France.\nIt is large."


def conversation(system, *turns):
    roles = ["user", "assistant"] * len(turns)
    messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]
    return ([{"role": "system", "content": system}] if system is not None else []) + messages


@pytest.mark.parametrize(
    "messages, expected",
    [
        (conversation(SYSTEM, "Hi!"), f"{SYSTEM} [CONTEXT] Hi!<eos>"),
        (conversation(SYSTEM, "Hi!", "Hello.", "I am sad."), f"{SYSTEM} [CONTEXT] Hi! EOS Hello. EOS I am sad.<eos>"),
        (conversation(GROUNDED, "Hi!", "Yes?", "Where?"),
         f"{SYSTEM} [CONTEXT] Hi! EOS Yes? EOS Where? [KNOWLEDGE] Paris is in France.\nIt is large.<eos>"),
        (conversation("[KNOWLEDGE] Paris.", "Where?"), "[CONTEXT] Where? [KNOWLEDGE] Paris.<eos>"),
        (conversation(None, "Hi!"), "[CONTEXT] Hi!<eos>"),
        (conversation(f"  {SYSTEM}\n", "  Hi! \n"), f"{SYSTEM} [CONTEXT] Hi!<eos>"),
        (conversation("Say [KNOWLEDGE] aloud.", "Hi!"), "Say [KNOWLEDGE] aloud. [CONTEXT] Hi!<eos>"),
    ],
    ids=["one turn", "three turns", "knowledge", "knowledge alone", "no instruction", "white space", "no line of its own"],
)  # fmt: skip
@pytest.mark.parametrize("generation", [True, False])
def test_godel(messages, expected, generation):
    _, tokenizer = tiny_t5()
    set_template(tokenizer, "godel", "t5")
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=generation, tokenize=False)
    assert rendered == expected
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=generation, return_dict=True)["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in ids[:-1]


def test_t5s_own_tokenizer_which_appends_the_end_itself_gets_it_once():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, -2.0) for piece in "▁[]!NOTEXCHSYaiouy.")]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    assert tokenizer("Hi!")["input_ids"][-1] == tokenizer.eos_token_id and tokenizer.chat_template is None
    set_template(tokenizer, "godel", "t5")
    messages = conversation("Say.", "Hi!", "You.", "Hi.")
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids) == "Say. [CONTEXT] Hi! EOS You. EOS Hi.</s>"


def test_the_template_is_saved_with_the_tokenizer(tmp_path):
    _, tokenizer = tiny_t5()
    set_template(tokenizer, "godel", "t5")
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == CHAT_TEMPLATES["godel"]


def test_the_tokenizers_own_template_stays():
    _, tokenizer = tiny_t5()
    own = tokenizer.chat_template
    set_template(tokenizer, None, "t5")
    assert tokenizer.chat_template == own


def test_a_tokenizer_without_a_template_needs_a_choice():
    _, tokenizer = tiny_t5()
    tokenizer.chat_template = None
    with pytest.raises(
        UserError, match=r"me/t5: the tokenizer has no chat template .* model.chat_template \(choices: godel\)"
    ):
        set_template(tokenizer, None, "me/t5")


def test_a_recipe_may_name_each_of_them():
    choices = get_args(get_args(Model.model_fields["chat_template"].annotation)[0])
    assert set(choices) == set(CHAT_TEMPLATES)
