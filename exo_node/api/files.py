"""Uploaded files, for batches: `/v1/files`. Each belongs to the API key that sent it; no other one sees it.

Shapes: https://platform.openai.com/docs/api-reference/files .
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.multipart import BodyPartReader

from exo_node.api.batching.area import Arriving, FileArea
from exo_node.api.calls import refuse_unknown
from exo_node.api.fields import bad
from exo_node.api.guard import caller_id
from exo_node.api.media import BROKEN_FORM
from exo_node.api.operations import BYTES, operation
from exo_node.api.pages import page, whole_number
from exo_node.api.schemas.batches import (
    LONGEST_S,
    SHORTEST_S,
    FileDeleted,
    FileList,
    FileObject,
    FileQuery,
    UploadForm,
)
from exo_node.api.serving import refuse_compressed
from exo_node.errors import InvalidRequest, NotFound, StoreError
from exo_node.store_batches import BatchTable, FileRow

MAX_FILE = 512 * 1024 * 1024  # bytes, OpenAI's
MAX_ALL = 16 * 1024 * 1024 * 1024  # of this machine's nodes and all keys together, results included
PIECE = 256 * 1024  # bytes read at once
MAX_FIELD = 1024  # bytes of a form's other fields
MAX_FILENAME = 255
PURPOSES = ("batch",)
OTHER_PURPOSES = ("assistants", "fine-tune", "vision", "user_data", "evals")  # of OpenAI's
DEFAULT_LIMIT, MAX_LIMIT = 10_000, 10_000
_FORM = ("purpose", "expires_after[anchor]", "expires_after[seconds]")


class FileRoutes:
    """Handlers over the table of files and the folder of their bytes."""

    def __init__(self, table: BatchTable, area: FileArea) -> None:
        self._table = table
        self._area = area

    def routes(self) -> list[tuple[str, str, Any]]:
        """(method, path without /v1, handler)."""
        return [
            ("POST", "/files", self.upload),
            ("GET", "/files", self.list),
            ("GET", "/files/{id}", self.retrieve),
            ("GET", "/files/{id}/content", self.content),
            ("DELETE", "/files/{id}", self.delete),
        ]

    @operation("Batches", scope="use", body=UploadForm, answer=FileObject, form=True, checked_later=True)
    async def upload(self, request: web.Request) -> web.Response:
        """Upload a file: `file`, `purpose`, `expires_after[anchor]` and `[seconds]`."""
        if request.content_type != "multipart/form-data":
            problem = "the request body must be multipart/form-data with a file"
            raise InvalidRequest(problem, code="invalid_content_type")
        refuse_compressed(request)
        ident = f"file-{random.getrandbits(96):024x}"
        room = MAX_ALL - await self._table.bytes_kept()
        with await asyncio.to_thread(self._area.receive, ident) as arriving:
            try:
                form = await _receive(request, arriving, room)
            except BROKEN_FORM as e:
                raise InvalidRequest(f"the form cannot be read: {' '.join(str(e).split())}", code="invalid_body") from e
            row = file_row(form, ident, arriving.size, caller_id(), time.time())
            keeping = asyncio.ensure_future(self._keep(arriving, row))
            try:
                await asyncio.shield(keeping)
            except asyncio.CancelledError:  # the client has gone: what it has sent in whole is kept, and listed
                await asyncio.gather(keeping, return_exceptions=True)
                raise
        return web.json_response(file_view(row))

    async def _keep(self, arriving: Arriving, row: FileRow) -> None:
        await asyncio.to_thread(arriving.keep)
        try:
            await self._table.add_file(row)
        except StoreError:  # nobody would know of it
            await asyncio.to_thread(self._area.remove, row.id)
            raise

    @operation("Batches", scope="use", answer=FileList, query=FileQuery)
    async def list(self, request: web.Request) -> web.Response:
        """Files of this key."""
        query = request.query
        refuse_unknown(query, ("purpose", "limit", "order", "after"))
        limit, order = whole_number(query, "limit", DEFAULT_LIMIT, MAX_LIMIT), query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise bad("order", f"must be asc or desc, got {order[:40]!r}")
        rows = await self._table.files(
            caller_id(),
            time.time(),
            purpose=query.get("purpose"),
            after=query.get("after"),
            limit=limit + 1,
            newest_first=order == "desc",
        )
        return web.json_response(page([file_view(row) for row in rows], limit))

    @operation("Batches", scope="use", answer=FileObject)
    async def retrieve(self, request: web.Request) -> web.Response:
        """What is known of a file."""
        return web.json_response(file_view(await self._file(request)))

    @operation("Batches", scope="use", answers=(BYTES,))
    async def content(self, request: web.Request) -> web.StreamResponse:
        """A file's bytes."""
        row = await self._file(request)
        return web.FileResponse(self._area.path(row.id), headers={"Content-Type": "application/octet-stream"})

    @operation("Batches", scope="use", answer=FileDeleted)
    async def delete(self, request: web.Request) -> web.Response:
        """Delete a file."""
        row = await self._file(request)
        batch = await self._table.using(row.id)
        if batch is not None:
            raise InvalidRequest(
                f"{row.id} is the input of {batch}, which is not complete: cancel that first",
                code="file_in_use",
                status=409,
            )
        await self._table.remove_file(row.id)
        await asyncio.to_thread(self._area.remove, row.id)
        return web.json_response({"id": row.id, "object": "file", "deleted": True})

    async def _file(self, request: web.Request) -> FileRow:
        ident = request.match_info["id"]
        row = await self._table.file(ident, caller_id(), time.time())
        if row is None:
            raise NotFound(f"no file {ident[:80]!r}", param="file_id")
        return row


