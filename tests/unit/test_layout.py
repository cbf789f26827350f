"""The tests mirror the tree, and starting a daemon imports no framework."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "exo_node"
UNIT = ROOT / "tests" / "unit"
INTEGRATION = ROOT / "tests" / "integration"

# Unit tests that stand for no single module.
FREE = {"test_layout.py"}
# Modules without a test file of their own, and what tests them instead.
ELSEWHERE = {
    "types.py": "plain data",
    "errors.py": "plain data",
    "api/schemas/openai.py": "plain data; test_openapi.py holds it to what is refused",
    "api/schemas/answers.py": "plain data; test_openapi.py holds it to what is refused",
    "api/schemas/anthropic.py": "plain data; test_openapi.py holds it to what is refused",
    "api/schemas/responses.py": "plain data; test_openapi.py holds it to what is refused",
    "api/schemas/node.py": "plain data; test_openapi.py holds it to what is refused",
    "api/schemas/cluster_answers.py": "plain data; test_document.py holds a node's answers to it",
    "api/schemas/routing_answers.py": "plain data; test_document.py holds a node's answers to it",
    "routing/call.py": "plain data",
    "routing/deployment.py": "plain data",
    "routing/plan.py": "plain data",
    "routing/front/surroundings.py": "a contract",
    "routing/adapter/parts.py": "plain data",
    "routing/adapter/ports.py": "contracts; the adapter's tests hold them",
    "routing/sidecar/server.py": "needs LiteLLM; integration/sidecar drives it over its socket",
    "routing/sidecar/loggers.py": "needs LiteLLM; integration/sidecar drives it over its socket",
    "routing/sidecar/diagnosis.py": "needs LiteLLM; integration/sidecar drives it over its socket",
    "ring/dialling.py": "one call; every request to a ring goes through it",
    "ring/members.py": "contracts, and one line per call; every integration test with two nodes goes through it",
    "ring/node_service.py": "one line per call; every integration test with two nodes goes through it",
    "engine/mlx/stage.py": "the engine's way through mlx-lm's classes; test_engine.py and test_families.py run it",
    "models/layout.py": "names and shapes of tensors; test_spec.py and test_weights.py hold it to real checkpoints",
    "ring/ports.py": "a contract; test_local_backend.py holds it",
    "engine/base.py": "a contract; the engines' tests hold it",
    "api/dialects/base.py": "a contract; the dialects' tests hold it",
}
# 3 s and 250 MB that a daemon must not pay (ARCHITECTURE 2).
NOT_IN_A_DAEMON = {"mlx", "mlx_lm", "tinygrad", "torch", "transformers", "litellm"}


def modules() -> list[Path]:
    """Modules with code, relative to the package, without generated files and package fronts."""
    found = (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
    return sorted(p for p in found if not p.name.startswith("__") and "generated" not in p.parts)


def is_tested(module: Path) -> bool:
    """`a/b.py` has `unit/a/test_b.py` or `unit/a/test_b_*.py`, or `integration/test_b*.py` or `test_a_b*.py`.

    A part that a test of its own folder imports by name is tested there.
    """
    stem = module.stem.lstrip("_")
    beside = UNIT / module.parent
    if (beside / f"test_{stem}.py").exists() or any(beside.glob(f"test_{stem}_*.py")):
        return True
    dotted = ".".join(("exo_node", *module.parent.parts, module.stem))
    package, _, name = dotted.rpartition(".")
    imports = re.compile(
        rf"(from|import) {re.escape(dotted)}\b|from {re.escape(package)} import ([\w ,]*[ ,])?{name}\b"
    )
    if any(imports.search(test.read_text()) for test in beside.glob("test_*.py")):
        return True
    joined = "_".join((*module.parent.parts, stem))
    return any(any(INTEGRATION.glob(f"test_{name}*.py")) for name in (stem, joined))


def mirrors(test: Path) -> bool:
    """`a/test_b.py` stands for `a/b.py`, the folder `a/b`, or one aspect of them: `a/test_b_aspect.py`."""
    words = test.stem.removeprefix("test_").split("_")
    folder = PACKAGE / test.parent
    names = ["_".join(words[:n]) for n in range(len(words), 0, -1)]
    return any((folder / file).exists() for name in names for file in (f"{name}.py", f"_{name}.py", name))


def test_each_module_has_a_test() -> None:
    """A module of the package has a unit or an integration test named after it, or is listed with its reason."""
    untested = [str(m) for m in modules() if m.as_posix() not in ELSEWHERE and not is_tested(m)]
    assert not untested, "\n".join(untested)


def test_each_unit_test_has_a_module() -> None:
    """A unit test file lies where the module lies that it tests."""
    tests = (path.relative_to(UNIT) for path in UNIT.rglob("test_*.py"))
    assert [str(test) for test in sorted(tests) if test.as_posix() not in FREE and not mirrors(test)] == []


def test_exceptions_exist() -> None:
    """A module that is excused from having a test file exists."""
    assert [name for name in ELSEWHERE if not (PACKAGE / name).exists()] == []


def test_no_file_names_the_machine_it_was_written_on() -> None:
    """The build configuration holds no index host, no credentials and no absolute path of a developer's machine."""
    files = [ROOT / "pyproject.toml", *sorted((ROOT / "locks").glob("*.txt"))]
    found = [
        f"{path.name}: {line}"
        for path in files
        for line in path.read_text().splitlines()
        if any(word in line for word in ("://", "file:", "--index", "--find-links", "/home/", "/opt/"))
    ]
    assert found == []


@pytest.mark.parametrize("module", ["exo_node.__main__", "exo_node.daemon"])
def test_the_daemon_imports_no_framework(module: str) -> None:
    """Importing the command and the daemon, in a process of their own, leaves every framework unimported."""
    code = f"import sys, {module}; print(' '.join(sorted(n for n in sys.modules if '.' not in n)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) & NOT_IN_A_DAEMON == set()
