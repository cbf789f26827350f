"""Names to models: folders, demo, cache, short names; unknown names say what there is; names lead nowhere else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from exo_node.errors import ConfigurationError, DownloadError, InvalidRequest, ModelNotFound
from exo_node.models.catalog import Catalog, LocalModel, RemoteModel, hub_cache
from exo_node.models.names_file import is_repo_id
from tests.tiny_models import CONFIG, write_model


def make(tmp_path: Path, *names: str, offline: bool = False) -> Catalog:
    models = tmp_path / "models"
    models.mkdir(exist_ok=True)
    for name in names:
        write_model(models / name)
    return Catalog([models], tmp_path / "home", offline, hf_home=tmp_path / "hf")


def cached(tmp_path: Path, repo: str, revision: str = "abc", main: str | None = "abc") -> Path:
    folder = tmp_path / "hf" / "hub" / ("models--" + repo.replace("/", "--"))
    if main is not None:
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text(main)
    return write_model(folder / "snapshots" / revision)


def test_folders_are_models_by_their_names(tmp_path: Path) -> None:
    """Each sub-folder with a config.json is a model; others, hidden ones and files are none."""
    catalog = make(tmp_path, "One", "two")
    (tmp_path / "models" / "empty").mkdir()
    (tmp_path / "models" / ".hidden").mkdir()
    (tmp_path / "models" / ".hidden" / "config.json").write_text("{}")
    (tmp_path / "models" / "config.json").write_text("{}")
    assert [e.model_id for e in catalog.list() if e.source == "models-dir"] == ["One", "two"]
    assert catalog.resolve("One") == LocalModel(tmp_path / "models" / "One", "One")


def test_any_case_unless_ambiguous(tmp_path: Path) -> None:
    """A name in another case is found when only one model fits; else both are named."""
    catalog = make(tmp_path, "One", "two")
    assert catalog.resolve("ONE") == LocalModel(tmp_path / "models" / "One", "One")
    write_model(tmp_path / "models" / "one")
    assert catalog.resolve("one").model_id == "one"  # type: ignore[union-attr]
    with pytest.raises(ModelNotFound, match="'One', 'one'"):
        catalog.resolve("oNE")


def test_unknown_names_list_what_there_is(tmp_path: Path) -> None:
    """ModelNotFound names the models on this machine and the short names."""
    with pytest.raises(ModelNotFound, match=r"no model 'gpt-4o'.*One.*llama-3\.2-1b") as caught:
        make(tmp_path, "One").resolve("gpt-4o")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    with pytest.raises(ModelNotFound, match="--offline"):
        make(tmp_path, "One", offline=True).resolve("who/ever")


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "../models/One", "/etc/passwd", "One/", "One/..", "a/../b", "..%2fOne", "a/b/c", "~", "One\0"],
)
def test_names_do_not_lead_out(name: str, tmp_path: Path) -> None:
    """A name that looks like a path is an unknown model."""
    with pytest.raises(ModelNotFound):
        make(tmp_path, "One").resolve(name)


def test_short_names(tmp_path: Path) -> None:
    """A short name means its repository, in any case; once cached it is local, and the card shows the short name."""
    catalog = make(tmp_path)
    assert catalog.resolve("LLaMA-3.2-1b") == RemoteModel("unsloth/Llama-3.2-1B-Instruct")
    snapshot = cached(tmp_path, "unsloth/Llama-3.2-1B-Instruct")
    assert catalog.resolve("llama-3.2-1b") == LocalModel(snapshot, "unsloth/Llama-3.2-1B-Instruct")
    card = next(card for card in catalog.cards({"unsloth/Llama-3.2-1B-Instruct"}) if card.owned_by == "unsloth")
    assert (card.aliases, card.loaded, card.context_length) == (("llama-3.2-1b",), True, 64)
    assert card.local_path is not None
    assert card.size == sum(file.stat().st_size for file in Path(card.local_path).glob("*.safetensors"))
    with pytest.raises(DownloadError, match="--offline"):
        make(tmp_path, offline=True).resolve("llama-3.2-3b")


def test_every_alias_names_a_repository(tmp_path: Path) -> None:
    """The shipped table is sound: lower case, well-formed repositories, none twice."""
    aliases = make(tmp_path).aliases
    assert len(aliases) > 30
    assert all(alias == alias.lower() and is_repo_id(repo) for alias, repo in aliases.items())
    assert len(set(aliases.values())) == len(aliases)


def test_own_aliases(tmp_path: Path) -> None:
    """A table in the home folder adds to the shipped one and wins; a broken one is named, and ends no running node."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "model_aliases.toml").write_text('[aliases]\nMine = "me/mine"\n"llama-3.2-1b" = "me/other"')
    assert make(tmp_path).resolve("mine") == RemoteModel("me/mine")
    assert make(tmp_path).resolve("llama-3.2-1b") == RemoteModel("me/other")
    running = make(tmp_path)
    assert running.resolve("mine") == RemoteModel("me/mine")
    for broken in ("[aliases", '[aliases]\nx = "no repo"'):
        (home / "model_aliases.toml").write_text(broken)
        assert running.resolve("mine") == RemoteModel("me/mine")
        with pytest.raises(ConfigurationError, match=r"model_aliases\.toml"):
            running.copy("demo", "new")
        with pytest.raises(ConfigurationError, match=r"model_aliases\.toml"):
            make(tmp_path).resolve("mine")


