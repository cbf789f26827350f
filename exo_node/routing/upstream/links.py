"""URLs in a client's request that a backend of ours would follow from within our network: LiteLLM's workers, and own
servers (vLLM) at private addresses. Images are fetched here, by safe rules, and travel as data: URLs; nothing else is
followed for a client.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from yarl import URL

from exo_node.routing.call import Call, UpstreamError
from exo_node.routing.upstream.public_web import NotFetched, PublicImages, format_of, is_public

MAX_IMAGES = 32  # of one request that are fetched
_FIELDS = ("messages", "input", "documents")  # that have parts: of chats, moderations and embeddings, rankings
# Who follows a URL passes over blanks and control characters before it, and over ends of lines anywhere in it
# (https://url.spec.whatwg.org/#concept-basic-url-parser; Python's urllib does too).
_SCHEME = re.compile(r"[\s\x00-\x20]*(?:([a-z][a-z0-9+.-]{0,20})://|(https?|file|ftp|data):)", re.IGNORECASE)
_PASSED_OVER = str.maketrans(dict.fromkeys("\t\n\r"))
_AFTER_COLON = 40
_THEIRS = ("gs", "s3")  # a provider's own storage, which it reads with the rights of the deployment's account
_PLAIN = ("text", "refusal", "thinking", "reasoning")  # parts that are words
_WORDS = ("text", "title", "context", "name", "filename", "id", "tool_use_id")  # fields that are


def follows_links(api_base: str | None) -> bool:
    """Whether what answers there is within our network, so that it must not be sent to look around in it."""
    try:
        host = URL(api_base or "").host or ""
    except ValueError:
        return True
    if re.fullmatch(r"[0-9.]+|.*:.*", host):
        return not is_public(host)
    return "." not in host or host.lower().endswith((".local", ".localhost", ".internal", ".home.arpa", ".lan"))


async def inlined(body: Mapping[str, Any], images: PublicImages) -> dict[str, Any]:
    """The body with its images' links replaced by the images. Raises `UpstreamError` (the request's fault) for one that
    may not be followed.
    """
    work = _Inlining(images)
    made = dict(body)
    for field in _FIELDS:
        if isinstance(rows := body.get(field), list):
            made[field] = [
                await work.row(row, f"{field}[{i}]") if _has_parts(row, field) else row for i, row in enumerate(rows)
            ]
    return made


class _Inlining:
    """Of one request."""

    def __init__(self, images: PublicImages) -> None:
        self._images = images
        self._left = MAX_IMAGES

    async def row(self, row: Any, where: str) -> Any:
        """A message or another that `_has_parts`, or a part without one."""
        if not isinstance(row.get("content"), list):
            return await self._part(row, where)
        parts = [await self._part(part, f"{where}.content[{i}]") for i, part in enumerate(row["content"])]
        return {**row, "content": parts}

    async def _part(self, part: Any, where: str) -> Any:
        if not isinstance(part, Mapping) or part.get("type") in _PLAIN:
            return part
        link = part.get("image_url") if part.get("type") == "image_url" else None
        url = link.get("url") if isinstance(link, Mapping) else link
        if isinstance(url, str) and scheme_of(url) in ("http", "https"):
            told = await self._fetched(url.strip(), f"{where}.image_url")
            return {**part, "image_url": {**link, "url": told} if isinstance(link, Mapping) else told}
        for text in _texts(part):
            if scheme_of(text) not in (None, "data", *_THEIRS):
                raise _refused(where, "links of this kind are not followed; send its content (data: URL, base64)")
        if isinstance(url, str) and scheme_of(url) is None and not _is_base64(url):
            raise _refused(f"{where}.image_url", "must be an http or https URL, a data: URL or an image in base64")
        return part

    async def _fetched(self, url: str, where: str) -> str:
        self._left -= 1
        if self._left < 0:
            raise _refused(where, f"at most {MAX_IMAGES} images are fetched for a request")
        try:
            sort, data = await self._images.fetch(url)
        except NotFetched as e:
            raise _refused(where, f"the image {e}; send it as a data: URL") from e
        return f"data:{sort};base64,{base64.b64encode(data).decode()}"


def _is_base64(text: str) -> bool:
    try:
        return format_of(base64.b64decode(text[:24], validate=True)) is not None
    except (binascii.Error, ValueError):
        return False


def scheme_of(text: str) -> str | None:
    """The scheme of a URL that names a place; None for any other text.

    >>> scheme_of("HTTP://x"), scheme_of("file:/etc"), scheme_of("iVBORw0KGgo=")
    ('http', 'file', None)
    >>> scheme_of(chr(1) + "ht" + chr(10) + "tp://x")
    'http'
    """
    colon = text.find(":")
    found = None if colon < 0 else _SCHEME.match(text[: colon + _AFTER_COLON].translate(_PASSED_OVER))
    return None if found is None else (found[1] or found[2]).lower()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _WORDS:
                yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _refused(where: str, why: str) -> UpstreamError:
    return UpstreamError(f"{where}: {why}", "bad_request", code="link_not_followed", param=where)


async def inlined_call(call: Call, images: PublicImages) -> Call:
    """The call with `inlined`'s body, where it has parts that can name a link."""
    if not any(_has_parts(row, field) for field in _FIELDS for row in _rows(call.body.get(field))):
        return call
    return replace(call, body=await inlined(call.body, images))


def _rows(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _has_parts(row: Any, field: str) -> bool:
    """Documents to be ranked are words and facts, which may well name a place, unless they say that they are more."""
    if not isinstance(row, Mapping):
        return False
    if field == "documents":
        return isinstance(row.get("content"), list) or str(row.get("type")).endswith("_url")
    return not isinstance(row.get("content"), str)
