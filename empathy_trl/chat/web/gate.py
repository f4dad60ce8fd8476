"""What of the page's server can be reached: the page, its files, and the queue that it sends messages to.

Gradio also offers uploads, downloads, a proxy, documents of its API and more, which this page does not need.
"""

import re

# method -> paths, as asked for by the page in a browser
_OPEN = {
    "GET": re.compile(
        r"/|/config|/theme\.css|/manifest\.json|/favicon\.ico|/robots\.txt|/(?:assets|static)/.+"
        r"|/gradio_api/(?:info|startup-events|queue/data|heartbeat/\w+)"
    ),
    "POST": re.compile(r"/gradio_api/(?:queue/join|cancel)"),
}
LARGEST_BODY = 100_000  # bytes: a message of full length, every character of it escaped, fits
HEADERS = {
    # the page's own scripts are inline, and gradio makes functions of templates; nothing comes from or goes to elsewhere
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; frame-ancestors 'self'; form-action 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Gate:
    """ASGI middleware: 404 for what the page does not ask for, 411 and 413 for bodies of unknown or large size."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        status = refusal(scope)
        if status is None:
            return await self.app(scope, receive, _with_headers(send))
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close"})
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})


def refusal(scope: dict) -> int | None:
    """Return the HTTP status with which a request is refused; None for one that may pass."""
    if scope["type"] != "http":
        return 404
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    if method not in _OPEN or not _OPEN[method].fullmatch(scope["path"]):
        return 404
    length = dict(scope["headers"]).get(b"content-length", b"" if method == "POST" else b"0")
    if not length.isdigit():
        return 411
    return 413 if int(length) > LARGEST_BODY else None


def _with_headers(send):
    async def send_with_headers(message):
        if message["type"] == "http.response.start":
            added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message["headers"], *added]}
        await send(message)

    return send_with_headers
