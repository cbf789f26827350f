"""The command line's HTTP client."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from exo_node.cli.client import Client, path_of
from exo_node.errors import ExoError, PeerUnavailable
from exo_node.types import TokenDelta
from tests.unit.api.scripted import END, ScriptedBackend
from tests.unit.cli.conftest import StartNode

BODY = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "stream": True}


def test_calls_share_a_connection(start_node: StartNode) -> None:
    """Plain calls and streams follow each other on one connection; errors come with the server's words."""
    client = Client(start_node(ScriptedBackend([TokenDelta("a"), END])))
    assert client.call("GET", path_of("models", "org/name"))["id"] == "org/name"
    local = client._connection.sock.getsockname()
    events = list(client.events("/v1/chat/completions", BODY))
    assert events[1]["choices"][0]["delta"] == {"content": "a"}
    with pytest.raises(ExoError, match="no model 'nope'; there are: demo, org/name") as caught:
        client.call("GET", "/v1/models/nope")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    with pytest.raises(ExoError, match="temperature"):
        list(client.events("/v1/chat/completions", {**BODY, "temperature": 9}))
    assert local  # the first three used it; the failed stream hung up
    assert client.call("GET", "/v1/healthcheck") == {"status": "ok"}
    client.close()


def test_an_error_frame_raises(start_node: StartNode) -> None:
    """A failure in the middle of a stream raises after what came before it."""
    client = Client(start_node(ScriptedBackend([TokenDelta("a"), PeerUnavailable("node b is gone")])))
    got = []
    with pytest.raises(ExoError, match="node b is gone"):
        for event in client.events("/v1/chat/completions", BODY):
            got.append(event)
    assert got[-1]["choices"][0]["delta"] == {"content": "a"}


def test_the_key_is_sent(start_node: StartNode) -> None:
    """A client with the key gets in, one without is told how a command line sends one."""
    url = start_node(ScriptedBackend([END]), api_key="k")
    Client(url, "k").call("GET", "/v1/models")
    with pytest.raises(ExoError, match=r"wants an API key.*--api-key KEY"):
        Client(url).call("GET", "/v1/models")


def test_nobody_there() -> None:
    """A refused connection names the URL."""
    with pytest.raises(PeerUnavailable, match=r"no node answers at http://127.0.0.1:1:"):
        Client("http://127.0.0.1:1").connect()


@pytest.fixture
def rude_server() -> Iterator[str]:
    """Answers anything with a stream that breaks off, or with something that is no API at all."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in (
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {}\n\n",
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<htm>",
                b"SSH-2.0-nope\r\n",
            ):
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(1)
                    connection.recv(65536)
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)
                    # Closing with a part of the request unread would reset the connection instead of ending it.
                    with contextlib.suppress(TimeoutError):
                        while connection.recv(65536):
                            pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


def test_answers_that_are_none(rude_server: str) -> None:
    """A stream without its end, a web page, and another protocol are errors in words."""
    with pytest.raises(PeerUnavailable, match="broke off"):
        list(Client(rude_server).events("/", {}))
    with pytest.raises(ExoError, match="is that an exo node"):
        Client(rude_server).call("GET", "/")
    with pytest.raises(PeerUnavailable, match="lost the node"):
        Client(rude_server).call("GET", "/")
