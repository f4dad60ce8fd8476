"""A model in this process: the same tokens with and without what was kept, and only what is new is computed."""

import threading

import pytest
import torch

from empathy_trl.chat.local import KeyValueCache, LocalModel, ReplyStreamer, hidden_ids
from empathy_trl.chat.reply import Sampling
from empathy_trl.errors import UserError
from tests.chat.small_models import sharpened, small
from tests.trainers.tiny_t5 import tiny_t5

GREEDY = Sampling(temperature=0)


def user(text):
    return {"role": "user", "content": text}


def say(model, messages, cache, tokens=12):
    return "".join(model.stream(messages, cache, threading.Event(), tokens))


def streamed_texts(tokenizer, ids, ends=()):
    """What `generate` would hand on of these tokens, text by text."""
    texts = []
    streamer = ReplyStreamer(tokenizer, ends, texts.append)
    for token in [0, *ids]:  # the prompt comes first
        streamer.put(torch.tensor([token]))
    streamer.end()
    return texts


@pytest.fixture
def lengths():
    """Lengths of the decoder's forward passes since the last `clear()`, of the model given to `.watch`."""
    seen = []

    def watch(model):
        def note(module, positional, named):
            seen.append((named["input_ids"] if "input_ids" in named else positional[0]).shape[1])

        model.get_decoder().register_forward_pre_hook(note, with_kwargs=True)
        return seen

    return watch


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gemma2"])
def test_kept_states_change_no_token(architecture):
    model = LocalModel(*sharpened(architecture, max_length=256), GREEDY)
    cache, messages = model.new_cache(), []
    for turn in range(6):
        messages.append(user(f"How are you number {turn}?"))
        _, ids = model._encode(messages, cache)
        output = model.model.generate(
            torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=model._ends, pad_token_id=0
        )[0, len(ids) :].tolist()
        reply = say(model, messages, cache)
        assert reply == "".join(streamed_texts(model.tokenizer, output, model._ends)), turn
        messages.append({"role": "assistant", "content": reply})


def test_kept_states_are_those_of_one_pass():
    model = LocalModel(*sharpened(), GREEDY)
    cache, messages = model.new_cache(), [user("How are you?")]
    for word in ("Fine", "scared"):
        messages += [{"role": "assistant", "content": say(model, messages, cache)}, user(word)]
    say(model, messages, cache)
    with torch.inference_mode():
        afresh = model.model(torch.tensor([cache.ids]), use_cache=True).past_key_values
    for kept, layer in zip(cache.states.layers, afresh.layers, strict=True):
        torch.testing.assert_close(kept.keys, layer.keys)
        torch.testing.assert_close(kept.values, layer.values)


def test_the_second_turn_computes_only_what_is_new(lengths):
    model = LocalModel(*sharpened(), GREEDY)
    seen = lengths(model.model)
    cache, messages = model.new_cache(), [user("How are you?")]
    reply = say(model, messages, cache)
    assert seen[0] == model.count(messages, model.new_cache()) and set(seen[1:]) == {1}
    messages += [{"role": "assistant", "content": reply}, user("And you?")]
    seen.clear()
    say(model, messages, cache)
    # the last token of the reply, its end, the message and the beginning of the next reply
    new = len(model._tokens("<eos><|user|>And you?<|assistant|>")) + 1
    assert seen[0] <= new and set(seen[1:]) == {1}
    assert cache.counts.prefilled == seen[0] and cache.counts.cached > 10


def test_what_is_prefilled_is_not_computed_again(lengths):
    model = LocalModel(*sharpened(), GREEDY)
    seen = lengths(model.model)
    cache, messages = model.new_cache(), [user("How are you?")]
    messages += [{"role": "assistant", "content": say(model, messages, cache)}]
    model.prefill(([*messages, user("a")], [*messages, user("b")]), cache, threading.Event())
    afresh = KeyValueCache(text=cache.text, text_ids=cache.text_ids)  # the same tokens, computed anew
    expected = say(model, [*messages, user("So scared")], afresh)
    seen.clear()
    assert say(model, [*messages, user("So scared")], cache) == expected
    assert seen[0] == len(model._tokens("So scared<|assistant|>"))


def test_a_long_prompt_is_computed_in_chunks(monkeypatch, lengths):
    monkeypatch.setattr("empathy_trl.chat.local.PREFILL_TOKENS", 7)
    model = LocalModel(*sharpened(), GREEDY)
    messages = [user("so scared when the lights went out " * 4)]
    expected = "".join(
        LocalModel(model.model, model.tokenizer, GREEDY).stream(messages, KeyValueCache(), threading.Event(), 5)
    )
    seen = lengths(model.model)
    assert say(model, messages, model.new_cache(), 5) == expected
    assert max(seen) == 7 and sum(seen) == model.count(messages, KeyValueCache()) + 4


