"""One daemon with external models for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.external_stage import KEY, Stage
from tests.integration.harness import NodeProcess, nodes
from tests.standins import Script, serve, standin


@pytest.fixture(scope="package")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("external")
    providers = standin("openai", key=KEY), standin("anthropic", key=KEY)
    with serve(*providers):
        config = folder / "config.yaml"
        made = Stage(NodeProcess.__new__(NodeProcess), *providers, config)
        config.write_text(made.text)
        arguments = ["--discovery-module", "none", "--litellm-config", str(config), "-v"]
        with nodes(folder / "home", arguments, env={"PLANTED_KEY": KEY}) as (node,):
            made.node = node
            yield made


@pytest.fixture(autouse=True)
def quiet(stage: Stage) -> Iterator[None]:
    """Each test begins and ends with well providers and the file's configuration."""
    yield
    for one in (stage.openai, stage.anthropic):
        one.queue.clear()
        one.script = Script()
    stage.config.write_text(stage.text)
