import builtins
import socket
import sys

import pytest

from empathy_trl.chat.web import serve
from empathy_trl.chat.web.server import build_app, listen


@pytest.fixture
def no_server(monkeypatch):
    """Nothing is built or served, so that only what is around it runs; returns the addresses listened on."""
    addresses = []

    class Server:
        def run(self, sockets):
            addresses.extend(each.getsockname() for each in sockets)

    monkeypatch.setattr("empathy_trl.chat.web.server.build_app", lambda visitors, title: None)
    monkeypatch.setattr("empathy_trl.chat.web.server.make_server", lambda app, visitors: Server())
    return addresses


def test_listens_on_this_machine_only(no_server, capsys):
    serve(None, "a model", port=0)
    ((host, port),) = no_server
    assert host == "127.0.0.1"
    printed = capsys.readouterr()
    assert printed.out == f"a model: http://127.0.0.1:{port} (Ctrl-C ends it)\n"
    assert printed.err == ""


def test_warns_when_others_reach_it(no_server, capsys):
    serve(None, "a model", host="0.0.0.0", port=0)
    assert capsys.readouterr().err == (
        "warning: listening on 0.0.0.0: anybody who reaches this port can use the model\n"
    )


def test_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1, port {port}: .* a free port"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("no such host", 0), ("192.0.2.1", 0), ("127.0.0.1", 70000)])
def test_address_that_is_none(host, port):
    with pytest.raises(
        ValueError, match=f"cannot listen on {host}, port {port}: .*expected an address of this machine"
    ):
        listen(host, port)


def test_missing_gradio(monkeypatch):
    kept = builtins.__import__

    def without_gradio(name, *args, **kwargs):
        if name == "gradio":
            raise ImportError("No module named 'gradio'")
        return kept(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "gradio", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_gradio)
    with pytest.raises(ValueError, match=r'needs gradio \(No module .*expected: pip install "empathy-trl\[web\]"'):
        build_app(None, "a model")
