"""Daemons with the files of configs/documents, stand-ins for every provider that these name, and their snippets."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from exo_node.routing.configuration.secrets import SecretStore
from tests.integration import documents
from tests.integration.harness import ROOT, NodeProcess
from tests.standins import PROVIDERS, Received, Script, Standin, standin
from tests.standins.server import Whole

CONFIGS = ROOT / "configs" / "documents"


HELLO: Any = [{"role": "user", "content": "Hello!"}]


MASTER = "your-master-key-here"  # document 001's


NEEDED = pytest.mark.skipif(not documents.FOLDER.is_dir(), reason="the source documents are not here")


class Services(Standin):
    """Langfuse and Helicone."""

    provider = "services"

    def routes(self) -> list[Any]:
        def taken(received: Received, script: Script) -> Whole:
            return Whole({"successes": [], "errors": []})

        return [self.ask("POST", "/api/public/ingestion", taken), self.ask("POST", "/custom/v1/log", taken)]

    def told(self) -> tuple[list[Any], list[Any]]:
        """(Langfuse's generations, Helicone's logs)."""
        batches = [one.body for one in self.requests if one.path == "/api/public/ingestion"]
        logs = [one.body for one in self.requests if one.path == "/custom/v1/log"]
        return [event for batch in batches for event in batch["batch"]], logs


class Cloud:
    """Every provider that the documents name, on loopback."""

    def __init__(self) -> None:
        names = [*PROVIDERS, "azure2", "openai2"]
        self.all = {name: standin(name.rstrip("2")) for name in names}
        self.all["litellm_proxy"].models = (
            "gpt-4", "gpt-3.5-turbo", "gpt-4o", "claude-3-haiku", "custom-llama-7b", "mixtral-8x7b", "llama-2-70b",
        )  # fmt: skip
        self.services = Services()

    def __getitem__(self, name: str) -> Standin:
        return self.all[name]

    def clear(self) -> None:
        for one in (*self.all.values(), self.services):
            one.requests.clear()
            one.queue.clear()
            one.script = Script()
            one.by_model.clear()

    def asked(self) -> dict[str, int]:
        """How many requests each provider has got."""
        return {name: len(one.requests) for name, one in self.all.items() if one.requests}

    def environment(self) -> dict[str, str]:
        """Variables that lead every provider here; the configurations' README names them."""
        url = {name: one.url for name, one in self.all.items()}
        return {
            "OPENAI_API_KEY": "sk-openai",
            "OPENAI_BASE_URL": f"{url['openai']}/v1",
            "ANTHROPIC_API_KEY": "sk-ant",
            "ANTHROPIC_API_BASE": url["anthropic"],
            "GEMINI_API_KEY": "g-key",
            "GEMINI_API_BASE": f"{url['gemini']}/v1beta",
            "GROQ_API_KEY": "gsk-groq",
            "GROQ_API_BASE": f"{url['openai2']}/v1",
            "COHERE_API_KEY": "co-key",
            "COHERE_API_BASE": url["cohere"],
            "AZURE_API_KEY": "az-key",
            "AZURE_API_BASE": url["azure"],
            "AZURE_EASTUS_BASE": url["azure"],
            "AZURE_WESTEUROPE_BASE": url["azure2"],
            "OLLAMA_BASE_URL": url["ollama"],
            "LANGFUSE_PUBLIC_KEY": "pk-lf",
            "LANGFUSE_SECRET_KEY": "sk-lf",
            "LANGFUSE_HOST": self.services.url,
            "HELICONE_API_KEY": "sk-helicone",
            "HELICONE_API_BASE": self.services.url,
        }


class Node:
    """A daemon whose configuration can be changed while it runs."""

    def __init__(
        self, home: Path, config: str, cloud: Cloud, *arguments: str, env: Mapping[str, str], tables: bool = False
    ) -> None:
        self.config = home / "config"
        self._now = ""
        self._extra: tuple[Any, ...] = ()
        home.mkdir(parents=True)
        secrets = SecretStore(home, {})
        for name in ("azure_key", "openai_key", "anthropic_key", "azure_eastus_key", "azure_westeurope_key"):
            secrets.set(name, f"planted-{name}")
        self._write(config)
        if tables:
            shutil.copy(CONFIGS.parent / "models.toml", home)
        if "--env-file" not in arguments:
            arguments = (*arguments, "--env-file", str(CONFIGS.parent / ".env.litellm.example"))
        self.process = NodeProcess(
            home,
            # No probes: tests count what providers are asked.
            *("--discovery-module", "none", "--probe", "off", "--litellm-config", str(self.config), *arguments),
            env={**cloud.environment(), **env},
        )

    def _write(self, name: str) -> None:
        shutil.copy(CONFIGS / name, self.config)
        self._now = name

    def use(self, name: str) -> None:
        """Another file of configs/documents from now on. Breakers start closed: deployments have new names or none."""
        if name != self._now:
            self._write(name)
            status, told = self.request("POST", "/v1/config/reload")
            assert status == 200, told

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, told, _ = self.headers(method, path, body)
        return status, told

    def headers(self, method: str, path: str, body: Any = None) -> tuple[int, Any, Mapping[str, str]]:
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", "Authorization": f"Bearer {MASTER}"}
        request = urllib.request.Request(self.process.api + path, data=data, method=method, headers=sent)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"null"), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null"), dict(error.headers)

    def chat(self, model: str | None = None, **fields: Any) -> tuple[Any, Mapping[str, str]]:
        """A chat that must succeed: (answer, headers)."""
        body = {"messages": HELLO, **({"model": model} if model else {}), **fields}
        status, told, headers = self.headers("POST", "/v1/chat/completions", body)
        assert status == 200, f"{told}\n{self.process.log()[-3000:]}"
        return told, headers

    def sdk(self, patch: pytest.MonkeyPatch) -> None:
        """Point the SDK's environment here."""
        patch.setenv("EXO_API_BASE", self.process.api)
        patch.setenv("EXO_API_KEY", MASTER)


def ready(started: Mapping[str, Node], name: str, config: str | None = None) -> Node:
    node = started[name]
    if not node.process.api:
        node.process.wait_ready()
    if config is not None:
        node.use(config)
    return node


# -- document 001: ModelMuxer


def snippets(number: int, wanted: int, addresses: Mapping[str, str], needs: tuple[int, ...] = (), **names: Any) -> Any:
    found = documents.blocks(number, "python")
    return documents.run([found[i] for i in (*needs, wanted)], addresses, **names)
