"""`Chat`, the front for Python: one line opens a model, one line talks to it."""

import shutil

import pytest

from empathy_trl import Chat, UserError
from tests.chat.scripted_model import STAGED, ScriptedModel
from tests.chat.small_models import small


@pytest.fixture(scope="module")
def parts():
    return small()


def scripted(parts, *replies, **settings):
    """A `Chat` whose model says what it is told to."""
    chat = Chat(*parts, **settings)
    chat.model = ScriptedModel(*replies)
    chat.session = chat.new_session()
    return chat


def test_a_loaded_model_talks_and_remembers(parts):
    chat = Chat(*parts, seed=1, max_new_tokens=8)
    first = chat.say("I was so scared.")
    assert first and chat.history == [
        {"role": "user", "content": "I was so scared."},
        {"role": "assistant", "content": first},
    ]
    assert Chat(*parts, seed=1, max_new_tokens=8).say("I was so scared.") == first
    chat.say("And lost.")
    assert len(chat.history) == 4
    chat.reset()
    assert chat.history == []


def test_a_saved_model_talks_as_its_recipe_says(parts, tmp_path):
    for part in parts:
        part.save_pretrained(tmp_path)
    assert Chat(tmp_path, recipe="ed4_tiny").prompts.name == "ed4"
    assert Chat(str(tmp_path), system="Be kind.").prompts.system == "Be kind."


def test_a_reply_keeps_its_tags_and_streams_in_parts(parts):
    chat = scripted(parts, STAGED)
    assert chat.say("Hi") == "".join(STAGED)
    assert [chunk.part for chunk in chat.stream("Again") if chunk.complete] == ["react", "respond", "reflect"]


def test_what_the_user_has_to_know_is_a_warning(parts):
    chat = scripted(parts, [])
    with pytest.warns(UserWarning, match="the reply is empty"):
        assert chat.say("Hi") == ""


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("x", {"tokenizer": object()}, "tokenizer: belongs to a loaded model"),
        (object(), {}, "tokenizer: belongs to a loaded model"),
        ("x", {"base_url": "http://localhost/v1"}, "base_url: is for a model openai:NAME, got model x"),
        ("openai:m", {"adapter": "x"}, "adapter: is for a model that is loaded by its name"),
        (object(), {"tokenizer": object(), "revision": "v1"}, "revision: .*, got a loaded model"),
        ("x", {"temperature": -1}, "temperature: got -1, expected a number from 0 to 10"),
        ("x", {"top_p": float("nan")}, "top_p: got nan, expected a number above 0 and at most 1"),
        ("x", {"seed": 2**32}, "seed: got 4294967296, expected a whole number from 0 to 4294967295"),
        ("./nowhere", {}, "./nowhere: no such folder"),
    ],
)
def test_impossible_arguments(model, settings, message):
    with pytest.raises(UserError, match=message):
        Chat(model, **settings)


@pytest.mark.parametrize("own", ["{{ messages[-1].content }}{% if enable_thinking %}<think>{% endif %}<eos>", None])
def test_a_model_that_a_recipe_has_not_trained_is_prompted_by_its_template(tmp_path, tiny_folder, own):
    shutil.copytree(tiny_folder, folder := tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    if own:
        (folder / "chat_template.jinja").write_text(own)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "task: sft\ndata: {name: ed4, path: sample}\n"
        "model: {name_or_path: some/model, chat_template: chatml, chat_template_kwargs: {enable_thinking: true}}\n"
    )
    template = Chat(folder, recipe=str(recipe)).model.tokenizer.chat_template
    assert "else true %}" in template and (own or "<|im_start|>") in template


def test_a_server_is_told_the_template_arguments_of_the_recipe(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "task: sft\ndata: {name: ed4, path: sample}\n"
        "model: {name_or_path: some/model, chat_template_kwargs: {enable_thinking: false}}\n"
    )
    served = {"base_url": "http://127.0.0.1:9", "recipe": str(recipe)}
    assert Chat("openai:m", **served).model.members == {"chat_template_kwargs": {"enable_thinking": False}}
