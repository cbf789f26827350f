"""Attacks on a real node, one for each line of issue 6, item 5, that concerns HTTP. What needs no node is in the unit
tests beside each guard (test_guard, test_server, test_template_sandbox, test_public_web, test_links, test_audit)."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import exo_node
from exo_node.limits.api_keys import ApiKeys, KeyInfo
from exo_node.store import Store, store_path
from tests.integration.harness import ROOT, NodeProcess
from tests.integration.test_limits import add_key
from tests.standins import Standin, serve, standin

ADMIN = "attacks-admin-key-0123456789"
PROVIDER_KEY = "sk-attacks-provider-0123456789"
PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 64
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


class Victim(ThreadingHTTPServer):
    """Something in the node's network that no client may reach through the node."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hits: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Victim)
        server.hits.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PNG)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@dataclass
class Stage:
    node: NodeProcess
    own_server: Standin
    victim: Victim
    keys: dict[str, str]

    def ask(self, method: str, path: str, body: Any = None, key: str = ADMIN) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.node.api + path, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, raw = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, raw = error.code, error.read()
        try:
            return status, json.loads(raw)
        except ValueError:
            return status, raw.decode(errors="replace")


async def _expired(home: Path) -> str:
    store = Store(store_path(home))
    _, secret = await ApiKeys(store, wall=lambda: 1000.0).add(KeyInfo(id="", name="guest", expires=1060.0))
    store.close()
    return secret


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    import asyncio

    folder = tmp_path_factory.mktemp("attacks")
    home = folder / "home"
    hostile = folder / "models" / "hostile"
    shutil.copytree(Path(exo_node.__file__).parent / "models" / "demo", hostile)
    (hostile / "chat_template.jinja").write_text(LOOPS)
    escaping = folder / "models" / "escaping"
    shutil.copytree(hostile, escaping)
    (escaping / "tokenizer.json").unlink()
    (escaping / "tokenizer.json").symlink_to("/etc/passwd")
    with ExitStack() as stack:
        own_server, victim = standin("openai"), Victim()
        stack.enter_context(serve(own_server))
        threading.Thread(target=victim.serve_forever, daemon=True).start()
        stack.callback(victim.server_close)
        stack.callback(victim.shutdown)
        config = folder / "config.json"
        params = {"model": "hosted_vllm/eyes", "api_base": f"{own_server.url}/v1", "api_key": PROVIDER_KEY}
        config.write_text(json.dumps({"model_list": [{"model_name": "eyes", "litellm_params": params}]}))
        keys = {scope: add_key(home, "--name", scope, "--scope", scope) for scope in ("use", "read", "admin")}
        keys["expired"] = asyncio.run(_expired(home))
        models = ["--models-dir", str(folder / "models")]
        node = NodeProcess(
            home, "--discovery-module", "none", "--litellm-config", str(config), *models, "--api-key", ADMIN
        )
        stack.callback(node.stop)
        node.wait_ready()
        yield Stage(node, own_server, victim, keys)


