"""The chat as a web page built from Gradio's components, with one session per open page and replies shown in parts."""

import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from weakref import WeakSet

from empathy_trl.chat.reply import Chunk
from empathy_trl.chat.session import Session, Stats
from empathy_trl.errors import UserError
from empathy_trl.io import without_proxies
from empathy_trl.models.api import on_this_machine
from empathy_trl.tags import REFLECT, THOUGHT, completion_text
from empathy_trl.text import sanitise

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
try:
    with without_proxies():  # it makes an HTTP client, which refuses some
        import gradio as gr
except ImportError as error:
    raise UserError(f'--web: needs gradio ({error}); install it with pip install "empathy-trl[web]"') from error

REPLIES_AT_ONCE = 8  # further messages wait in the queue
LONGEST_QUEUE = 64
BREAKS_FORMAT = "This reply breaks its format and is shown as it is."
THINKING, FOLDED = "Thinking …", "Thought"  # title of a thought while it is written, and after that
# parts with a title: thoughts and reasoning collapse when they are complete, a reflection is collapsed from the beginning
TITLED = {
    THOUGHT: {"title": THINKING, "status": "pending"},
    "reasoning": {"title": "Reasoning", "status": "pending"},
    REFLECT: {"title": "Reflection", "status": "done"},
}

log = logging.getLogger(__name__)


def serve(new_session: Callable[[], Session], title: str, host: str = "127.0.0.1", port: int = 7860):
    """Serve the chat as a web page until interrupted; prints its address once it can be opened.

    Args:
        new_session: called for every page that is opened.
        title: above the conversation, such as the name of the model.
        host: address to listen on. Anybody who reaches it can use the model: beyond this machine, a warning says so.
        port: 0 takes a free one.

    Raises:
        UserError: the address cannot be listened on.
    """
    sessions = WeakSet()

    def new_tracked_session() -> Session:
        sessions.add(session := new_session())
        return session

    page = build_page(new_tracked_session, title)
    if not on_this_machine(f"http://[{host}]" if ":" in host else f"http://{host}"):
        print(f"warning: listening on {host}: anyone who can reach this port can use the model", file=sys.stderr)
    print(f"{title}: {launch(page, host, port)} (Ctrl-C ends it)", flush=True)
    with suppress(KeyboardInterrupt):  # the way to end it
        threading.Event().wait()
    for session in list(sessions):
        session.leave()
    page.close(verbose=False)


