"""Uploaded files; tests/integration/test_batches.py sends them with the official SDK."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from exo_node.api import files
from exo_node.api.batching.area import Arriving
from exo_node.api.files import Form, file_row, file_view, kept_for
from exo_node.api.ports import Principal
from exo_node.errors import InvalidRequest, StoreError
from exo_node.store_batches import BatchTable, FileRow
from tests.unit.api.scripted import END, ScriptedBackend, serve_api
from tests.unit.api.scripted_routing import ScriptedRouting

ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"


def form(**fields: Any) -> Form:
    return Form({"purpose": "batch", **fields}, "in.jsonl")


def test_a_file_row() -> None:
    """What came, whose it is, how long it stays."""
    row = file_row(form(**{ANCHOR: "created_at", SECONDS: "3600"}), "file-1", 5, "key-1", 100.7)
    assert (row.owner, row.bytes, row.expires) == ("key-1", 5, 3700.7)
    assert file_view(row) == {
        "id": "file-1",
        "object": "file",
        "bytes": 5,
        "created_at": 100,
        "expires_at": 3700,
        "filename": "in.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }


@pytest.mark.parametrize(
    ("sent", "size", "param"),
    [
        (Form({}, "a"), 5, "purpose"),
        (Form({"purpose": "fine-tune"}, "a"), 5, "purpose"),
        (Form({"purpose": "x"}, "a"), 5, "purpose"),
        (Form({"purpose": "batch"}), 0, "file"),
        (form(), 0, "file"),
        (form(**{SECONDS: "3600"}), 5, "expires_after.anchor"),
        (form(**{ANCHOR: "created_at"}), 5, "expires_after.seconds"),
        (form(**{ANCHOR: "created_at", SECONDS: "5"}), 5, "expires_after.seconds"),
        (form(**{ANCHOR: "created_at", SECONDS: "soon"}), 5, "expires_after.seconds"),
    ],
)
def test_wrong_forms(sent: Form, size: int, param: str) -> None:
    """Each tells the field."""
    with pytest.raises(InvalidRequest) as caught:
        file_row(sent, "file-1", size, "", 0.0)
    assert caught.value.param == param


def test_kept_for() -> None:
    """Absent is for ever."""
    assert kept_for({}, "x") is None
    assert kept_for({"anchor": "created_at", "seconds": "7200"}, "x") == 7200


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(files, "MAX_FILE", 1000)
    monkeypatch.setattr(files, "MAX_ALL", 1500)
    yield


async def test_sizes_are_bounded(small: None, tmp_path: Path) -> None:
    """One file and all files together; what was refused leaves nothing behind."""
    async with serve_api(ScriptedBackend([END]), home=tmp_path) as url, aiohttp.ClientSession(url) as http:

        async def send(size: int) -> tuple[int, Any]:
            data = aiohttp.FormData()
            data.add_field("file", b"x" * size, filename="a")  # before the purpose: any order does
            data.add_field("purpose", "batch")
            async with http.post("/v1/files", data=data) as answer:
                return answer.status, await answer.json()

        assert (await send(1001))[0] == 413
        assert (await send(1000))[0] == 200
        status, said = await send(600)
        assert (status, said["error"]["code"]) == (413, "file_too_large")
        assert "in all" in said["error"]["message"]
        assert len(list((tmp_path / "files").iterdir())) == 1
        for body, kind in (
            (b"{}", "application/json"),
            (b"x", "multipart/form-data"),
            (b"", "multipart/form-data; boundary=a"),
        ):
            async with http.post("/v1/files", data=body, headers={"Content-Type": kind}) as answer:
                assert answer.status == 400


async def test_owners(tmp_path: Path) -> None:
    """A file is its key's."""
    routing = ScriptedRouting()
    routing.keys = {name: Principal(key_id=name) for name in "ab"}
    async with (
        serve_api(ScriptedBackend([END]), routing=routing, home=tmp_path) as url,
        aiohttp.ClientSession(url) as http,
    ):
        data = aiohttp.FormData({"purpose": "batch"})
        data.add_field("file", b"line", filename="a")
        async with http.post("/v1/files", data=data, headers=bearer("a")) as answer:
            ident = (await answer.json())["id"]
        for key, wanted in (("a", 200), ("b", 404)):
            for path in (f"/v1/files/{ident}", f"/v1/files/{ident}/content"):
                async with http.get(path, headers=bearer(key)) as answer:
                    assert answer.status == wanted
            async with http.get("/v1/files", headers=bearer(key)) as answer:
                assert len((await answer.json())["data"]) == (wanted == 200)
        async with http.delete(f"/v1/files/{ident}", headers=bearer("b")) as answer:
            assert answer.status == 404


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_a_file_that_cannot_be_noted_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that is full but for the file: nobody would know of it, and it would fill the disk for good."""

    async def full(self: BatchTable, row: FileRow) -> None:
        raise StoreError("the disk is full", code="storage_full", status=507)

    monkeypatch.setattr(BatchTable, "add_file", full)
    async with serve_api(ScriptedBackend([END]), home=tmp_path) as url, aiohttp.ClientSession(url) as http:
        data = aiohttp.FormData({"purpose": "batch"})
        data.add_field("file", b"line", filename="a")
        async with http.post("/v1/files", data=data) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (507, "storage_full")
    assert list((tmp_path / "files").iterdir()) == []


async def test_a_file_whose_sender_leaves_while_it_is_kept_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had come in whole; nobody could find or delete a file of which only the folder knows."""
    keep = Arriving.keep

    def slow(self: Arriving) -> None:
        time.sleep(0.4)
        keep(self)

    monkeypatch.setattr(Arriving, "keep", slow)
    async with serve_api(ScriptedBackend([END]), home=tmp_path) as url, aiohttp.ClientSession(url) as http:
        data = aiohttp.FormData({"purpose": "batch"})
        data.add_field("file", b"line", filename="a")
        with pytest.raises(TimeoutError):
            await http.post("/v1/files", data=data, timeout=aiohttp.ClientTimeout(0.2))
        listed: list[Any] = []
        for _ in range(100):
            async with http.get("/v1/files") as answer:
                listed = (await answer.json())["data"]
            if listed:
                break
            await asyncio.sleep(0.05)
        assert [one["id"] for one in listed] == [path.name for path in (tmp_path / "files").iterdir()]
        assert listed