CHAT = {"model": "eyes", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


def test_each_scope_on_a_real_node(stage: Stage) -> None:
    """API keys: scopes and expiry hold, from the command line's flag to the answer."""
    may = {"use": (200, 403, 403), "read": (403, 200, 403), "admin": (200, 200, 200), "expired": (401, 401, 401)}
    for name, wanted in may.items():
        key = stage.keys[name]
        asked = stage.ask("POST", "/v1/chat/completions", CHAT, key)
        spent, changed = stage.ask("GET", "/v1/spend", key=key), stage.ask("POST", "/v1/config/reload", key=key)
        assert (asked[0], spent[0], changed[0]) == wanted, name
        if name == "expired":
            assert asked[1]["error"]["code"] == "key_expired"
    held = b"".join(path.read_bytes() for path in stage.node.home.glob("node-shared.db*"))
    assert not any(key.encode() in held for key in stage.keys.values())  # hashed at rest


@pytest.mark.parametrize(
    "link",
    ["{victim}/x.png", "http://localhost:{port}/x.png", "http://0x7f000001:{port}/", "http://169.254.169.254/latest"],
)
def test_images_do_not_lead_into_the_network(stage: Stage, link: str) -> None:
    """No SSRF: an image's link to a private address is refused, in OpenAI's, Anthropic's and our own form, nobody there
    is called, and the own server gets no link that it would follow."""
    stage.victim.hits.clear()
    asked = len(stage.own_server.requests)
    url = link.format(victim=stage.victim.url, port=stage.victim.server_address[1])
    part = {"type": "image_url", "image_url": {"url": url}}
    source = {"type": "image", "source": {"type": "url", "url": url}}
    for path, body in (
        ("/v1/chat/completions", {"model": "eyes", "messages": [{"role": "user", "content": [part]}]}),
        ("/v1/messages", {"model": "eyes", "max_tokens": 5, "messages": [{"role": "user", "content": [source]}]}),
        ("/v1/vision", {"model": "eyes", "prompt": "?", "image_url": url}),
    ):
        status, told = stage.ask("POST", path, body)
        assert (status, "public address" in str(told)) == (400, True), told
    assert stage.victim.hits == [] and len(stage.own_server.requests) == asked


def test_an_image_that_is_sent_arrives(stage: Stage) -> None:
    """What comes with the request is passed on."""
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    body = {
        "model": "eyes",
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}],
    }
    assert stage.ask("POST", "/v1/chat/completions", body)[0] == 200


@pytest.mark.parametrize("field", ["api_base", "base_url", "headers", "extra_headers", "proxy"])
def test_a_request_does_not_choose_where_it_goes(stage: Stage, field: str) -> None:
    """api_base and its like of a request reach nobody: the deployment's key would go there."""
    stage.victim.hits.clear()
    value: Any = {"Host": "x"} if "headers" in field else f"{stage.victim.url}/v1"
    for body in ({**CHAT, field: value}, {**CHAT, "extra_body": {field: value}}):
        stage.ask("POST", "/v1/chat/completions", body, stage.keys["use"])
    status, told = stage.ask("POST", "/v1/chat/completions", {**CHAT, "extra_body": {"extra_body": {"model": "x"}}})
    assert (status, told["error"]["param"]) == (400, "extra_body.extra_body")
    assert stage.victim.hits == []


def test_a_template_without_an_end_holds_nobody_up(stage: Stage) -> None:
    """Template rendering sandboxed: a model whose template never ends answers with a 400, and while it is being tried
    the node answers everybody else."""
    messages = {"model": "hostile", "messages": [{"role": "user", "content": "x"}]}
    told: list[tuple[int, Any]] = []
    asking = threading.Thread(target=lambda: told.append(stage.ask("POST", "/v1/chat/token/encode", messages)))
    asking.start()
    beats = 0
    while asking.is_alive():
        assert stage.ask("GET", "/health")[0] == 200
        beats += 1
        asking.join(0.05)
    assert beats > 10
    status, body = told[0]
    assert (status, "does not come to an end" in str(body)) == (400, True), body


def test_a_model_that_links_to_other_files(stage: Stage) -> None:
    """Symlink escape: a model whose tokenizer is a link to another file is refused, and the file is not shown."""
    status, told = stage.ask("POST", "/v1/instances", {"model": "escaping"})
    assert (status, "link out of the model's folder" in str(told)) == (422, True), told
    assert "root:" not in str(stage.ask("POST", "/api/show", {"model": "escaping"}))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/..%2f..%2fnode-shared.db",
        "/v1/files/../../../../etc/passwd/content",
        "/v1/files/%2fetc%2fpasswd/content",
        "/v1/files/x%00/content",
        "/docs/..%2f..%2fetc%2fpasswd",
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/v1/responses/..%2fx",
        "/state/../../etc/passwd",
    ],
)
def test_paths_lead_nowhere(stage: Stage, path: str) -> None:
    """Path traversal: ids in paths are looked up, never opened."""
    status, told = stage.ask("GET", path)
    assert status in (400, 404) and "root:" not in str(told)


