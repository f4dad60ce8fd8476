"""The page: a conversation, a line to write in, and what its buttons do."""

import html
from collections.abc import Iterator

import gradio as gr

from empathy_trl.chat.web.view import problem_html, turn_html
from empathy_trl.chat.web.visitors import Visitors
from empathy_trl.errors import UserError

LONGEST_MESSAGE = 4000  # characters
AT_ONCE = 8  # replies; more of them wait in the queue
LONGEST_QUEUE = 64
FORGOTTEN = "What was said before was left alone for too long and is forgotten; this message begins a new conversation."
# browsers cut a paste without a word
FULL = f"text => text.length < {LONGEST_MESSAGE} ? '' : 'The message is full: {LONGEST_MESSAGE} characters.'"
# of every event: no route of its own, and no spinner over what is being read
QUIET = {"api_visibility": "private", "show_progress": "hidden"}


def theme() -> gr.themes.Base:
    """Return a theme whose fonts are the reader's own, so that none is fetched."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gr.themes.Default(primary_hue="teal", neutral_hue="slate", **fonts).set(
        button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_600"
    )


def build_page(visitors: Visitors, title: str) -> gr.Blocks:
    """Return the page, for `gradio.mount_gradio_app`; `title` stands above it."""
    return _Page(visitors, title).blocks


class _Page:
    """The components and what happens on their events.

    What is shown comes from the server's conversations alone: of what a browser sends, only the message is taken.
    """

    def __init__(self, visitors: Visitors, title: str):
        self.visitors = visitors
        with gr.Blocks(title=title, analytics_enabled=False, fill_height=True) as self.blocks:
            gr.HTML(f"<h1>{html.escape(title)}</h1>", elem_id="title")
            self.past = gr.HTML(elem_id="past")
            # apart from the past, which need not be sent again with every word
            self.live = gr.HTML(elem_id="live", autoscroll=True)
            with gr.Column(elem_id="bar"):
                self.problem = gr.HTML(elem_id="problem")
                with gr.Row():
                    self._build_bar()
            self.talked = gr.State(False)
            self._connect()
        self.blocks.queue(max_size=LONGEST_QUEUE, api_open=False)

    def _build_bar(self):
        self.box = gr.Textbox(
            label="Message",
            placeholder="Your message",
            max_length=LONGEST_MESSAGE,
            max_lines=8,
            show_label=False,
            container=False,
            autofocus=True,
            scale=8,
        )
        self.send = gr.Button("Send", variant="primary", scale=0, min_width=72)
        self.stop = gr.Button("Stop", variant="stop", scale=0, min_width=72, visible=False)
        self.reset = gr.Button("Reset", scale=0, min_width=72)

    def _connect(self):
        shown = [self.box, self.past, self.live, self.problem, self.send, self.stop, self.talked]
        said = [self.box, self.talked]
        gr.on([self.box.submit, self.send.click], self._reply, said, shown, concurrency_limit=AT_ONCE, **QUIET)
        unlimited = {"concurrency_limit": None, **QUIET}
        self.box.input(None, self.box, self.problem, js=FULL, api_visibility="private")
        self.stop.click(self._stop, **unlimited)
        # shown by an event of its own: that of a reply which was stopped sends its last state again when it ends
        self.reset.click(self._forget, **unlimited).then(self._empty, None, shown, **unlimited)
        self.blocks.unload(self._leave)

    def _reply(self, message: str, talked: bool, request: gr.Request) -> Iterator[dict]:
        try:
            message = checked(message)
            conversation = self.visitors.open(request.session_hash)
            past = conversation.turns
            changes = {
                self.box: "",
                self.past: "".join(turn_html(turn) for turn in past),
                self.problem: "",
                self.talked: True,
                **self._buttons(replying=True),
            }
            for turn in conversation.reply(message, [FORGOTTEN] if talked and not past else []):
                if turn.done:
                    changes |= self._buttons(replying=False)
                yield {self.live: turn_html(turn), **changes}
                changes = {}
        except UserError as error:
            yield {self.problem: problem_html(str(error))}

    def _stop(self, request: gr.Request):
        if conversation := self.visitors.find(request.session_hash):
            conversation.stop()

    def _forget(self, request: gr.Request):
        if conversation := self.visitors.find(request.session_hash):
            conversation.reset()

    def _empty(self) -> dict:
        empty = {self.past: "", self.live: "", self.problem: ""}
        return {**empty, self.talked: False, **self._buttons(replying=False)}

    def _leave(self, request: gr.Request):
        self.visitors.drop(request.session_hash)

    def _buttons(self, replying: bool) -> dict:
        return {self.send: gr.update(visible=not replying), self.stop: gr.update(visible=replying)}


def checked(message: object) -> str:
    """Return a message that may be sent; UserError for one that may not, since a client can post what it likes."""
    if not isinstance(message, str) or not message.strip():
        raise UserError("there is no message; write something")
    if len(message) > LONGEST_MESSAGE:
        raise UserError(f"the message has {len(message)} characters; expected at most {LONGEST_MESSAGE}")
    return message.encode("utf-8", "replace").decode()  # halves of surrogate pairs, which no tokenizer takes