@dataclass(slots=True)
class Form:
    """What came beside the file's bytes; `filename` None: no file came."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


async def _receive(request: web.Request, arriving: Arriving, room: int) -> Form:
    form = Form()
    limit = min(MAX_FILE, room)
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader) or not part.name:
            raise InvalidRequest("a part of the form has no name", code="invalid_body")
        if part.name != "file":
            refuse_unknown({part.name: ""}, _FORM)  # now, or a form without an end would fill the memory
            form.fields[part.name] = await _text(part)
            continue
        if form.filename is not None:
            raise bad("file", "came twice; send one file a request")
        form.filename = (part.filename or "file")[:MAX_FILENAME]
        while piece := await part.read_chunk(PIECE):
            if arriving.size + len(piece) > limit:
                raise _too_large(limit)
            await asyncio.to_thread(arriving.write, piece)
    return form


def _too_large(limit: int) -> InvalidRequest:
    problem = f"is larger than {MAX_FILE} bytes"
    if limit < MAX_FILE:
        problem = f"does not fit: this machine's nodes keep {MAX_ALL} bytes of files in all; delete some"
    return InvalidRequest(f"file: {problem}", param="file", code="file_too_large", status=413)


async def _text(part: BodyPartReader) -> str:
    data = bytearray()
    while piece := await part.read_chunk(PIECE):
        data += piece
        if len(data) > MAX_FIELD:
            raise bad(part.name or "", f"is longer than {MAX_FIELD} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        raise bad(part.name or "", "is not UTF-8") from e


def file_row(form: Form, ident: str, size: int, key_id: str, now: float) -> FileRow:
    """Raises `InvalidRequest` that names the field."""
    purpose = form.fields.get("purpose")
    if not purpose:
        raise bad("purpose", "is required", code="missing_required_parameter")
    if purpose in OTHER_PURPOSES:
        raise bad("purpose", f"{purpose} is not done by this node; batch is", code="unsupported_parameter")
    if purpose not in PURPOSES:
        raise bad("purpose", f"must be {', '.join(PURPOSES)}; got {purpose[:40]!r}")
    if form.filename is None:
        raise bad("file", "is required", code="missing_required_parameter")
    if not size:
        raise bad("file", "is empty")
    kept_s = kept_for({name[14:-1]: value for name, value in form.fields.items() if name != "purpose"}, "expires_after")
    return FileRow(
        id=ident,
        owner=key_id,
        purpose=purpose,
        filename=form.filename,
        bytes=size,
        created=now,
        expires=None if kept_s is None else now + kept_s,
    )


def kept_for(after: Mapping[str, str], param: str) -> int | None:
    """Seconds of a form's `anchor` and `seconds`; None where they are not given. Raises `InvalidRequest`."""
    if not after:
        return None
    seconds = after.get("seconds", "")
    if after.get("anchor") != "created_at":
        raise bad(f"{param}.anchor", "must be created_at")
    if not (seconds.isascii() and seconds.isdigit() and len(seconds) < 10 and SHORTEST_S <= int(seconds) <= LONGEST_S):
        raise bad(f"{param}.seconds", f"must be a whole number from {SHORTEST_S} to {LONGEST_S}")
    return int(seconds)


def file_view(row: FileRow) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.bytes,
        "created_at": int(row.created),
        "expires_at": None if row.expires is None else int(row.expires),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
        "status_details": None,
    }
