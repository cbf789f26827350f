"""How every gRPC server of ours is made and bound; the options' reasons are here once."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from exo_node.errors import ConfigurationError
from exo_node.transport.status import ErrorInterceptor

MAX_RECEIVE = 64 * 2**20  # a prefill chunk of 2048 rows of 8192 float32 is 64 MiB; control messages are small
MAX_CONTROL = 4 * 2**20  # what a daemon takes from a caller: link probes of 1 MiB are the largest; anybody may call
HANDSHAKE_MS = 10_000  # for TLS, of which strangers get no further than the beginning
MAX_CONNECTIONS = 1000  # at once, theirs too; as many as that, or an eighth of the files that this process may open
KEEPALIVE_MS = 10_000  # as exo: a ping after 10 s of silence, 5 s to answer it
KEEPALIVE_TIMEOUT_MS = 5_000
NEVER_MS = 7 * 24 * 3_600_000


def pings(after_ms: int, timeout_ms: int) -> tuple[tuple[str, int], ...]:
    """Options that ping the other side after so much silence and end a connection that does not answer in time."""
    return (
        ("grpc.keepalive_time_ms", after_ms),  # one a second at most, whatever is said here
        # The clock of the ping: its default is 60 s, and none is sent meanwhile.
        ("grpc.http2.ping_timeout_ms", timeout_ms),
        # Of two clocks the shorter one ends the connection, and this is TCP_USER_TIMEOUT too, which must never run out:
        # on a host whose own link was down for a moment, Linux (6.18) counts it from that moment on for ever, and the
        # next break, be it of 300 ms, ends the connection at the first lost packet. What it was for, a ping that waits
        # behind a write which does not end: ring/streams.py, stuck.py.
        ("grpc.keepalive_timeout_ms", NEVER_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    )


def impatient(silence_s: float) -> tuple[tuple[str, int], ...]:
    """Options that end a connection whose other side says nothing for `silence_s` seconds, not even to pings.

    Measured with gRPC 1.85: a stopped process is noticed after half of that to all of it, on busy streams as on idle
    ones; threads of C code answer, so a process whose Python is stuck for seconds is not taken for gone. One that is in
    the middle of taking more than the system's buffers hold is not noticed by this (see `pings`).
    """
    half = round(silence_s * 500)
    return pings(half, half)


def server_options(max_receive: int = MAX_RECEIVE) -> list[tuple[str, Any]]:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [
        ("grpc.so_reuseport", 0),  # with 1, two servers share a port and "port in use" is never seen
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS if files < 0 else min(MAX_CONNECTIONS, files // 8)),
        ("grpc.max_receive_message_length", max_receive),
        ("grpc.max_send_message_length", max(max_receive, MAX_RECEIVE)),  # tokenizers of 30 MB go out
        *pings(KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS),
        # Our clients ping as often as we do; the default of 5 minutes would close their connections.
        ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
        ("grpc.http2.max_ping_strikes", 0),
    ]


def create_server(
    interceptors: Sequence[grpc.aio.ServerInterceptor[Any, Any]] = (), *, max_receive: int = MAX_RECEIVE
) -> grpc.aio.Server:
    """A server whose handlers may raise `ExoError`. Nothing is bound yet: register servicers, `bind`, `start()`."""
    chain: list[Any] = [*interceptors, ErrorInterceptor()]
    return grpc.aio.server(interceptors=chain, options=server_options(max_receive))


def bind(
    server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials, *, flag: str = "--node-port"
) -> int:
    """Bind before `start()`; port 0 takes a free one. Returns the port. Raises `ConfigurationError` naming it.

    `credentials` are `TlsIdentity.server_credentials()`: there are no other ports.
    """
    target = target_of(host, port)
    try:
        bound = server.add_secure_port(grpc_target(target), credentials)
    except RuntimeError as error:
        bound = 0
        cause: RuntimeError | None = error
    else:
        cause = None
    if bound == 0:
        raise ConfigurationError(
            f"{flag} {port}: cannot listen on {target}, the port is in use or the address is not this machine's; "
            "choose another"
        ) from cause
    return bound


def target_of(host: str, port: int) -> str:
    """`host:port`; IPv6 in brackets, its scope kept (`fe80::1%eth0` -> `[fe80::1%eth0]:80`)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def grpc_target(address: str) -> str:
    """`host:port` as gRPC wants it: a target is a URI (gRPC naming, RFC 3986), so the scope's `%` is written `%25`.

    As it stands `[fe80::1%20]:80` would be decoded to a name with a blank in it.
    """
    return address.replace("%", "%25")