@pytest.mark.parametrize("name", ["..%2fhome", "%2ftmp", "hostile", "demo", "..", "models--a--b%2f..", "a%00b"])
def test_deleting_leads_nowhere(stage: Stage, name: str) -> None:
    """DELETE of a model takes nothing that was not fetched, whatever the name."""
    status, _ = stage.ask("DELETE", f"/models/{name}")
    assert status in (400, 404, 405)
    assert (stage.node.home / "node-shared.db").exists()
    assert (Path(exo_node.__file__).parent / "models" / "demo" / "config.json").exists()


def test_the_audit_log_tells_who_did_it(stage: Stage) -> None:
    """An audit log of admin acts: over HTTP and from the command line, in one place, without the secrets."""
    planted = "sk-attacks-planted-0123456789"
    record = {"id": "late", "model_name": "late", "litellm_params": {"model": "openai/x", "api_key": planted}}
    assert stage.ask("POST", "/v1/deployments", record, stage.keys["admin"])[0] == 200
    assert stage.ask("DELETE", "/v1/deployments/late")[0] == 200
    assert stage.ask("POST", "/quit", key=stage.keys["use"])[0] == 403
    assert stage.ask("GET", "/v1/audit", key=stage.keys["read"])[0] == 403
    rows = stage.ask("GET", "/v1/audit?since=1h")[1]["data"]
    acts = [(row["key_name"], row["act"]) for row in rows]
    assert ("admin", "POST /v1/deployments") in acts and ("--api-key", "DELETE /v1/deployments/{id}") in acts
    assert any(act == "exo apikey add" and who.startswith("user ") for who, act in acts)
    shown = subprocess.run(
        [sys.executable, "-m", "exo_node", "audit", "--json"], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "EXO_HOME": str(stage.node.home)},
    ).stdout  # fmt: skip
    for secret in (planted, ADMIN, PROVIDER_KEY, *stage.keys.values()):
        assert secret not in shown + json.dumps(rows) + stage.node.log()


def test_files_of_the_node_are_its_users_own(stage: Stage) -> None:
    """Secrets at rest: nobody else may read what holds keys, prompts and answers, whatever the umask was; a secret is
    in no file in the clear, and not beside its key without being sealed."""
    secret = "sk-attacks-at-rest-0123456789"
    subprocess.run(
        [sys.executable, "-c", "import os, sys; os.umask(0); from exo_node.cli.main import dispatch; "
         "sys.exit(dispatch(['secrets', 'set', 'PLANTED']))"],
        cwd=ROOT, input=secret, capture_output=True, text=True, check=True,
        env={**os.environ, "EXO_HOME": str(stage.node.home)},
    )  # fmt: skip
    form = b"--b\r\nContent-Disposition: form-data; name=%s\r\n\r\n%s\r\n"
    body = form % (b"purpose", b"batch") + form % (b'"file"; filename="a"', b"{}") + b"--b--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Authorization": f"Bearer {ADMIN}"}
    sent = urllib.request.Request(f"{stage.node.api}/v1/files", data=body, headers=headers)
    with urllib.request.urlopen(sent, timeout=60) as answer:
        assert answer.status == 200
    home = stage.node.home
    ours = [path for path in home.rglob("*") if path.is_file() and not path.name.startswith("log-")]
    assert {"node-shared.db", "secrets.key", "secrets.enc"} <= {path.name for path in ours}
    assert home / "cluster" / "key" in ours and any(path.parent.name == "files" for path in ours)
    for path in ours:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        assert secret.encode() not in path.read_bytes(), path
    for folder in ("cluster", "files", "nodes"):
        assert stat.S_IMODE((home / folder).stat().st_mode) & 0o077 == 0, folder
