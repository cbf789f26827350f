"""What a front says of its configuration, and how loudly."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from exo_node.errors import ConfigurationError
from tests.unit.routing.front_parts import front


async def test_set_verbose_logs_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the start and after a reload; without it the node's own level holds."""
    async with front(tmp_path, monkeypatch, "litellm_settings: {set_verbose: true}\n") as (made, _):
        assert logging.getLogger("exo.routing").isEnabledFor(logging.DEBUG)
        (tmp_path / "config.yaml").write_text("{}")
        await made.reload()
        assert logging.getLogger("exo").level == logging.NOTSET


async def test_names_that_nothing_carries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are among the notes of stats and reload, and in the log; a budget of an unknown provider is refused."""
    text = "limits: {models: {demo: {rpm: 9}, demmo: {rpm: 9}}}\n"
    note = f"{tmp_path}/config.yaml:1: limits.models.demmo: no model 'demmo' is known here (did you mean demo?)"
    async with front(tmp_path, monkeypatch, text) as (made, _):
        assert made.stats()["notes"] == [note]
        assert note in caplog.messages
        assert (await made.reload())["notes"] == [note]
        (tmp_path / "config.yaml").write_text(text + "budgets: [{subject: 'provider:opnai', limit: 1}]\n")
        with pytest.raises(ConfigurationError, match=r"config.yaml:2: budgets.*did you mean openai"):
            await made.reload()
