"""Errors that say whose fault it was, what to do, and which HTTP status that is.

Every error that may reach a user is an `ExoError`. The HTTP border turns it into OpenAI's error body, the gRPC border
(`transport/status.py`) carries it between nodes unchanged. `AssertionError` and friends stay what they are: our bugs.
"""

from __future__ import annotations


class ExoError(Exception):
    """Base of all errors shown to users.

    `status` is the HTTP status, `type` and `code` are OpenAI's error fields, `param` names the offending request field,
    `retryable` says that the same call may succeed later, `retry_after` (seconds) says when.
    """

    status: int = 500
    type: str = "server_error"
    code: str | None = "internal_error"
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status


class InvalidRequest(ExoError):
    """The caller sent something that cannot be served; `param` names the field."""

    status, type, code = 400, "invalid_request_error", "invalid_value"


class ContextLengthExceeded(InvalidRequest):
    """Prompt (plus requested tokens) is longer than the model's context; the message holds both numbers."""

    code = "context_length_exceeded"


class ModelNotFound(ExoError):
    """No model of that name; the message lists what there is."""

    status, type, code = 404, "invalid_request_error", "model_not_found"


class NotFound(ExoError):
    """No such route or resource."""

    status, type, code = 404, "invalid_request_error", "not_found"


class Unauthorized(ExoError):
    """Missing or wrong API key. LiteLLM knows it by OpenAI's words "Incorrect API key provided"."""

    status, type, code = 401, "invalid_request_error", "invalid_api_key"


# The code of a call that was refused or ended because its connection is of a cluster key that is trusted no more.
KEY_DROPPED = "key_dropped"


class KeyExpired(Unauthorized):
    """The API key was good until its time was over."""

    code = "key_expired"


class UnsupportedModel(ExoError):
    """An architecture, a quantization or a cut that the engine does not run, refused before anything loads."""

    status, type, code = 400, "invalid_request_error", "unsupported_model"


class CheckpointError(ExoError):
    """Model files that are missing, truncated or contradictory."""

    status, type, code = 422, "invalid_request_error", "invalid_checkpoint"


class DigestMismatch(ExoError):
    """Two nodes hold different files under one model name."""

    status, type, code = 409, "invalid_request_error", "model_digest_mismatch"


class DownloadError(ExoError):
    """A model could not be fetched (offline, hub unreachable, no access)."""

    status, type, code, retryable = 502, "server_error", "download_failed", True


class NoCapacity(ExoError):
    """The cluster's free memory cannot hold what was asked for."""

    status, type, code, retryable = 503, "server_error", "no_capacity", True


class PeerUnavailable(ExoError):
    """A node or a runner went away or cannot be reached."""

    status, type, code, retryable = 503, "server_error", "peer_unavailable", True


class ProtocolMismatch(ExoError):
    """The peer's protocol range does not meet ours."""

    status, type, code = 409, "server_error", "protocol_mismatch"


class ClusterMismatch(ExoError):
    """The peer does not hold this cluster's key."""

    status, type, code = 403, "server_error", "cluster_mismatch"


class WrongNode(ExoError):
    """Somebody else answers at a node's address."""

    status, code = 409, "wrong_node"


class RingBroken(ExoError):
    """A rule of the ring's protocol was broken, or a stage failed; the epoch is over."""

    status, type, code, retryable = 503, "server_error", "ring_broken", True


class AnswerLost(ExoError):
    """A ring failed in the middle of an answer and no node could go on; the message says after how many tokens."""

    status, type, code, retryable = 503, "server_error", "answer_lost", True


class EngineFailed(ExoError):
    """What an engine computed for one request is of no use; the ring goes on with all others."""

    status, type, code, retryable = 500, "server_error", "engine_failed", True


class DeadlineExceeded(ExoError):
    """The time that the caller granted has run out."""

    status, type, code, retryable = 504, "server_error", "deadline_exceeded", True


class NodeStopping(ExoError):
    """This node was told to stop: it takes nothing new, and what was not complete in time was ended."""

    status, type, code, retryable = 503, "server_error", "node_stopping", True


class ConfigurationError(ExoError):
    """A flag, variable or file that the user gave is wrong: said at start, exit status 2."""

    status, type, code = 400, "invalid_request_error", "configuration_error"


class EngineUnavailable(ConfigurationError):
    """The engine asked for is not installed or does not run on this machine; the message names the extra."""

    code = "engine_unavailable"


class RateLimited(ExoError):
    """More requests or tokens a minute than a limit of this node allows; `retry_after` says when there is room."""

    status, type, code, retryable = 429, "rate_limit_error", "rate_limit_exceeded", True


class Overloaded(ExoError):
    """As many requests as may wait for a model do; `retry_after` says when those will have had their turn."""

    status, type, code, retryable = 429, "rate_limit_error", "queue_full", True


class BudgetExceeded(ExoError):
    """Money for this key, user or provider (or for all) is spent; `retry_after` is the end of the day or month."""

    status, type, code = 429, "insufficient_quota", "budget_exceeded"


class ModelNotAllowed(ExoError):
    """The API key may not ask for this model."""

    status, type, code = 403, "invalid_request_error", "model_not_allowed"


class StoreError(ExoError):
    """The node's database cannot be read or written; the message names the file."""

    status, type, code = 500, "server_error", "store_error"


def error_from_code(name: str, message: str, status: int | None = None) -> ExoError:
    """Rebuild an error that another process named by its class or by its `code` (a plain `ExoError` when unknown)."""
    for cls in _all_errors(ExoError):
        if name in (cls.__name__, cls.code):
            return cls(message, status=status)
    return ExoError(message, code=name, status=status)


def _all_errors(base: type[ExoError]) -> list[type[ExoError]]:
    found = []
    for cls in base.__subclasses__():
        found += [cls, *_all_errors(cls)]
    return found
