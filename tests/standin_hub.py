"""A stand-in for the Hugging Face hub that speaks real HTTP: model info, file tree, and files with ETag and Range.

Large files (all `*.safetensors`) answer like the real hub's: a redirect with `X-Linked-*` headers to another path.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """`repos`: repository -> path -> bytes. `gated`: repositories that want `token`. `cut`: path -> bytes after which
    the first answer with it breaks off. `corrupt`: paths that come with other bytes. `log`: (method, path, Range) of
    every request."""

    repos: dict[str, dict[str, bytes]]
    gated: frozenset[str] = frozenset()
    token: str = "let-me-in"
    cut: dict[str, int] = field(default_factory=dict)
    corrupt: frozenset[str] = frozenset()
    log: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""

    def fetched(self) -> set[str]:
        """Names of the files whose bytes were asked for."""
        return {path.rsplit("/", 1)[1] for method, path, _ in self.log if method == "GET" and "/api/" not in path}


def git_blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run `hub` on 127.0.0.1 for the length of the block; `hub.url` is its address."""

    class Handler(_Handler):
        owner = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.owner.log.append((self.command, path, self.headers.get("Range")))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._api("/".join(parts[2:4]), parts[4:])
        elif parts[0] == "cdn" and len(parts) == 4:
            self._file("/".join(parts[1:3]), parts[3], linked=True)
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), "/".join(parts[4:]), linked=False)
        else:
            self._send(404, b"", {})

    def _allowed(self, repo: str) -> bool:
        if repo not in self.owner.repos:
            self._send(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return False
        if repo in self.owner.gated and self.headers.get("Authorization") != f"Bearer {self.owner.token}":
            self._send(401, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to {repo} is restricted"})
            return False
        return True

    def _api(self, repo: str, rest: list[str]) -> None:
        if not self._allowed(repo):
            return
        files = self.owner.repos[repo]
        if rest and rest[0] == "tree":
            rows = []
            for name, data in files.items():
                row: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": git_blob_id(data)}
                if name.endswith(".safetensors"):
                    row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
                rows.append(row)
            self._send(200, json.dumps(rows).encode(), {"Content-Type": "application/json"})
        else:
            info = {"id": repo, "modelId": repo, "sha": SHA, "private": False, "tags": [], "downloads": 0,
                    "siblings": [{"rfilename": name} for name in files]}  # fmt: skip
            self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _file(self, repo: str, name: str, *, linked: bool) -> None:
        if not linked and not self._allowed(repo):
            return
        data = self.owner.repos[repo].get(name)
        if data is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        large = name.endswith(".safetensors")
        etag = hashlib.sha256(data).hexdigest() if large else git_blob_id(data)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        if large and not linked:
            linked_headers = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
            self._send(302, b"", {**headers, **linked_headers, "Location": f"{self.owner.url}/cdn/{repo}/{name}"})
            return
        if name in self.owner.corrupt:
            data = bytes(len(data))
        start = 0
        if (wanted := self.headers.get("Range")) is not None:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(
            206 if wanted else 200,
            data[start:],
            headers,
            cut=self.owner.cut.pop(name, None) if linked and self.command == "GET" else None,
        )

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut is not None:
            self.wfile.write(body[:cut])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.wfile.write(body)