def launch(page: gr.Blocks, host: str, port: int) -> str:
    """Start the server of a page in a thread and return its address; `page.close()` ends it."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((host, port), family=family) as free:
            port = free.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen on {host}, port {port}: {error}; expected an address of this machine and a free port (0 takes one)"
        ) from error
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # nothing is downloaded
    theme = gr.themes.Default(**fonts)
    where = {"server_name": host, "server_port": port, "share": False, "ssr_mode": False}
    with without_proxies():  # Gradio requests the new page from itself
        _, url, _ = page.launch(theme=theme, footer_links=[], quiet=True, prevent_thread_lock=True, **where)
    return url


def build_page(new_session: Callable[[], Session], title: str) -> gr.Blocks:
    """Return the page."""
    open_pages: dict[str, PageState] = {}

    def start(request: gr.Request) -> PageState:
        open_pages[request.session_hash] = PageState(new_session())
        return open_pages[request.session_hash]

    def leave(request: gr.Request):
        if state := open_pages.pop(request.session_hash, None):
            state.session.leave()

    with gr.Blocks(title=title, fill_height=True) as page:
        chat = gr.Chatbot(
            label=title, scale=1, render_markdown=False, buttons=["copy", "copy_all"], placeholder="Say something."
        )
        figures = gr.Markdown()
        box = gr.Textbox(
            placeholder="Your message", show_label=False, submit_btn=True, autofocus=True, max_lines=8, label="Message"
        )
        state = gr.State()
        shown = [chat, box, figures]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        replying = {"outputs": shown, "concurrency_limit": REPLIES_AT_ONCE, "concurrency_id": "reply", **quiet}
        at_once = {"concurrency_limit": None, **quiet}
        page.load(start, None, state, **at_once)
        page.unload(leave)
        for event in (box.submit(_send, [state, box], **replying), chat.retry(PageState.retry, state, **replying)):
            event.then(_prepare, state, None, **at_once)
        box.stop(PageState.stop, state, None, **at_once)
        chat.undo(PageState.undo, state, shown, **at_once)
        # shown by an event of its own, after the last one of a reply that it stops
        chat.clear(PageState.clear, state, None, **at_once).then(PageState.show, state, shown, **at_once)
    page.queue(max_size=LONGEST_QUEUE, api_open=False)
    return page


def _send(state: "PageState | None", message: str) -> Iterator[tuple]:
    """Reply to a message."""
    if state is None:  # Gradio keeps the state of a page for an hour after its connection is lost
        gr.Warning("this conversation was left alone for too long; reload the page", duration=None)
        return
    yield from state.send(message)


def _prepare(state: "PageState | None"):
    """Work ahead for the next turn while the user reads."""
    if state:
        state.session.prepare()


@dataclass
class Turn:
    """A message and what the page shows of its reply.

    Attributes:
        message: by the user.
        reply: messages as `gr.Chatbot` takes them; a part of the reply is one, and so is a note to the user.
        part: of the reply, which the last message of `reply` holds and goes on with; None where the next part begins anew.
        remembered: whether the session has this turn in its history.
    """

    message: str
    reply: list[dict] = field(default_factory=list)
    part: str | None = None
    remembered: bool = False

    def add(self, chunk: Chunk):
        """Show what is new in the reply."""
        text = _plain(chunk.text)
        if chunk.part != self.part:
            text = text.lstrip()
            if not text:  # white space between parts
                return
            self.part = chunk.part
            self.reply.append(_message("", **TITLED.get(chunk.part, {})))
        last = self.reply[-1]
        last["content"] += text
        if chunk.complete:
            self._fold()

    def _fold(self):
        """Collapse the last part if it has a title."""
        self.part, last = None, self.reply[-1]
        last["content"] = last["content"].rstrip()
        if last["metadata"]:
            title = last["metadata"]["title"]
            last["metadata"] = {"title": FOLDED if title == THINKING else title, "status": "done"}

    def note(self, text: str):
        """Show what the user has to know, apart from the reply."""
        if self.part is not None:  # it was cut off
            self._fold()
        self.reply.append(_message("", title=_plain(text)))


class PageState:
    """The state of an open page: its session, and the turns that it shows.

    The methods are what the page's events do; those that yield or return a tuple give the values of chat, box and figures.
    """

    def __init__(self, session: Session):
        self.session = session
        self.turns: list[Turn] = []
        self._writing = threading.Lock()  # held from a message to the end of its reply

    def send(self, message: str) -> Iterator[tuple]:
        """Reply to a message from the box, which is emptied."""
        if message.strip():
            yield from self._reply(message, gr.Textbox("", submit_btn=False, stop_btn=True))

    def retry(self) -> Iterator[tuple]:
        """Reply to the last message anew."""
        if self.turns and not self._is_writing():
            yield from self._reply(self._take_back(), gr.Textbox(submit_btn=False, stop_btn=True))

    def undo(self) -> tuple:
        """Take the last turn back; its message returns to the box."""
        if self._is_writing():
            return gr.skip(), gr.skip(), gr.skip()
        message = self._take_back()
        return self._chat(), message, ""

    def stop(self):
        """End the reply that is being written; what there is of it stays."""
        self.session.stop()

    def clear(self):
        """Forget everything, once the reply that is being written has ended."""
        self.stop()
        with self._writing:
            self.session.reset()
            self.turns = []

    def show(self) -> tuple:
        """Show the conversation, and a box to write in."""
        return self._chat(), gr.Textbox(submit_btn=True, stop_btn=False), ""

    def _reply(self, message: str, box: gr.Textbox) -> Iterator[tuple]:
        if self._is_writing():
            return
        with self._writing:
            try:
                figures = yield from self._write(message, box)
            except UserError as error:  # the message is not taken, and stays in the box
                gr.Warning(_plain(str(error)), duration=None)
                return
        # only now, since the next message is refused while a reply is being written
        yield self._chat(), gr.Textbox(submit_btn=True, stop_btn=False), figures

    def _write(self, message: str, box: gr.Textbox) -> Generator[tuple, None, str]:
        """Write the reply to a message; returns how fast it was, see `latency`."""
        before, stats = len(self.session.history), self.session.stats
        with closing(self.session.send(message)) as items:
            turn = Turn(message)
            self.turns.append(turn)
            yield self._chat(), box, ""
            try:
                for item in items:
                    turn.add(item) if isinstance(item, Chunk) else turn.note(item.text)
                    yield self._chat(), gr.skip(), gr.skip()
            except UserError as error:
                turn.note(f"Error: {error}")
            except Exception:
                log.exception("a reply failed")
                turn.note("Error: the reply failed; the server's log says why.")
            finally:
                turn.remembered = len(self.session.history) > before
        if turn.remembered and self.session.well_formed is False:
            thoughts = [part for part in turn.reply if part["metadata"].get("title") == FOLDED]
            turn.reply = [*thoughts, _message(_plain(completion_text(self.session.history[-1:])))]
            turn.note(BREAKS_FORMAT)
        return "" if self.session.stats is stats else latency(self.session.stats)

    def _is_writing(self) -> bool:
        """Whether a reply is being written, of which a toast reminds the user."""
        if self._writing.locked():
            gr.Warning("the last reply is still being written; stop it first")
        return self._writing.locked()

    def _take_back(self) -> str:
        """Remove the last turn and return its message, "" where there is none."""
        if not self.turns:
            return ""
        turn = self.turns.pop()
        if turn.remembered:
            self.session.undo()
        return turn.message

    def _chat(self) -> list[dict]:
        return [each for turn in self.turns for each in (_message(_plain(turn.message), "user"), *turn.reply)]


def _message(content: str, role: str = "assistant", **metadata: str) -> dict:
    """Return a message as `gr.Chatbot` takes it; one with a `title` is folded away behind it."""
    return {"role": role, "content": content, "metadata": metadata}


def _plain(text: str) -> str:
    """Return a text that the chat shows as it is: Gradio renders HTML even where it does not render Markdown."""
    return sanitise(text).replace("&", "&amp;").replace("<", "&lt;")


def latency(stats: Stats) -> str:
    """Return how fast a reply was, in words; what did not come is left out."""
    figures = [("reaction after {:.2f} s", stats.reaction), ("first word after {:.2f} s", stats.first_word)]
    figures.append(("{:.1f} tokens/s", stats.tokens_per_second))
    return " · ".join(words.format(figure) for words, figure in figures if figure is not None)