def test_cache_takes_main_else_the_newest_complete(tmp_path: Path) -> None:
    """The snapshot of `main` is taken; when it is unfinished, another complete one; other folders are left out."""
    old = cached(tmp_path, "org/m", "old", main="new")
    new = cached(tmp_path, "org/m", "new", main=None)
    catalog = make(tmp_path)
    assert catalog.resolve("org/m") == LocalModel(new, "org/m")
    (new / "tokenizer.json").unlink()
    assert catalog.resolve("org/m") == LocalModel(old, "org/m")
    (old / "model.safetensors").unlink()
    assert catalog.resolve("org/m") == RemoteModel("org/m")
    (tmp_path / "hf" / "hub" / "datasets--org--d").mkdir()


def test_only_fetched_models_are_removed(tmp_path: Path) -> None:
    """The whole repository goes from the cache; the demo, own folders and what is not here stay and are named."""
    folder = cached(tmp_path, "org/One")
    catalog = make(tmp_path, "mine", offline=True)
    assert catalog.remove("ORG/one") == "org/One"
    assert not folder.parent.parent.exists()
    for name, error, says in (
        ("mine", InvalidRequest, "your own folder"),
        ("demo", InvalidRequest, "comes with exo-node"),
        ("org/One", ModelNotFound, "not on this machine|no model"),
        ("llama-3.2-1b", ModelNotFound, "not on this machine"),
    ):
        with pytest.raises(error, match=says):
            catalog.remove(name)
    assert (tmp_path / "models" / "mine").is_dir()


def test_removing_follows_no_link(tmp_path: Path) -> None:
    """A repository that is a link to somewhere else is refused, and what a link within one leads to stays. (Issue 6, 5:
    symlink escape closed.)"""
    folder = cached(tmp_path, "org/One")
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    (folder / "more").symlink_to(kept)
    repository = folder.parent.parent
    moved = repository.rename(tmp_path / "moved")
    repository.symlink_to(moved)
    catalog = make(tmp_path, offline=True)
    with pytest.raises(InvalidRequest, match="a link of yours"):
        catalog.remove("org/One")
    assert (moved / "snapshots").is_dir()
    repository.unlink()
    moved.rename(repository)
    assert catalog.remove("org/One") == "org/One"
    assert not repository.exists() and (kept / "file").exists()


def test_copies(tmp_path: Path) -> None:
    """A copy is another name for a model of any kind, at once and after a restart; replaced and removed."""
    snapshot = cached(tmp_path, "org/One")
    catalog = make(tmp_path, "mine")
    before, neighbour = catalog.aliases, make(tmp_path)
    assert "small:1b" not in neighbour.aliases
    catalog.copy("DEMO", "Small:1b")
    assert catalog.aliases is not before
    assert neighbour.resolve("small:1b") == catalog.resolve("demo")
    catalog.copy("mine", "me/second")
    catalog.copy("org/one", "third")
    catalog.copy("small:1b", "again")
    for one in (catalog, make(tmp_path, offline=True)):
        assert one.resolve("SMALL:1b").model_id == one.resolve("again").model_id == "demo"  # type: ignore[union-attr]
        assert one.resolve("me/second") == LocalModel(tmp_path / "models" / "mine", "mine")
        assert one.resolve("third") == LocalModel(snapshot, "org/One")
        assert {card.id: card.copies for card in one.cards(set())} == {
            "mine": ("me/second",), "demo": ("Small:1b", "again"), "org/One": ("third",)
        }  # fmt: skip
    catalog.copy("mine", "AGAIN")
    assert catalog.resolve("again").model_id == "mine"  # type: ignore[union-attr]
    assert catalog.remove("me/SECOND") == "me/second"
    with pytest.raises(ModelNotFound):
        catalog.resolve("second")
    with pytest.raises(InvalidRequest, match=r"has copies.*third first") as caught:
        catalog.remove("org/One")
    assert (caught.value.status, snapshot.exists()) == (409, True)
    assert [catalog.remove(name) for name in ("third", "org/One")] == ["third", "org/One"]


