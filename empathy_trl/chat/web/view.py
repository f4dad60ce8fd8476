"""What the page shows of a turn, as HTML. What users and models wrote is text in it, whatever they wrote."""

import html
from dataclasses import dataclass, field

from empathy_trl.chat.reply import Chunk
from empathy_trl.chat.session import SPOKEN, SessionEvent, Stats
from empathy_trl.tags import REACT, REFLECT, RESPOND
from empathy_trl.text import printable

BREAKS = "This reply breaks its format and is shown as it is."


@dataclass
class Turn:
    """A message and what has come of its reply so far.

    Attributes:
        user: the message.
        texts: part -> text; the parts are those of `Chunk`.
        complete: parts that are complete.
        before, after: what the user should know, such as that the history was cut; above and below the reply.
        error: why there is no reply, or no more of it.
        broken: the whole reply, if it breaks its format.
        stats: how fast it was, in words.
        done: whether the reply has ended.
    """

    user: str
    texts: dict[str, str] = field(default_factory=dict)
    complete: set[str] = field(default_factory=set)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    error: str = ""
    broken: str = ""
    stats: str = ""
    done: bool = False

    def add(self, chunk: Chunk | SessionEvent):
        """Take what comes next."""
        if isinstance(chunk, SessionEvent):
            (self.after if self.texts else self.before).append(chunk.text)
            return
        self.texts[chunk.part] = self.texts.get(chunk.part, "") + chunk.text
        if chunk.complete:
            self.complete.add(chunk.part)


def latency(stats: Stats) -> str:
    """Return how fast a reply was, in words; what did not come is left out."""
    figures = [("reaction after {:.2f} s", stats.reaction), ("first word after {:.2f} s", stats.first_word)]
    figures.append(("{:.1f} tokens/s", stats.tokens_per_second))
    return " · ".join(words.format(figure) for words, figure in figures if figure is not None)


def turn_html(turn: Turn) -> str:
    """Return a turn: the message, the notices, the reply as far as it goes."""
    before, after = (
        "".join(_element("p", "notice", notice) for notice in notices) for notices in (turn.before, turn.after)
    )
    body = _element("div", "user", turn.user) + before + _reply(turn) + after + problem_html(turn.error)
    return f'<section class="turn">{body}</section>'


def problem_html(problem: str) -> str:
    """Return why a message was not taken, or has no reply."""
    return _element("p", "error", problem, role="alert")


def _reply(turn: Turn) -> str:
    if turn.broken:
        body = [_element("div", "spoken", turn.broken), _element("p", "mark", BREAKS)]
    else:
        body = [_reaction(turn), _reasoning(turn), *_spoken(turn), _waiting(turn), _reflection(turn)]
    body.append(_element("p", "stats", turn.stats))
    return f'<div class="reply">{"".join(body)}</div>' if any(body) else ""


def _reaction(turn: Turn) -> str:
    """The reaction as soon as it is complete; without the asterisks, for which it stands in italics."""
    if REACT not in turn.complete and not turn.done:
        return ""
    return _element("p", "reaction", turn.texts.get(REACT, "").replace("*", ""))


def _reasoning(turn: Turn) -> str:
    """A drawer that is open until there is something else to read."""
    return _drawer("reasoning", "Reasoning", turn.texts.get("reasoning", ""), is_open="reasoning" not in turn.complete)


def _spoken(turn: Turn) -> list[str]:
    return [_element("div", f"spoken {part}", turn.texts.get(part, "")) for part in SPOKEN]


def _waiting(turn: Turn) -> str:
    """That there is more to come, where nothing can be seen to come."""
    if turn.done or RESPOND not in turn.complete and any(turn.texts.get(part, "").strip() for part in SPOKEN):
        return ""
    return _element("p", "waiting", "reflecting …" if RESPOND in turn.complete else "…", role="status")


def _reflection(turn: Turn) -> str:
    """A closed drawer, once the reply has ended: a drawer that is still written in would close under the reader."""
    return _drawer("reflection", "Reflection", turn.texts.get(REFLECT, "")) if turn.done else ""


def _drawer(kind: str, title: str, text: str, is_open: bool = False) -> str:
    if not text.strip():
        return ""
    state = " open" if is_open else ""
    return f'<details class="{kind}"{state}><summary>{title}</summary>{_element("div", "thought", text)}</details>'


def _element(tag: str, kind: str, text: str, **attributes: str) -> str:
    """Return an element that holds text, "" if there is none; the text's direction stays inside of it."""
    if not text.strip():
        return ""
    extra = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f'<{tag} class="{kind}" dir="auto"{extra}>{html.escape(printable(text.strip()))}</{tag}>'
