"""Pictures, sound, moderation."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from exo_node.routing.call import FormFile, Reply, Whole
from tests.unit.api.scripted import END, ScriptedBackend, serve_api
from tests.unit.api.scripted_routing import ScriptedRouting, whole


async def test_json_routes() -> None:
    """Each route makes its kind of call; speech answers bytes with the backend's type."""
    sent: list[tuple[str, str, dict[str, Any]]] = [
        ("/images/generations", "image", {"model": "dall-e-3", "prompt": "a cat", "size": "1024x1024"}),
        ("/moderations", "moderation", {"model": "omni", "input": "text"}),
        ("/audio/speech", "speech", {"model": "tts-1", "input": "Hello", "voice": "alloy"}),
    ]
    routing = ScriptedRouting()
    routing.replies = [whole({"n": 1}), whole({"n": 2}), Reply(headers={}, whole=Whole(b"\x00ID3", None, "audio/mpeg"))]
    async with serve_api(ScriptedBackend([END]), routing=routing) as url, aiohttp.ClientSession(url) as http:
        for path, _, body in sent:
            async with http.post(f"/v1{path}", json=body) as answer:
                assert answer.status == 200
                last = (answer.content_type, await answer.read())
            async with http.post(f"/v1{path}", json={"model": "m"}) as answer:
                assert (answer.status, (await answer.json())["error"]["type"]) == (400, "invalid_request_error")
    assert last == ("audio/mpeg", b"\x00ID3")
    assert [call.kind for call in routing.calls] == [kind for _, kind, _ in sent]


def form(*fields: tuple[str, str], file: bytes | None = b"RIFF") -> aiohttp.FormData:
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields:
        data.add_field(name, value)
    if file is not None:
        data.add_field("file", file, filename="a.wav", content_type="audio/wav")
    return data


async def test_transcription() -> None:
    """The file comes as it was sent; numbers are numbers, `name[]` an array."""
    routing = ScriptedRouting()
    routing.replies = [whole({"text": "hi"})]
    fields = (("model", "whisper-1"), ("temperature", "0.5"), ("timestamp_granularities[]", "word"), ("user", "ann"))
    async with (
        serve_api(ScriptedBackend([END]), routing=routing) as url,
        aiohttp.ClientSession(url) as http,
        http.post("/v1/audio/transcriptions", data=form(*fields)) as answer,
    ):
        assert (answer.status, await answer.json()) == (200, {"text": "hi"})
    (call,) = routing.calls
    assert call.files == (FormFile("file", "a.wav", "audio/wav", b"RIFF"),)
    assert call.body == {
        "model": "whisper-1", "temperature": 0.5, "timestamp_granularities": ["word"], "user": "ann",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "param"),
    [
        (form(("model", "m"), file=None), "file"),
        (form(), "model"),
        (form(("model", "m"), ("temperature", "warm")), "temperature"),
        (b"no form", None),
    ],
)
async def test_bad_forms(data: Any, param: str | None) -> None:
    """What is missing or wrong is named."""
    async with (
        serve_api(ScriptedBackend([END]), routing=ScriptedRouting()) as url,
        aiohttp.ClientSession(url) as http,
        http.post("/v1/audio/transcriptions", data=data) as answer,
    ):
        assert (answer.status, (await answer.json())["error"]["param"]) == (400, param)


async def test_broken_and_large_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """A form that breaks off is a 400; one over the limit is a 413."""
    monkeypatch.setattr("exo_node.api.media.MAX_BODY", 1000)
    head = {"Content-Type": "multipart/form-data; boundary=xx"}
    async with (
        serve_api(ScriptedBackend([END]), routing=ScriptedRouting()) as url,
        aiohttp.ClientSession(url) as http,
    ):
        for broken in (b"--yy\r\n\r\n", b'--xx\r\nContent-Disposition: form-data; name="file"\r\n\r\nhalf'):
            async with http.post("/v1/audio/transcriptions", data=broken, headers=head) as answer:
                assert answer.status == 400, await answer.text()
        async with http.post("/v1/audio/transcriptions", data=form(("model", "m"), file=b"x" * 2000)) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/files"])
@pytest.mark.parametrize("part", [b"None", b"[]", b"Content-Disposition: form-data; name=x", b""])
async def test_a_form_that_is_none_is_a_400(path: str, part: bytes) -> None:
    """A part without headers, or with half of one, is the sender's mistake wherever forms are taken."""
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    body = b"--b\r\n" + part + b"--b--\r\n"
    async with (
        serve_api(ScriptedBackend([END])) as url,
        aiohttp.ClientSession(url) as http,
        http.post(path, data=body, headers=headers) as answer,
    ):
        assert (answer.status, (await answer.json())["error"]["type"]) == (400, "invalid_request_error")
