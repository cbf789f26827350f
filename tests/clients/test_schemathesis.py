"""schemathesis over this API's own document and over OpenAI's: no 5xx, and no answer that breaks its schema."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.harness import NodeProcess, nodes

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ROOT / "build" / "schemathesis" / "bin" / "schemathesis"
OPENAI = ROOT.parent / "shared" / "specs" / "openai-subset.openapi.json"
CHECKS = "not_a_server_error,response_schema_conformance,content_type_conformance"
# Not called: what ends the node, unloads its model, fetches from the hub, calls providers, or answers 501 by design.
LEFT_OUT = "quit|download|pull|push|create$|blobs|/delete|instance|check|cancel/|events|models/(add|search)"
SEED = "20261121"

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(not COMMAND.exists(), reason="no build/schemathesis: scripts/environment schemathesis"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    arguments = ["--discovery-module", "none", "--run-model", "demo", "--offline"]
    with nodes(tmp_path_factory.mktemp("schemas") / "home", arguments) as (one,):
        yield one


def run(folder: Path, *arguments: str) -> None:
    """Run schemathesis; its own report is the failure's message."""
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "schema_hooks", "PYTHONPATH": str(Path(__file__).parent)}
    command = [str(COMMAND), "run", *arguments, "--checks", CHECKS, "--seed", SEED, "--request-timeout", "120"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_our_own_document(node: NodeProcess, tmp_path: Path) -> None:
    """Whatever our document allows or forbids: no 5xx, and every answer is as it says."""
    phases = ("--phases", "examples,coverage,fuzzing", "--max-examples", "20")
    run(tmp_path, f"{node.api}/openapi.json", *phases, "--exclude-path-regex", LEFT_OUT)
    assert node.request("GET", "/health")[0] == 200


@pytest.mark.skipif(not OPENAI.exists(), reason=f"{OPENAI} is not there")
def test_openais_document(node: NodeProcess, tmp_path: Path) -> None:
    """OpenAI's operations that are served here, by OpenAI's own document."""
    phases = ("--phases", "examples,coverage,fuzzing", "--max-examples", "20")
    run(tmp_path, str(OPENAI), "--url", f"{node.api}/v1", *phases)
    assert node.request("GET", "/health")[0] == 200
