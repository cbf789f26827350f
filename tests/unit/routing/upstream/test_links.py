"""Which links of a request are followed, and for whom (issue 6, 5: images only from allowed schemes and addresses)."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from exo_node.routing.call import UpstreamError
from exo_node.routing.upstream import links
from exo_node.routing.upstream.links import follows_links, inlined, scheme_of
from exo_node.routing.upstream.public_web import NotFetched, PublicImages

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 100
TOLD = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


class Images(PublicImages):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def fetch(self, link: str) -> tuple[str, bytes]:
        self.asked.append(link)
        if "private" in link:
            raise NotFetched("is not at a public address")
        return "image/png", PNG


def chat(*parts: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(parts)}]}


def image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": url}


async def test_images_travel_as_data() -> None:
    """http and https links of images become data: URLs, in chats and in moderations; all else stays as it was."""
    images = Images()
    words = {"type": "text", "text": "see http://10.0.0.1/x"}
    body = chat(words, image({"url": " https://a/x.png", "detail": "low"}), image("HTTP://a/y"), image(TOLD))
    made = await inlined(body, images)
    assert made["messages"][0]["content"] == [words, image({"url": TOLD, "detail": "low"}), image(TOLD), image(TOLD)]
    assert images.asked == ["https://a/x.png", "HTTP://a/y"]
    assert (await inlined({"input": ["http://x", image({"url": "http://a/z"})]}, images))["input"] == [
        "http://x",
        image({"url": TOLD}),
    ]
    assert await inlined({"messages": "x", "input": "http://a"}, images) == {"messages": "x", "input": "http://a"}


@pytest.mark.parametrize(
    "part",
    [
        image("http://private/x"),
        image({"url": "file:///etc/passwd"}),
        image("/etc/passwd"),
        image("ftp://a/x"),
        image(" file:/etc/passwd"),
        {"type": "video_url", "video_url": {"url": "http://a/x"}},
        {"type": "video_url", "video_url": {"url": " " * 50 + "http://a/x"}},  # as urllib and requests read it
        {"type": "video_url", "video_url": {"url": "\x01http://a/x"}},
        {"type": "audio_url", "audio_url": {"url": "ht\n" + "\t" * 99 + "tp:\n//a/x"}},
        {"type": "audio_url", "audio_url": {"url": "https://a/x"}},
        {"type": "file", "file": {"file_id": "http://169.254.169.254/latest"}},
        {"type": "file", "file": {"file_data": "file:///etc/passwd"}},
        {"type": "document", "source": {"type": "url", "url": "https://a/x.pdf"}},
        {"type": "tool_result", "content": [{"type": "image", "source": {"url": "http://a"}}]},
        {"image_url": "http://a"},
    ],
)
async def test_what_is_not_followed(part: Any) -> None:
    """Private addresses, other schemes, files and other kinds of links are the request's own fault, told by place."""
    with pytest.raises(UpstreamError) as caught:
        await inlined(chat(part), Images())
    assert (caught.value.cause, caught.value.status, caught.value.code) == ("bad_request", 400, "link_not_followed")
    assert str(caught.value.param).startswith("messages[0].content[0]")


async def test_documents_that_are_ranked() -> None:
    """What they say may name a place; what vLLM would follow in them is held to the same rules."""
    told = {"title": "a", "type": "article", "url": "https://a/b", "text": "see http://10.0.0.1/x"}
    body = {"query": "q", "documents": ["http://a", told, {"content": [image("http://a/x")]}, image("http://a/y")]}
    made = (await inlined(body, Images()))["documents"]
    assert made == ["http://a", told, {"content": [image(TOLD)]}, image(TOLD)]
    for bad in (image("http://private/x"), {"content": [{"type": "video_url", "video_url": {"url": "http://a"}}]}):
        with pytest.raises(UpstreamError):
            await inlined({"documents": [bad]}, Images())


@pytest.mark.parametrize(
    "part",
    [
        image({"url": "gs://bucket/x.png"}),
        image(base64.b64encode(PNG).decode()),
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "file", "file": {"filename": "http://x: notes", "file_data": "data:application/pdf;base64,AA=="}},
        {"type": "tool_result", "content": [{"type": "text", "text": "http://a"}]},
        "text",
    ],
)
async def test_what_names_no_place(part: Any) -> None:
    """Contents, words, and a provider's own storage pass."""
    assert await inlined(chat(part), Images()) == chat(part)


async def test_so_many_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request has us fetch a bounded number of images."""
    monkeypatch.setattr(links, "MAX_IMAGES", 2)
    images = Images()
    with pytest.raises(UpstreamError, match="at most 2"):
        await inlined(chat(*[image("http://a")] * 3), images)
    assert len(images.asked) == 2


@pytest.mark.parametrize(
    ("base", "within"),
    [
        ("https://api.openai.com/v1", False), ("http://1.1.1.1:8000/v1", False), ("http://gpu-box:8000/v1", True),
        ("http://localhost:11434", True), ("http://127.0.0.1:8000", True), ("http://192.168.1.5/v1", True),
        ("http://[::1]:8000/v1", True), ("http://vllm.internal/v1", True), ("http://a.local", True), (None, True),
        ("http://[bad", True),
    ],
)  # fmt: skip
def test_who_would_follow_links_within_our_network(base: str | None, within: bool) -> None:
    """Own servers would; what answers at a public name looks from where it is."""
    assert follows_links(base) is within


def test_scheme_of() -> None:
    """Words with a colon are no URL."""
    assert [scheme_of(t) for t in ("note: x", "C:\\x", "a://b", "HTTPS:x", "x" * 10**6)] == [
        None,
        None,
        "a",
        "https",
        None,
    ]