def test_names_that_no_copy_gets(tmp_path: Path) -> None:
    """Models' names and short names are never shadowed; only what is on this machine is copied; onto itself is fine."""
    cached(tmp_path, "org/One")
    catalog = make(tmp_path, "mine", offline=True)
    catalog.copy("demo", "copied")
    for name in ("Mine", "DEMO", "ORG/one", "llama-3.2-1b", "unsloth/Llama-3.2-1B-Instruct"):
        with pytest.raises(InvalidRequest, match="another model") as caught:
            catalog.copy("copied", name)
        assert caught.value.status == 409
    for source in ("llama-3.2-1b", "who/ever", "nobody"):
        with pytest.raises(ModelNotFound):
            catalog.copy(source, "new")
    with pytest.raises(ModelNotFound, match="pull it first"):
        make(tmp_path).copy("llama-3.2-1b", "new")
    catalog.copy("demo", "demo")
    catalog.copy("copied", "copied")
    assert {card.id: card.copies for card in catalog.cards(set())}["demo"] == ("copied",)


def test_a_copy_whose_model_is_gone(tmp_path: Path) -> None:
    """It is told whose copy it was; it may be removed, and made anew; a model that comes later wins over it."""
    catalog = make(tmp_path, "mine")
    catalog.copy("mine", "other")
    shutil.rmtree(tmp_path / "models" / "mine")
    with pytest.raises(ModelNotFound, match="a copy of 'mine', which is gone"):
        catalog.resolve("other")
    catalog.copy("demo", "other")
    assert catalog.resolve("other").model_id == "demo"  # type: ignore[union-attr]
    assert catalog.remove("other") == "other"
    catalog.copy("demo", "later")
    write_model(tmp_path / "models" / "later")
    assert catalog.resolve("later").model_id == "later"  # type: ignore[union-attr]
    assert {card.id: card.copies for card in catalog.cards(set())} == {"later": (), "demo": ()}


def test_cards_of_broken_models(tmp_path: Path) -> None:
    """A model with an unreadable config is listed without a context length; the folders' own file wins over others."""
    catalog = make(tmp_path, "One")
    (tmp_path / "models" / "One" / "config.json").write_text(json.dumps({**CONFIG, "hidden_size": -1}))
    card = next(card for card in catalog.cards(set()) if card.id == "One")
    assert (card.context_length, card.loaded, card.owned_by) == (None, False, "local")


def test_first_folder_wins(tmp_path: Path) -> None:
    """One name in two models folders is the first's; a folder named like the demo takes its place."""
    a, b = write_model(tmp_path / "a" / "m"), write_model(tmp_path / "b" / "m")
    demo = write_model(tmp_path / "b" / "demo")
    catalog = Catalog([a.parent, b.parent], tmp_path, False, hf_home=tmp_path)
    assert catalog.resolve("m") == LocalModel(a, "m")
    assert catalog.resolve("demo") == LocalModel(demo, "demo")


def test_missing_models_folder(tmp_path: Path) -> None:
    """--models-dir that is not there is said at start."""
    with pytest.raises(ConfigurationError, match="--models-dir"):
        Catalog([tmp_path / "none"], tmp_path, False)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cache's place follows huggingface_hub's own variables."""
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert hub_cache() == Path.home() / ".cache" / "huggingface" / "hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert hub_cache() == Path("/x/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "/h")
    assert hub_cache() == Path("/h/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/c")
    assert hub_cache() == Path("/c")
    assert hub_cache(tmp_path) == tmp_path / "hub"
