"""Links in a model's folder (issue 6, 5: path traversal and symlink escape closed, no pickle, no code of a model's)."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import pytest

import exo_node
from exo_node.errors import CheckpointError, UnsupportedModel
from exo_node.models.chat_template import read_template
from exo_node.models.headers import INDEX, read_entries
from exo_node.models.links import check_links
from exo_node.models.spec import read_spec
from exo_node.models.tokenizer import Tokenizer
from tests.tiny_models import write_byte_level, write_model


def model(folder: Path) -> Path:
    write_model(folder)
    return write_byte_level(folder)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "model.safetensors", "chat_template.jinja", "tokenizer_config.json"]
)
@pytest.mark.parametrize("relative", [True, False])
def test_a_file_that_is_a_link_elsewhere(name: str, relative: bool, tmp_path: Path) -> None:
    """Neither weights nor tokenizer nor template are read through a link that leads out of the folder: what came as a
    model would show other files of this machine to peers and clients."""
    folder = model(tmp_path / "models" / "m")
    secret = tmp_path / "secret"
    secret.write_bytes((folder / name).read_bytes() if (folder / name).exists() else b"{{ 'x' }}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(os.path.relpath(secret, folder) if relative else secret)
    for read in (lambda: read_spec(folder, "m"), lambda: Tokenizer.load(folder)):
        with pytest.raises(CheckpointError, match=re.escape(name)):
            read()


def test_a_folder_within_that_is_a_link(tmp_path: Path) -> None:
    """The one file that is read below the folder is held to the same."""
    folder = model(tmp_path / "m")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text("{}")
    (folder / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="1_Pooling"):
        check_links(folder)


def test_links_that_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hugging Face cache's snapshots are links to its blobs; one file may be another's name; a whole folder may be
    a link that its owner made; files that are not read may lead anywhere."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    real = model(tmp_path / "real")
    snapshot = tmp_path / "other-cache" / "models--a--b" / "snapshots" / "rev"
    snapshot.mkdir(parents=True)
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir()
    for i, file in enumerate(real.iterdir()):
        file.rename(blobs / str(i))
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    assert read_spec(snapshot, "a/b").n_layers
    (tmp_path / "linked").symlink_to(snapshot)
    assert read_spec(tmp_path / "linked", "m").n_layers
    (snapshot / "README.md").symlink_to("/etc/passwd")
    (snapshot / "generation_config.json").symlink_to("config.json")
    check_links(snapshot)
    local = model(tmp_path / "local")
    (tmp_path / "hub").mkdir()
    (local / "tokenizer.json").rename(tmp_path / "hub" / "blob")
    (local / "tokenizer.json").symlink_to(tmp_path / "hub" / "blob")
    check_links(local)


@pytest.mark.parametrize(
    "file", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "x\x00.safetensors"]
)
def test_an_index_that_names_files_elsewhere(file: str, tmp_path: Path) -> None:
    """The index of a model in several files names plain files of its folder."""
    folder = model(tmp_path / "m")
    names = list(read_entries(folder))
    (folder / "model.safetensors").rename(tmp_path / "secret.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, file)}))
    with pytest.raises(CheckpointError, match=r"is not a plain file name|is missing"):
        read_entries(folder)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {BOMB}",)


BOMB = "/tmp/exo-node-test-bomb"


def test_pickled_weights_are_refused_by_name(tmp_path: Path) -> None:
    """A checkpoint that may run code when it is read is never read."""
    folder = model(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is a pickle"):
        read_spec(folder, "m")
    assert not Path(BOMB).exists()


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    """`auto_map` and modeling files are data like all else: a known family is read by our own code, another refused."""
    folder = model(tmp_path / "m")
    ran = tmp_path / "ran"
    (folder / "modeling_custom.py").write_text(f"open({str(ran)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    custom = {"auto_map": {"AutoModelForCausalLM": "modeling_custom.Model"}, "model_file": "modeling_custom.py"}
    (folder / "config.json").write_text(json.dumps({**config, **custom}))
    assert read_spec(folder, "m").n_layers
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["modeling_custom.T", None]}})
    )
    assert Tokenizer.load(folder).vocab_size
    assert read_template(folder, {}) is None
    (folder / "config.json").write_text(json.dumps({**config, **custom, "model_type": "custom", "hidden_size": None}))
    with pytest.raises((CheckpointError, UnsupportedModel)):
        read_spec(folder, "m")
    assert not ran.exists()


# What runs code that comes as data, wherever it stands in the package.
RUNS_DATA = re.compile(
    r"\b(import (pickle|marshal|shelve|dill|cloudpickle|joblib)|from (pickle|marshal|shelve|joblib) import"
    r"|torch\.load|torch_load|np\.load|numpy\.load|yaml\.(load|unsafe_load|full_load)\("
    r"|trust_remote_code|exec_module|spec_from_file_location|(?<![\w.])(eval|exec)\()"
)
# tinygrad keeps compiled kernels in a cache of this user's own; we only name the error of one that is damaged.
NAMED = {"engine/tinygrad/kernels.py": "import pickle"}


def test_nothing_in_the_package_runs_data() -> None:
    """No pickle, no unsafe YAML, no trust_remote_code, no eval and exec in exo_node."""
    root = Path(exo_node.__file__).parent
    found = [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in sorted(root.rglob("*.py"))
        if "generated" not in path.parts
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if RUNS_DATA.search(line) and NAMED.get(path.relative_to(root).as_posix()) != line
    ]
    assert found == []
