"""A conversation: what is kept, what is forgotten, and what a turn costs."""

import itertools
import json
import re
import threading
import time

import pytest

from empathy_trl.chat.local import LocalModel
from empathy_trl.chat.prompts import Prompts
from empathy_trl.chat.reply import Chunk, Sampling
from empathy_trl.chat.session import Session, SessionEvent, Settings
from empathy_trl.errors import UserError
from tests.chat.scripted_model import STAGED, ScriptedModel
from tests.chat.small_models import sharpened
from tests.trainers.tiny_t5 import tiny_t5


def talk(*replies, positions=1000, **settings):
    model = ScriptedModel(*replies, positions=positions)
    return Session(model, Prompts(), Settings(**settings)), model


def said(session, message="Hi"):
    return list(session.send(message))


def test_a_reply_comes_in_parts_and_stays_in_the_history():
    session, _ = talk(STAGED)
    chunks = said(session)
    assert [chunk.part for chunk in chunks if chunk.complete] == ["react", "respond", "reflect"]
    assert chunks[0] == Chunk("react", "*no")
    assert session.history == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "".join(STAGED)}]
    assert session.well_formed is True and session.reflection == "They wait."


def test_the_next_prompt_has_all_that_was_said():
    session, model = talk(["One."], ["Two."])
    said(session), said(session, "And?")
    assert [message["content"] for message in model.prompts[1]] == ["Hi", "One.", "And?"]


@pytest.mark.faults
def test_a_thought_is_shown_and_stays_out_of_the_next_prompt_and_the_saved_conversation(tmp_path):
    session, model = talk(["<think>Who", "?</think>\n", "Hello."], ["<think>Hm", "m"], ["Two."])
    chunks = said(session)
    assert chunks[0] == Chunk("think", "Who") and chunks[-1] == Chunk("text", "Hello.")
    assert session.history[-1]["content"] == "<think>Who?</think>\nHello."
    assert said(session, "Yes?")[-1] == SessionEvent("the reply is empty; rephrase the message")
    assert len(session.history) == 2, "a thought alone is no reply"
    said(session, "And?")
    assert [message["content"] for message in model.prompts[2]] == ["Hi", "Hello.", "And?"]
    saved = json.loads(session.save(tmp_path / "talk.jsonl").read_text())
    assert [message["content"] for message in saved["messages"]] == ["Hi", "Hello.", "And?", "Two."]


@pytest.mark.faults
def test_a_template_that_opens_a_thought():
    model, tokenizer = sharpened()
    tokenizer.chat_template += "<think>\n"
    session = local_session(200, parts=(model, tokenizer))
    *chunks, event = said(session)
    assert {chunk.part for chunk in chunks} == {"think"} and session.history == []
    assert event == SessionEvent("the reply had not begun after 10 tokens; raise max_new_tokens")


def test_reset_forgets():
    session, model = talk(STAGED)
    said(session)
    session.reset()
    assert (session.history, session.stats, session.well_formed, session.reflection) == ([], None, None, None)
    said(session, "Hello")
    assert model.prompts[1] == [{"role": "user", "content": "Hello"}]


def test_an_empty_message_is_refused():
    session, model = talk(STAGED)
    with pytest.raises(UserError, match="the message is empty"):
        session.send(" \n")
    assert model.prompts == []


def test_undo_takes_the_last_exchange_back():
    session, model = talk(["One."], ["Two."], ["Three."])
    with pytest.raises(UserError, match="the conversation is empty"):
        session.undo()
    reply = session.send("Hi")
    next(reply)
    with pytest.raises(UserError, match="still being written"):
        session.undo()
    list(reply), said(session, "And?")
    assert session.undo() == "And?" and len(session.all_stats) == 1
    said(session, "Else?")
    assert [message["content"] for message in model.prompts[-1]] == ["Hi", "One.", "Else?"]


def test_a_message_that_is_too_long_is_refused_with_both_numbers():
    session, model = talk(STAGED, context=100, max_new_tokens=40)
    with pytest.raises(UserError, match="too long: 70 tokens, and at most 59 fit into the context of 100"):
        session.send("word " * 70)
    assert said(session, "word " * 59)
    with pytest.raises(UserError, match="too long: 2000000 characters"):
        session.send("x" * 2_000_000)
    assert len(model.prompts) == 1


def test_a_stop_keeps_what_was_said():
    session, model = talk(["One ", "two ", "three"], ["Next."])
    reply = session.send("Hi")
    next(reply)
    session.stop()
    assert list(reply) == [SessionEvent("stopped")]
    assert session.history[-1] == {"role": "assistant", "content": "One "}
    said(session, "Go on")
    assert model.prompts[1][1]["content"] == "One "


def test_a_stop_is_heard_while_a_message_is_counted():
    session, model = talk(["One."], ["Two."])
    count, once = model.count, iter([session.stop])

    def interrupted(messages, cache):
        next(once, bool)()
        return count(messages, cache)

    model.count = interrupted
    assert said(session) == [SessionEvent("stopped")]
    assert said(session)[0].text == "Two."


