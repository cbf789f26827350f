"""LiteLLMService as far as no worker is needed, and workers that do not start."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from exo_node.errors import ConfigurationError
from exo_node.routing.call import UpstreamError
from exo_node.routing.deployment import Deployment
from exo_node.routing.upstream import service as module
from exo_node.routing.upstream.service import ENSURED, LiteLLMService


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here needs the real one."""
    monkeypatch.setattr(module, "litellm_installed", lambda: True)


async def test_start_starts_nothing(tmp_path: Path) -> None:
    """A started service has no process, no folder and no socket until somebody needs it."""
    service = LiteLLMService(home=tmp_path, environment={})
    await service.start()
    assert (service.started, service.status(), os.listdir(tmp_path)) == (False, [], [])
    await service.stop()


async def test_names_without_end_are_not_all_known(tmp_path: Path) -> None:
    """Of those made of a key in the environment the latest stay, and all configured ones; known ones change nothing."""

    def made(name: str, key: str = "k") -> Deployment:
        return Deployment(id=name, model_name=name, litellm_model=name, provider="anthropic", upstream_model=name,
                          params={"api_key": key})  # fmt: skip

    service = LiteLLMService(home=tmp_path, environment={}, deployments=[made("own")])
    for i in range(2 * ENSURED):
        await service.ensure(made(f"auto:anthropic/made-up-{i}"))
    known = {one.id: one for one in service.deployments}
    assert len(known) == ENSURED + 1
    assert "own" in known and f"auto:anthropic/made-up-{2 * ENSURED - 1}" in known
    before = service.deployments
    await service.ensure(made("own"))
    await service.ensure(before[-1])
    assert service.deployments == before
    await service.ensure(made("own", "another"))
    assert {one.id: one for one in service.deployments}["own"].params == {"api_key": "another"}


async def test_an_update_forgets_no_call(tmp_path: Path) -> None:
    """Deployments made of a key in the environment (or by a wildcard) outlive another configuration, whose own of the
    same id wins: their calls are on their way."""

    def made(name: str, key: str) -> Deployment:
        return Deployment(id=name, model_name=name, litellm_model=name, provider="anthropic", upstream_model=name,
                          params={"api_key": key})  # fmt: skip

    service = LiteLLMService(home=tmp_path, environment={}, deployments=[made("went", "k")])
    await service.ensure(made("auto:anthropic/x", "k"))
    await service.ensure(made("same", "old"))
    await service.update([made("same", "new")], {"ANTHROPIC_API_KEY": "other"})
    assert {one.id: one.params["api_key"] for one in service.deployments} == {"auto:anthropic/x": "k", "same": "new"}


async def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without LiteLLM every need of it names what to install."""
    monkeypatch.setattr(module, "litellm_installed", lambda: False)
    service = LiteLLMService(home=tmp_path, environment={})
    await service.start()
    assert not service.available()
    with pytest.raises(ConfigurationError, match=r"exo-node\[litellm\]"):
        await service.facts()
    with pytest.raises(ConfigurationError, match=r"exo-node\[litellm\]"):
        async with service.worker():
            pass


async def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    """A broken installation is told to whoever waits, without secrets; stopping then leaves nothing behind."""
    package = tmp_path / "packages"
    package.mkdir()
    (package / "litellm.py").write_text("import os\nraise RuntimeError('broken wheel ' + os.environ['THE_API_KEY'])\n")
    environment = {**os.environ, "PYTHONPATH": str(package), "THE_API_KEY": "planted-secret"}
    with tempfile.TemporaryDirectory(prefix="exo-") as short:  # a socket's path must be short
        service = LiteLLMService(home=Path(short), environment=environment, workers=1)
        await service.start()
        try:
            with pytest.raises(UpstreamError, match="broken wheel") as e:
                await service.ready()
            assert e.value.cause == "unavailable"
            assert "planted-secret" not in str(e.value)
            (folder,) = (Path(short) / "run").iterdir()
            assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        finally:
            await service.stop()
        assert list((Path(short) / "run").iterdir()) == []


async def test_a_first_start_that_is_killed(tmp_path: Path) -> None:
    """Whoever waits goes on waiting: it is started again, and only what that comes to is told."""
    package = tmp_path / "packages"
    package.mkdir()
    (package / "litellm.py").write_text(
        "import os, pathlib\nmark = pathlib.Path(__file__).with_name('mark')\n"
        "if not mark.exists():\n    mark.touch()\n    os.kill(os.getpid(), 9)\n"
        "raise RuntimeError('the second start')\n"
    )
    with tempfile.TemporaryDirectory(prefix="exo-") as short:
        service = LiteLLMService(home=Path(short), environment={**os.environ, "PYTHONPATH": str(package)}, workers=1)
        await service.start()
        try:
            with pytest.raises(UpstreamError, match="the second start"):
                await service.ready()
        finally:
            await service.stop()


async def test_after_stop(tmp_path: Path) -> None:
    """A stopped service refuses calls at once."""
    service = LiteLLMService(home=tmp_path, environment={})
    with pytest.raises(UpstreamError, match="stopped"):
        await service.ready()


async def test_a_long_home_gets_a_short_socket(tmp_path: Path) -> None:
    """A socket's address has room for about a hundred bytes, whatever EXO_HOME is."""
    home = tmp_path / ("long" * 30)
    folder = module._private_folder(home)
    try:
        assert len(os.fsencode(folder / "0.sock")) <= module.MAX_SOCKET_PATH
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    finally:
        folder.rmdir()
