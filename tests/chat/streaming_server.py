"""A server that streams chat completions as a script says, one event after the other."""

import json
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.local_server import LocalServer


def event(text: str, finish: str | None = None) -> bytes:
    """Return a server-sent event with a chunk of a reply."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


class StreamingServer(LocalServer):
    """Answers every request with what `script(request)` returns.

    That is an iterable of texts (an event each; the end is sent behind them) and bytes (sent as they are, and then no end),
    which may wait in between; or a pair (status, body).

    Attributes:
        requests: bodies of all requests, in order.
        headers: of all requests, names in lower case.
        left: is set when a client closed the connection before the end.
    """

    def __init__(self, script: Callable[[dict], Iterable[str | bytes] | tuple[int, bytes]]):
        self.script, self.requests, self.headers, self.left = script, [], [], threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            log_message = lambda *arguments: None

            def do_POST(self):
                server.requests.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
                server.answer(self, server.script(server.requests[-1]))

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def answer(self, handler, steps):
        status, body = steps if isinstance(steps, tuple) else (200, None)
        handler.send_response(status)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        if body is not None:
            handler.wfile.write(body)
            return
        ends = True
        try:
            for step in steps:
                ends = ends and isinstance(step, str)
                handler.wfile.write(event(step) if isinstance(step, str) else step)
                handler.wfile.flush()
            if ends:
                handler.wfile.write(event("", "stop") + DONE)
        except OSError:
            self.left.set()
