"""A server that behaves as badly as it is told to, one answer of its script after the other."""

import json
import socket
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat

from tests.local_server import LocalServer

HANG, CUT = "hang", "cut"  # instead of an answer: say nothing, hang up


def chat(content, finish_reason: str = "stop", **members) -> bytes:
    """Return a chat completion with this content, and more members of its message."""
    choice = {"message": {"role": "assistant", "content": content, **members}, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice]}).encode()


def answer(content, status: int = 200, **headers: str) -> tuple:
    """Return a step of a script: a chat completion with `content` (bytes: exactly this body)."""
    return status, headers, content if isinstance(content, bytes) else chat(content)


def picky(request: dict) -> tuple | None:
    """Return how a server of reasoning models refuses a request, None for one that it takes."""
    if "max_tokens" in request:
        message = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        error = {"message": message, "param": "max_tokens", "code": "unsupported_parameter"}
    elif request.get("temperature", 1) != 1:
        message = (
            "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) is supported."
        )
        error = {"message": message, "param": "temperature", "code": "unsupported_value"}
    elif "response_format" in request:
        message = (
            "[{'type': 'extra_forbidden', 'loc': ('body', 'response_format'), 'msg': 'Extra inputs are not permitted'}]"
        )
        error = {"message": message, "param": None, "code": 400}
    else:
        return None
    return answer(json.dumps({"error": error}).encode(), 400)


def reply_of(request: dict) -> str:
    """Return the reply that a request asks a judge about."""
    return json.loads(request["messages"][1]["content"])["reply"]


class ScriptedServer(LocalServer):
    """Answers with the steps of a script, the last one for ever; or with what a function of the request returns.

    Attributes:
        base_url: for the judge.
        requests: bodies of all requests, in order.
        headers: of all requests, names in lower case.
        most_at_once: the largest number of requests that were under way at a time.
    """

    def __init__(self, script: Iterable | Callable):
        steps = None if callable(script) else iter(chain(script, repeat(list(script)[-1])))
        self.script = script if callable(script) else lambda request: next(steps)
        self.requests, self.headers = [], []
        self.under_way = self.most_at_once = 0
        self.lock, self.closed = threading.Lock(), threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            log_message = lambda *arguments: None

            def do_POST(self):
                server.handle(self)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *arguments: None  # clients that do not wait for the end
        self.base_url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def __exit__(self, *error):
        self.closed.set()
        super().__exit__(*error)

    def handle(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self.lock:
            self.requests.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self.under_way += 1
            self.most_at_once = max(self.most_at_once, self.under_way)
            step = self.script(body)
        if step == HANG:
            self.closed.wait(20)
        with self.lock:
            self.under_way -= 1
        if step in (HANG, CUT):
            handler.close_connection = True
            return
        status, headers, content = step
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)


def unused_address() -> str:
    """Return the address of a server that is not there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