def test_a_reader_that_leaves_keeps_what_was_said():
    session, _ = talk(STAGED)
    reply = session.send("Hi")
    next(reply)
    reply.close()
    assert session.history[-1]["content"] == "<react>*no" and session.well_formed is False
    assert said(session, "Again")


def test_a_reset_in_the_middle_of_a_reply_leaves_no_trace():
    session, _ = talk(["One ", "two"], ["Three"])
    reply = session.send("Hi")
    next(reply)
    session.reset()
    assert list(reply) == [SessionEvent("stopped")] and session.history == [] and session.stats is None
    said(session, "New")
    assert [message["content"] for message in session.history] == ["New", "Three"]


def test_a_reply_that_nobody_finishes_does_not_block_what_comes_after_a_reset():
    session, _ = talk(["One ", "two"], ["Three"])
    left = session.send("Hi")
    next(left)
    with pytest.raises(UserError, match="still being written"):
        said(session, "Too early")
    session.reset()
    assert said(session, "New") == [Chunk("text", "Three")]


@pytest.mark.parametrize("reply", [[], [" ", "\n"]])
def test_a_model_that_says_nothing_is_no_exchange(reply):
    session, _ = talk(reply)
    assert said(session)[-1] == SessionEvent("the reply is empty; rephrase the message")
    assert session.history == []


def test_a_reply_that_fails_does_not_stay():
    def fails(messages, stop):
        yield "Half a"
        raise UserError("no connection")

    session, _ = talk(fails, ["Fine."])
    with pytest.raises(UserError, match="no connection"):
        said(session)
    assert session.history == []
    assert said(session) == [Chunk("text", "Fine.")]


def test_figures_of_a_reply():
    def slow(messages, stop):
        for text in STAGED:
            time.sleep(0.01)
            yield text

    session, _ = talk(slow)
    assert session.summary() == "no reply yet"
    said(session)
    stats = session.stats
    assert 0.03 <= stats.reaction <= stats.first_word < stats.whole
    assert (stats.tokens, stats.prefilled, stats.cached) == (5, 2, 0)
    assert stats.tokens_per_second == pytest.approx(5 / stats.whole)
    said(session)
    summary = session.summary()
    assert "reaction 0." in summary and "median of 2" in summary and "5 tokens" in summary
    session, _ = talk(["Hello."])
    said(session)
    assert session.stats.reaction is None and session.stats.first_word is not None


def test_save_writes_training_data_and_overwrites_nothing(tmp_path):
    session, _ = talk(STAGED)
    with pytest.raises(UserError, match="the conversation is empty"):
        session.save(tmp_path / "talk.jsonl")
    said(session)
    path = session.save(tmp_path / "talk.jsonl")
    assert json.loads(path.read_text()) == {"conversation_id": "talk", "messages": session.history}
    with pytest.raises(UserError, match=r"talk\.jsonl: exists"):
        session.save(path)
    (tmp_path / "file").write_text("")
    for name in (tmp_path / "file" / "talk.jsonl", "~nobody-is-called-so/talk.jsonl", "a" * 300, "a\0b"):
        with pytest.raises(UserError, match="cannot be written: "):
            session.save(name)


def test_the_oldest_exchanges_go_seldom_and_the_user_is_told():
    system = Prompts(system="Be kind now")  # 4 tokens
    model = ScriptedModel(["one two three four"])  # an exchange: 5 + 5 tokens
    session = Session(model, system, Settings(context=100, max_new_tokens=20))
    notices = [[each for each in said(session, "a b c d") if isinstance(each, SessionEvent)] for _ in range(40)]
    told = [turn for turn, each in enumerate(notices) if each]
    assert len(told) > 3 and min(after - before for before, after in itertools.pairwise(told)) >= 3
    assert notices[told[0]][0].text.startswith("the context is full: the model no longer sees the oldest ")
    for prompt in model.prompts:
        assert prompt[0] == {"role": "system", "content": "Be kind now"} and prompt[1]["role"] == "user"
        assert model.count(prompt, None) + 20 <= 100
    forgotten = sum(int(each[0].text.split()[-2]) for each in notices if each)
    assert forgotten == len(session.history) - 1 - (len(model.prompts[-1]) - 1)
    assert len(session.history) == 80  # what was said is still there to be saved


def test_prepare_cuts_ahead_of_time_and_computes_what_comes_before_the_message():
    model = ScriptedModel(["one two three four"])
    session = Session(model, Prompts(), Settings(context=100, max_new_tokens=20))
    session.prepare()
    assert model.prefilled == []  # nothing was said
    for _ in range(30):
        said(session, "a b c d")
        session.prepare()
        one, other = model.prefilled[-1]
        assert one[:-1] == other[:-1] and one[-1]["content"] != other[-1]["content"]
        before = session._conversation.seen_from
        said(session, "a b c d")
        assert session._conversation.seen_from == before and model.prompts[-1][:-1] == one[:-1]
        session.prepare()


def test_a_reply_that_is_cut_off_is_told():
    session = local_session(context=200)
    assert said(session)[-1] == SessionEvent("the reply was cut off at 10 tokens (max_new_tokens)")