def test_a_stop_ends_the_reply_and_the_next_turn_is_right():
    model = LocalModel(*sharpened(), GREEDY)
    cache, stop, messages = model.new_cache(), threading.Event(), [user("How are you?")]
    said = ""
    for text in model.stream(messages, cache, stop, 300):
        said += text
        if len(said) > 5:
            stop.set()
    assert cache.counts.written < 300
    messages += [{"role": "assistant", "content": said}, user("And?")]
    fresh = KeyValueCache(text=cache.text, text_ids=cache.text_ids)  # the same tokens, computed anew
    assert say(model, messages, cache) == say(model, messages, fresh)


def test_leaving_a_reply_ends_its_thread_and_frees_the_model():
    model = LocalModel(*sharpened(), GREEDY)
    threads = threading.active_count()
    reply = model.stream([user("How are you?")], model.new_cache(), threading.Event(), 400)
    next(reply)
    reply.close()
    assert threading.active_count() == threads and not model._lock.locked()


def test_one_reply_at_a_time_and_a_stop_ends_the_wait():
    model = LocalModel(*sharpened(), GREEDY)
    stop = threading.Event()
    with model._lock:
        reply = model.stream([user("Hi")], model.new_cache(), stop, 5)
        threading.Timer(0.1, stop.set).start()
        assert list(reply) == []
    assert not model._lock.locked()


def test_two_sessions_at_once_say_what_each_says_alone():
    model = LocalModel(*sharpened(), GREEDY)
    asked = [[user("How are you?")], [user("so scared")]]
    alone = [say(model, messages, model.new_cache()) for messages in asked]
    streams = [model.stream(messages, model.new_cache(), threading.Event(), 12) for messages in asked]
    said = ["", ""]
    for index in (0, 1):  # the second thread starts while the first may still write
        said[index] += next(streams[index])
    for index in (1, 0):
        said[index] += "".join(streams[index])
    assert said == alone


def test_what_fails_is_raised_and_nothing_is_kept(monkeypatch):
    model = LocalModel(*sharpened(), GREEDY)
    cache = model.new_cache()
    say(model, [user("Hi")], cache)
    for error, raised, words in (
        (RuntimeError("odd"), RuntimeError, "odd"),
        (torch.OutOfMemoryError("x"), UserError, "not enough memory"),
    ):
        monkeypatch.setattr(model, "_generate", lambda *arguments, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(raised, match=words):
            say(model, [user("Hi again")], cache)
        assert cache.states is None and cache.ids == [] and not model._lock.locked()


def test_sampling_repeats_by_its_seed_and_leaves_the_generator_alone():
    parts = small()
    state = torch.random.get_rng_state()
    say_with = lambda seed: say(LocalModel(*parts, Sampling(1.0, 1.0, seed=seed)), [user("Hi")], KeyValueCache())
    assert say_with(1) == say_with(1) != say_with(2)
    assert len({say_with(None) for _ in range(3)}) == 3
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_encoder_decoder_keeps_nothing_and_says_what_generate_says():
    t5, tokenizer = tiny_t5()
    model = LocalModel(t5, tokenizer, GREEDY)
    cache = model.new_cache()
    messages = [user("I lost my keys.")]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    output = t5.generate(torch.tensor([ids]), max_new_tokens=9, do_sample=False)[0]
    assert say(model, messages, cache, 9) == "".join(streamed_texts(tokenizer, output[1:].tolist(), model._ends))
    model.prefill((messages, messages), cache, threading.Event())
    assert not model.is_decoder and cache.states is None and cache.counts.cached == 0


def test_the_states_of_a_sliding_window_are_not_cut():
    model = LocalModel(*sharpened("gemma2", max_length=64), GREEDY)
    cache = model.new_cache()
    say(model, [user("How are you? " * 8)], cache)
    other = [user("How are you? " * 3)]
    assert say(model, other, cache) == say(model, other, model.new_cache())


def test_positions():
    model, tokenizer = small(max_length=77)
    local = LocalModel(model, tokenizer, GREEDY)
    assert local.positions == local.default_context == 77
    t5, tokenizer = tiny_t5()
    for longest, expected in ((99, 99), (int(1e30), None)):
        tokenizer.model_max_length = longest
        local = LocalModel(t5, tokenizer, GREEDY)
        assert local.positions is None and local.default_context == expected, "relative positions have no limit"


@pytest.mark.parametrize("text", ["é🙂漢字 <react>*nods*</react> and", "  two  spaces\n\n"])
def test_tokens_become_text_one_by_one(text):
    _, tokenizer = small()
    texts = streamed_texts(tokenizer, tokenizer(text + "<eos>", add_special_tokens=False)["input_ids"])
    assert "".join(texts) == text and not any("\ufffd" in each for each in texts)


def test_half_a_character_never_comes_out():
    _, tokenizer = small()
    ids = tokenizer("a🙂", add_special_tokens=False)["input_ids"][:-1]
    assert "".join(streamed_texts(tokenizer, ids)) == "a"


def test_tags_are_shown_even_where_they_are_special_tokens():
    _, tokenizer = small()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<answer>", "</answer>"]})
    ids = tokenizer("<answer>so</answer><eos>", add_special_tokens=False)["input_ids"]
    assert "".join(streamed_texts(tokenizer, ids)) == "<answer>so</answer>"
    assert tokenizer.eos_token_id in hidden_ids(tokenizer)
