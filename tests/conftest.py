"""What all tests share: a private EXO_HOME, the checkpoints beside the repository, and skips that say why."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parent.parent
SHARED_MODELS = ROOT.parent / "shared" / "models"

# Several runners share this machine's cores with pytest: BLAS threads that wait for each other there cost 30 times what
# they save. Inherited by every process that a test starts; set them in the environment to test with more.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # tests that import it must not call home

# Nothing fails on a clock: hypothesis gives an example 200 ms, which a busy machine needs now and then.
hypothesis.settings.register_profile("exo", deadline=None)
hypothesis.settings.load_profile("exo")

# marker -> (modules it needs, what to do when one is absent)
NEEDS = {
    "engine_mlx": (("mlx", "mlx_lm"), "MLX is not installed (no wheel for this platform?)"),
    "engine_tinygrad": (("tinygrad",), "tinygrad is not installed"),
    "reference": (
        ("torch", "transformers"),
        "no torch here: it needs the CPU build of locks/reference.txt, found through PIP_FIND_LINKS",
    ),
}


WITH_NODES = ("tests/integration/", "tests/chaos/")
# Of those, where nobody waits for a peer to fall silent: what one daemon answers, and the texts of rings.
OF_TEXTS = tuple(
    f"tests/integration/{name}"
    for name in (
        "documents_served/",
        "external/",
        "sidecar/",
        "test_api_external.py",
        "test_asked_limits.py",
        "test_batches.py",
        "test_completions.py",
        "test_demo_text.py",
        "test_disks.py",
        "test_document.py",
        "test_download.py",
        "test_embeddings_local.py",
        "test_failover_matrix.py",
        "test_failover_wires.py",
        "test_http_tls.py",
        "test_hub.py",
        "test_limits.py",
        "test_parameters.py",
        "test_passthrough.py",
        "test_redis_limits.py",
        "test_redis_script.py",
        "test_ring_requests.py",
        "test_ring_text.py",
        "test_ring_tools.py",
        "test_secrets.py",
        "test_standins.py",
        "test_structured_answers.py",
    )
)


# Servers and runners of pytest's own processes, no nodes: shared as unit tests are.
WITHOUT_NODES = ("tests/integration/test_control_plane.py", "tests/integration/test_runner_service.py")


class NodesInTwoProcesses(LoadScopeScheduling):
    """Of several processes two run all that starts nodes, in order; the others share the rest by files.

    xdist's own groups rely on a private field of pytest's that pytest 9.2 no longer reads.
    """

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(OF_TEXTS):
            return "texts"
        if nodeid.startswith(WITH_NODES) and not nodeid.startswith(WITHOUT_NODES):
            return "rings"
        return nodeid.split("::", 1)[0]


@pytest.hookimpl(optionalhook=True)  # unknown under `-p no:xdist`
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """How the processes of `-n` share the tests."""
    return NodesInTwoProcesses(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: one more than there are cores, since those that wait for nodes leave theirs half of the time."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a framework that is not installed (nothing is imported to find out)."""
    skips = {
        marker: pytest.mark.skip(reason=reason)
        for marker, (modules, reason) in NEEDS.items()
        if any(importlib.util.find_spec(module) is None for module in modules)
    }
    for item in items:
        for marker, skip in skips.items():
            if item.get_closest_marker(marker) is not None:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def exo_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own for keys, settings and logs: no test touches the user's."""
    home = tmp_path / "exo-home"
    monkeypatch.setenv("EXO_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of published checkpoints beside the repository; skips where it is not there."""
    if not SHARED_MODELS.is_dir():
        pytest.skip("no ../shared/models beside the repository")
    return SHARED_MODELS


@pytest.fixture(scope="session")
def stories260k(shared_models: Path) -> Path:
    """A published five-layer Llama of 260 thousand parameters, with its expected text in EXPECTED.md."""
    folder = shared_models / "stories260K"
    if not folder.is_dir():
        pytest.skip("no ../shared/models/stories260K beside the repository")
    return folder
