"""What a model's files say."""

from __future__ import annotations

from pathlib import Path

from exo_node.api.dialects.ollama_facts import FactsReader
from exo_node.types import ModelCard
from tests.tiny_models import write_model


def card(folder: Path | None) -> ModelCard:
    return ModelCard("tiny", 0, "local", 64, False, None if folder is None else str(folder))


async def test_facts_follow_the_files(tmp_path: Path) -> None:
    """They are read once and again when a file changes; another file, another digest."""
    folder, reader = write_model(tmp_path / "tiny"), FactsReader()
    first = await reader.of(card(folder))
    assert (first.size > 0, len(first.digest), first.thinks) == (True, 64, False)
    assert first.spec is not None
    assert await reader.of(card(folder)) is first
    (folder / "chat_template.jinja").write_text("{{ tools }}<think>")
    second = await reader.of(card(folder))
    assert second.thinks
    assert second.digest != first.digest


async def test_what_cannot_be_read(tmp_path: Path) -> None:
    """Broken files, files that are gone, and models on other nodes have a digest and nothing else."""
    folder, reader = write_model(tmp_path / "tiny"), FactsReader()
    (folder / "config.json").write_text("{")
    broken = await reader.of(card(folder))
    assert (broken.spec, broken.template, len(broken.digest)) == (None, "", 64)
    gone, elsewhere = await reader.of(card(tmp_path / "gone")), await reader.of(card(None))
    assert gone == elsewhere
    assert (gone.size, len(gone.digest)) == (0, 64)
