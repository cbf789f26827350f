"""What test files of this folder share: nodes that live for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.harness import NodeProcess, nodes
from tests.integration.shared_rings import SharedRing, ring
from tests.standins import Script, Standin, serve, standin

KEY = "sk-planted-provider-0123456789"
CONFIG = """\
model_list:
  - model_name: fast
    litellm_params: {model: openai/gpt-4o-mini, api_key: os.environ/PLANTED_KEY, api_base: "@OPENAI@/v1"}
equivalents: "off"
"""


@pytest.fixture(scope="session")
def shared_ring(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRing]:
    """See `shared_rings.on_rings`; pytest runs the tests of one layout after each other."""
    with ring(tmp_path_factory.mktemp("ring"), request.param.split("-")) as made:
        yield made


@pytest.fixture(scope="session")
def stand_in() -> Iterator[Standin]:
    with serve(one := standin("openai", key=KEY)):
        yield one


@pytest.fixture
def provider(stand_in: Standin) -> Iterator[Standin]:
    """The stand-in of OpenAI behind `node`; each test finds it well."""
    yield stand_in
    stand_in.queue.clear()
    stand_in.script = Script()


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory, stand_in: Standin) -> Iterator[NodeProcess]:
    """A node that has the demo model on its ring, and OpenAI's stand-in behind the name "fast"."""
    folder = tmp_path_factory.mktemp("node")
    config = folder / "config.yaml"
    config.write_text(CONFIG.replace("@OPENAI@", stand_in.url))
    arguments = ["--discovery-module", "none", "--litellm-config", str(config)]
    with nodes(folder / "home", arguments, env={"PLANTED_KEY": KEY}) as (one,):
        yield one