def test_a_context_that_leaves_no_room_is_refused():
    with pytest.raises(
        UserError, match="context: 20 tokens leave no room .* prompt around it takes 12, a reply up to 10"
    ):
        Session(ScriptedModel(STAGED), Prompts(system="word " * 10), Settings(20))


def test_a_template_without_a_system_message_is_told_at_the_start():
    model, tokenizer = sharpened()
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + tokenizer.chat_template
    )
    with pytest.raises(UserError, match=r"chat template refuses the messages \(system, user\): System role not"):
        local_session(200, parts=(model, tokenizer))


def test_a_context_beyond_the_model_is_refused():
    with pytest.raises(UserError, match="context: 2000 tokens; the model reads at most 1000"):
        talk(STAGED, context=2000)
    assert talk(STAGED, positions=100_000)[0].context == 8192
    assert talk(STAGED, positions=None)[0].context == 4096
    assert talk(STAGED, positions=None, context=100_000)[0].context == 100_000
    assert talk(STAGED, positions=100)[0].max_new_tokens == 50
    model = ScriptedModel(STAGED, positions=50)
    model.is_decoder = False
    assert Session(model, Prompts(), Settings()).max_new_tokens == 50


def local_session(context, max_new_tokens=10, parts=None):
    model = LocalModel(*(parts or sharpened(max_length=1024)), Sampling(temperature=0))
    return Session(model, Prompts(system="Be kind."), Settings(context, max_new_tokens))


def test_fifty_turns_stay_within_the_context_and_compute_only_what_is_new():
    session = local_session(context=200)
    lengths, total = [], []
    session.model.model.get_decoder().register_forward_pre_hook(
        lambda module, positional, named: lengths.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    computed = []
    for turn in range(50):
        lengths.clear()
        notices = [each for each in said(session, f"How are you {turn % 10}?") if isinstance(each, SessionEvent)]
        assert all(re.search("no longer sees|cut off at 10 tokens", notice.text) for notice in notices)
        computed.append(lengths[0])
        total.append(session.stats.prefilled + session.stats.cached + session.stats.tokens)
        session.prepare()
    assert len(session.all_stats) == 50 and session._conversation.seen_from > 0
    assert max(total) <= 200
    assert set(computed[1:]) == {computed[1]}  # at equal new tokens, no more in turn 50 than in turn 2


def test_what_is_said_does_not_depend_on_what_is_kept():
    kept, afresh = local_session(200), local_session(200)
    for turn in range(12):
        for session in (kept, afresh):
            said(session, f"How are you {turn}?")
        assert kept.history == afresh.history
        kept.prepare()
        cache = afresh._conversation.cache  # the same tokens, none of them computed
        cache.states, cache.ids = None, []
        afresh._cut(afresh._conversation, [*afresh.history, {"role": "user", "content": "a"}], margin=200 // 8)
    assert sum(stats.cached for stats in kept.all_stats) > 500 == 500 + sum(stats.cached for stats in afresh.all_stats)
    kept.leave()
    assert kept._conversation.cache.states is None


def test_an_encoder_decoder_in_a_session():
    t5, tokenizer = tiny_t5()
    session = Session(LocalModel(t5, tokenizer, Sampling(1.0, 1.0, seed=2)), Prompts(), Settings(60, 8))
    assert session.max_new_tokens == 8
    for turn in range(8):
        said(session, f"I lost my keys {turn}.")
        session.prepare()
    assert session._conversation.seen_from > 0
    assert all(stats.prefilled <= 60 and stats.cached == 0 for stats in session.all_stats)


@pytest.mark.parametrize("way", ["leave", "reset", "stop"])
def test_prepare_ends_when_the_user_does_not_wait_for_it(way):
    session, model = talk(["One."], ["Two."])
    said(session)
    began = threading.Event()

    def endless(prompts, cache, stop):
        began.set()
        while not stop.is_set():
            time.sleep(0.001)

    model.prefill = endless
    preparing = threading.Thread(target=session.prepare, daemon=True)
    preparing.start()
    assert began.wait(5)
    if way == "stop":  # of a reply that waits for it
        threading.Timer(0.1, session.stop).start()
        assert said(session) == [SessionEvent("stopped")]
    else:
        getattr(session, way)()
    preparing.join(5)
    assert not preparing.is_alive()


def test_prepare_leaves_errors_to_send(monkeypatch):
    session, model = talk(["One."])
    said(session)
    monkeypatch.setattr(model, "prefill", lambda *arguments: (_ for _ in ()).throw(UserError("no memory")))
    session.prepare()
    assert said(session) == [Chunk("text", "One.")]


@pytest.mark.parametrize(("name", "well_formed"), [("chat", True), ("ed4", False), ("dialogues", True)])
def test_a_plain_reply_is_well_formed_unless_the_system_has_a_format(name, well_formed):
    session = Session(ScriptedModel(["Plain."]), Prompts(name), Settings())
    said(session)
    assert session.well_formed is well_formed
