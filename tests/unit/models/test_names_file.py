"""The file of other names: people's lines stay; copies are written so that they are read as what they were."""

from __future__ import annotations

import os
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from exo_node.errors import ConfigurationError, ExoError, InvalidRequest
from exo_node.models.names_file import ALIAS_FILE, Names, NamesFile, check_copy_name, edited, is_copy_name, parse

OWN = """\
# mine

[aliases]
Fast = "org/one" # quick
[ copies ] # made by hand
"A" = "demo"

# the end
[other]
x = 1"""


def test_what_people_wrote_stays() -> None:
    """A copy is added, replaced and removed in its table; every other byte is kept, also the kind of line ends."""
    added = edited(OWN, "b:c", "demo", "f")
    assert added == OWN.replace("# the end\n", '# the end\n"b:c" = "demo"\n') + "\n"
    replaced = edited(added, "B:C", "other", "f")
    assert parse(replaced, "f") == Names({"fast": "org/one"}, {"A": "demo", "B:C": "other"})
    assert edited(replaced, "b:C", None, "f") == OWN + "\n"
    assert edited("", "x", "demo", "f") == '[copies]\n"x" = "demo"\n'
    dos = edited(OWN.replace("\n", "\r\n"), "b:c", "demo", "f")
    assert dos == added.replace("\n", "\r\n")


@pytest.mark.parametrize(
    "model", ['a"b', "a\\nb\n[aliases]\nx='y/z'", "tab\there", "del\x7f\x01", "日本\u2028🦙", "'''"]
)
def test_any_models_name(model: str) -> None:
    """Whatever a folder is called, the file says exactly that."""
    made = edited(edited(OWN, "x", model, "f"), "y", "demo", "f")
    assert tomllib.loads(made) == {**tomllib.loads(OWN), "copies": {"A": "demo", "x": model, "y": "demo"}}


@pytest.mark.parametrize(
    "text",
    ['copies = {a = "demo"}', '[copies]\na = """\nx"""', 'a = """\n[copies]\n"""', '["copies"]\na = "demo"'],
)
def test_unusual_files(text: str) -> None:
    """What cannot be changed line by line is left to people."""
    with pytest.raises(ConfigurationError, match="by hand"):
        edited(text, "a", "other", "f")


def test_wrong_files(tmp_path: Path) -> None:
    """The file and what is wrong in it are named."""
    for broken in (
        *("[aliases", '[aliases]\nx = "no repo"'),
        *("[copies]\nx = 1", '[copies]\nx.y = "demo"', '[copies]\n"" = "a"'),
    ):
        with pytest.raises(ConfigurationError, match="f: "):
            parse(broken, "f")
    with pytest.raises(ConfigurationError, match=r"f: 'x' stands in no table: write it below \[aliases\]"):
        parse('x = "org/name"', "f")
    (tmp_path / ALIAS_FILE).write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        NamesFile(tmp_path).read()


def test_names_of_copies() -> None:
    """Ollama's names, of one namespace at most."""
    for name in ("a", "A.b-c_1", "me/model", "me/model:8b-q4", "gpt-3.5-turbo", "_x", "a" * 80):
        assert is_copy_name(name)
    for name in ("", "-a", ".a", "a/b/c", "a b", "é", "a\n", 'a"', "a:", ":b", "/a", "a/", "a:b:c", "a" * 81, "\u0661"):
        with pytest.raises(InvalidRequest, match="is invalid"):
            check_copy_name(name)


def test_changes_at_once(tmp_path: Path) -> None:
    """None of many is lost; mode and a link stay; nothing is left over."""
    real = tmp_path / "dotfiles.toml"
    real.write_text(OWN)
    real.chmod(0o640)
    home = tmp_path / "home"
    home.mkdir()
    (home / ALIAS_FILE).symlink_to(real)

    def change(name: str) -> None:
        file = NamesFile(home)
        with file.changing():
            file.set(name, "demo")

    names = [f"copy-{i}" for i in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, names))
    assert set(NamesFile(home).read().copies) == {"A", *names}
    assert (real.stat().st_mode & 0o777, (home / ALIAS_FILE).is_symlink()) == (0o640, True)
    assert (os.listdir(home), sorted(os.listdir(tmp_path))) == ([ALIAS_FILE], ["dotfiles.toml", "home"])


def test_a_home_that_takes_nothing(tmp_path: Path) -> None:
    """Where nothing can be written that is said."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ExoError, match="cannot be written") as caught, NamesFile(tmp_path / "file" / "home").changing():
        pass
    assert caught.value.status == 500
