"""Errors across the gRPC border."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from exo_node import errors
from exo_node.errors import DeadlineExceeded, ExoError, InvalidRequest, NoCapacity, PeerUnavailable, ProtocolMismatch
from exo_node.transport.status import METADATA_KEY, decode_error, encode_error, status_of, to_exo

CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, ExoError)]


def failure(code: grpc.StatusCode, details: str = "", error: ExoError | None = None) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata() if error is None else grpc.aio.Metadata((METADATA_KEY, encode_error(error)))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details, None)


@pytest.mark.parametrize("cls", CLASSES)
def test_round_trip(cls: type[ExoError]) -> None:
    """Every error class arrives as itself with all its fields."""
    sent = cls("why – 'ü'", param="field", code="special", status=418, retry_after=1.5)
    got = to_exo(failure(status_of(sent), sent.message, sent), "peer")
    assert type(got) is cls
    for name in ("message", "param", "code", "status", "type", "retryable", "retry_after"):
        assert getattr(got, name) == getattr(sent, name), name


def test_status_of_subclass() -> None:
    """A subclass without an entry has its base's status."""
    assert status_of(errors.ContextLengthExceeded("x")) is grpc.StatusCode.INVALID_ARGUMENT
    assert status_of(NoCapacity("x")) is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, PeerUnavailable),
        (grpc.StatusCode.INTERNAL, PeerUnavailable),
        (grpc.StatusCode.CANCELLED, PeerUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.UNIMPLEMENTED, ProtocolMismatch),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, InvalidRequest),
        (grpc.StatusCode.UNKNOWN, ExoError),
    ],
)
def test_grpcs_own_statuses(code: grpc.StatusCode, expected: type[ExoError]) -> None:
    """A status that gRPC made names the peer in one line."""
    error = to_exo(failure(code, "two\nlines"), "bob")
    assert type(error) is expected
    assert "bob" in error.message
    assert "\n" not in error.message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"class":"X","message":"m","status":"abc"}',
        b'{"class":"X","message":"m","status":1e999}',
        b"[" * 100_000,
    ],
)
def test_garbage(data: bytes) -> None:
    """Metadata that is no error of ours is left aside."""
    assert decode_error(data) is None


def test_unknown_class() -> None:
    """An error class of a newer peer keeps its message, status and type."""
    error = decode_error(encode_error(NoCapacity("full")).replace(b"NoCapacity", b"NoQuantum"))
    assert error is not None
    assert (type(error), error.message, error.status, error.retryable) == (ExoError, "full", 503, True)


def test_long_message() -> None:
    """A huge message is cut so that it fits gRPC's metadata."""
    assert len(encode_error(ExoError("x" * 100_000))) < 4000
