"""OpenAI's files and batches.

Field meanings: https://platform.openai.com/docs/api-reference/files , .../batch .
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
SHORTEST_S, LONGEST_S = 3600, 30 * 86400  # OpenAI's


class ExpiresAfter(Struct, kw_only=True):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=SHORTEST_S, le=LONGEST_S)]


class UploadForm(Struct, kw_only=True):
    """The fields beside the file."""

    purpose: Literal["batch"]
    expires_after: ExpiresAfter | None = None


class FileObject(Struct, kw_only=True):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]
    status_details: str | None


class FileList(Struct, kw_only=True):
    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(Struct, kw_only=True):
    id: str
    object: Literal["file"]
    deleted: bool


class FileQuery(Struct, kw_only=True):
    purpose: str | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    order: Literal["asc", "desc"] | None = None
    after: Annotated[str, Meta(description="The last id of the page before.")] | None = None


class BatchRequest(Struct, kw_only=True):
    """What to answer, and where its requests are."""

    input_file_id: Annotated[str, Meta(min_length=1)]
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Annotated[dict[str, Annotated[str, Meta(max_length=512)]], Meta(max_length=16)] | None = None
    output_expires_after: ExpiresAfter | None = None


class Counts(Struct, kw_only=True):
    total: int
    completed: int
    failed: int


class Batch(Struct, kw_only=True):
    id: str
    object: Literal["batch"]
    endpoint: Endpoint
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    request_counts: Counts
    created_at: int
    expires_at: int
    errors: dict[str, Any] | None
    output_file_id: str | None
    error_file_id: str | None
    metadata: dict[str, str] | None
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None


class BatchList(Struct, kw_only=True):
    object: Literal["list"]
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BatchQuery(Struct, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=100)] | None = None
    after: Annotated[str, Meta(description="The last id of the page before.")] | None = None
