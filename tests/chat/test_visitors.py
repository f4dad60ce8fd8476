import threading

import pytest

from empathy_trl.chat.local import LocalModel
from empathy_trl.chat.reply import Sampling
from empathy_trl.chat.session import Session, SessionEvent, Settings
from empathy_trl.chat.setup import Prompts
from empathy_trl.chat.web.visitors import Conversation, Visitors
from empathy_trl.errors import UserError
from tests.chat.scripted_session import ScriptedSession, Wait


@pytest.fixture
def clock():
    """A clock that a test sets: `clock.now`."""

    def read():
        return read.now

    read.now = 0.0
    return read


@pytest.fixture
def make_visitors(clock):
    """Return a function that makes Visitors with scripted sessions; `made` has these."""
    everybody = []

    def make(scripts=None, **settings):
        made = []

        def make_session():
            made.append(ScriptedSession(scripts))
            return made[-1]

        everybody.append(Visitors(make_session, clock=clock, **settings))
        everybody[-1].made = made
        return everybody[-1]

    yield make
    for visitors in everybody:
        visitors.close()


def talk(conversation, message):
    """Return the turn at the end of its reply."""
    return [*conversation.reply(message)][-1]


def test_each_key_has_a_conversation_of_its_own(make_visitors):
    visitors = make_visitors()
    assert talk(visitors.open("a"), "apples").texts["respond"] == "I know of: apples"
    assert talk(visitors.open("b"), "pears").texts["respond"] == "I know of: pears"
    assert talk(visitors.open("a"), "plums").texts["respond"] == "I know of: apples, plums"
    assert visitors.find("c") is None


@pytest.mark.parametrize("key", [None, ""])
def test_a_conversation_has_a_key(make_visitors, key):
    with pytest.raises(UserError, match="no session: expected a request of this page"):
        make_visitors().open(key)


def test_sessions_are_made_with_the_first_message(make_visitors):
    visitors = make_visitors()
    conversation = visitors.open("a")
    assert visitors.made == []
    talk(conversation, "hello")
    assert len(visitors.made) == 1


def test_longest_idle_goes_first(make_visitors, clock):
    visitors = make_visitors(most=2)
    for clock.now, key in enumerate(["a", "b", "a", "c"]):
        visitors.open(key)
    assert visitors.find("b") is None
    assert visitors.find("a") and visitors.find("c")


def test_idle_conversations_are_dropped(make_visitors, clock):
    visitors = make_visitors(idle_seconds=60)
    first = visitors.open("a")
    talk(first, "hello")
    clock.now = 60.0
    assert visitors.open("b") and visitors.find("a") is first
    clock.now = 61.0
    visitors.open("b")
    assert visitors.find("a") is None
    assert visitors.open("a") is not first


def test_own_conversation_is_kept_however_late(make_visitors, clock):
    visitors = make_visitors(idle_seconds=60)
    first = visitors.open("a")
    clock.now = 1000.0
    assert visitors.open("a") is first


def test_nobody_who_is_talked_to_is_dropped(make_visitors):
    waiting = Wait()
    visitors = make_visitors({"long": ["words", waiting]}, most=1)
    reply = visitors.open("a").reply("long")
    next(reply)
    with pytest.raises(UserError, match="all 1 places are taken; try again in a minute"):
        visitors.open("b")
    waiting.set()
    assert [*reply][-1].done
    assert visitors.open("b")


def test_one_reply_at_a_time():
    waiting = Wait()
    conversation = Conversation(lambda: ScriptedSession({"long": ["words", waiting]}))
    reply = conversation.reply("long")
    next(reply)
    with pytest.raises(UserError, match="a reply is being written; wait for its end, or stop it"):
        next(conversation.reply("again"))
    waiting.set()
    assert [*reply][-1].texts == {"text": "words"}
    assert talk(conversation, "again").done
    conversation.close()


def test_reader_who_leaves_stops_the_reply():
    session = ScriptedSession({"long": ["words", Wait()]})
    conversation = Conversation(lambda: session)
    reply = conversation.reply("long")
    next(reply), next(reply)
    reply.close()
    assert talk(conversation, "again").texts["respond"] == "I know of: long, again"
    conversation.close()


def test_stopped_before_it_began():
    made = threading.Event()

    def make_session():
        made.wait(10)
        return ScriptedSession()

    conversation = Conversation(make_session)
    reply = conversation.reply("hello")
    next(reply)
    conversation.stop()
    made.set()
    last = [*reply][-1]
    assert (last.texts, last.before, last.done) == ({}, ["stopped"], True)
    conversation.close()


def test_works_ahead_after_each_whole_reply():
    session = ScriptedSession({"long": ["words", Wait()], "bad": [UserError("no")]})
    conversation = Conversation(lambda: session)
    talk(conversation, "hello")
    reply = conversation.reply("long")
    next(reply)
    conversation.stop()
    assert [*reply][-1].done
    assert talk(conversation, "bad").error == "no"
    conversation.reset()  # after all else that its thread had to do
    assert session.prepared == 1
    conversation.close()


def test_working_ahead_that_fails_is_logged_only(caplog):
    session = ScriptedSession()
    session.prepare = lambda: 1 / 0
    conversation = Conversation(lambda: session)
    assert talk(conversation, "hello").error == ""
    assert talk(conversation, "again").error == ""
    conversation.reset()
    assert "working ahead failed" in caplog.text and "ZeroDivisionError" in caplog.text
    conversation.close()


def test_session_that_cannot_be_made():
    def make_session():
        raise UserError("--model: no such folder")

    conversation = Conversation(make_session)
    assert talk(conversation, "hello").error == "--model: no such folder"
    conversation.close()


def test_stopped_reply_is_no_broken_one():
    session = ScriptedSession({"long": ["<react>*nods* + *sits*</react>", Wait()], "odd": ["<respond>x"]})
    conversation = Conversation(lambda: session)
    reply = conversation.reply("long")
    next(reply), next(reply)
    conversation.stop()
    last = [*reply][-1]
    assert (last.broken, last.after) == ("", ["stopped"])
    assert talk(conversation, "odd").broken == "<respond>x"
    conversation.close()


def test_figures_are_those_of_this_reply():
    session = ScriptedSession({"silent": [SessionEvent("the model said nothing")]})
    conversation = Conversation(lambda: session)
    assert talk(conversation, "hello").stats
    assert talk(conversation, "silent").stats == ""
    conversation.close()


def test_with_a_real_session(tiny):
    model, tokenizer = tiny
    local = LocalModel(model, tokenizer, Sampling(temperature=1.0, seed=1))
    visitors = Visitors(lambda: Session(local, Prompts(), Settings(max_new_tokens=8)))
    conversation = visitors.open("a")
    turns = [talk(conversation, message) for message in ("I was so scared.", "And lost.", "x" * 400)]
    assert all(turn.texts["text"] and "tokens/s" in turn.stats for turn in turns[:2])
    assert "the message is too long" in turns[2].error
    conversation.reset()
    assert talk(conversation, "I was so scared.").done
    visitors.close()


def test_who_is_dropped_leaves_the_model_to_others(make_visitors):
    visitors = make_visitors()
    list(visitors.open("a").reply("Hi"))
    visitors.drop("a")
    assert visitors.made[0].left
