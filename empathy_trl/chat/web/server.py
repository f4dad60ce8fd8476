"""The web server of the chat."""

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from empathy_trl.chat.web.visitors import Visitors
from empathy_trl.errors import UserError
from empathy_trl.models.api import on_this_machine

STYLE = Path(__file__).with_name("style.css")
SECONDS_TO_CLOSE = 2  # for connections that pages hold open


def serve(make_session: Callable, title: str, host: str = "127.0.0.1", port: int = 7860):
    """Serve the chat as a web page until interrupted; prints the address once it can be opened.

    Args:
        make_session: returns a new `Session`; called for every visitor, when the first message comes.
        title: above the page, such as the name of the model.
        host: address to listen on. Anybody who reaches it can use the model: beyond this machine it is warned about.
        port: 0 takes a free one.

    Raises:
        UserError: gradio is missing, or the address cannot be listened on.
    """
    visitors = Visitors(make_session)
    app = build_app(visitors, title)
    listening = listen(host, port)
    if not on_this_machine(_address(host, port)):
        print(f"warning: listening on {host}: anybody who reaches this port can use the model", file=sys.stderr)
    print(f"{title}: {_address(host, listening.getsockname()[1])} (Ctrl-C ends it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):  # the way to end it
        make_server(app, visitors).run(sockets=[listening])


def build_app(visitors: Visitors, title: str):
    """Return the ASGI application.

    Raises:
        UserError: gradio is missing.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported, and when a page is built
    try:
        import gradio
    except ImportError as error:
        raise UserError(f'the web page needs gradio ({error}); expected: pip install "empathy-trl[web]"') from error
    from fastapi import FastAPI

    from empathy_trl.chat.web.page import build_page, theme

    app = FastAPI()
    return gradio.mount_gradio_app(
        app,
        build_page(visitors, title),
        path="/",
        theme=theme(),
        css_paths=STYLE,
        footer_links=[],
        run_history=False,
        show_error=False,  # what went wrong stands in the server's log
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
    )


def make_server(app, visitors: Visitors):
    """Return a uvicorn server of what `build_app` made; `run(sockets=[…])` starts it."""
    import uvicorn

    class Server(uvicorn.Server):
        """Ends what pages hold open before it waits for them in `shutdown`: their replies, and the signs of life."""

        async def shutdown(self, sockets=None):
            visitors.close()
            for route in app.routes:
                if (stop := getattr(getattr(route, "app", None), "stop_event", None)) is not None:
                    stop.set()
            await super().shutdown(sockets)

    return Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SECONDS_TO_CLOSE))


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; UserError where it cannot."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen on {host}, port {port}: {error}; expected an address of this machine and a free "
            "port (0 takes one)"
        ) from error


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
