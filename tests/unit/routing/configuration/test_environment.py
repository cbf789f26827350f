"""`.env` and the environment's names."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_node.errors import ConfigurationError
from exo_node.routing.configuration.environment import find_env_file, is_address, merge, read_env_file, unify
from exo_node.routing.configuration.located import FileProblems
from tests.unit.routing.config_files import DOCUMENTS, load, problems


def test_env_file(tmp_path: Path) -> None:
    """Quotes, comments, export and ${VAR} are read as shells read them; the real environment wins."""
    path = tmp_path / ".env"
    path.write_text("A=1 # one\nexport B='two words'\nC=${A}/${HOME}\n\nD=\nE\nF=file\n")
    file = read_env_file(path, {"HOME": "/h"})
    assert dict(file.pairs) == {"A": "1", "B": "two words", "C": "1//h", "D": "", "F": "file"}
    assert file.lines["F"] == 7
    assert merge(file, {"A": "9", "F": ""}) == {"A": "9", "B": "two words", "C": "1//h"}
    assert merge(None, {"X": "", "Y": "1"}) == {"Y": "1"}


def test_the_real_environment_wins_under_any_name(tmp_path: Path) -> None:
    """A setting that the environment has is not the .env's under another of its names; a configuration file's
    `environment_variables` win over both in the same way."""
    (tmp_path / ".env").write_text("OLLAMA_API_BASE=http://file:1\nGEMINI_API_KEY=file\nLITELLM_API_KEY=file\n")
    env = {"OLLAMA_BASE_URL": "http://real:1", "GOOGLE_API_KEY": "", "LITELLM_BASE_URL": "http://real:2"}
    environment = load(tmp_path, env=env).environment
    assert environment["OLLAMA_API_BASE"] == environment["OLLAMA_BASE_URL"] == "http://real:1"
    assert (environment["GEMINI_API_KEY"], environment["LITELLM_MASTER_KEY"]) == ("file", "file")
    text = "environment_variables: {LITELLM_URL: 'http://said:3'}\nollama_base_url: http://said:4\n"
    environment = load(tmp_path, text, env=env).environment
    assert environment["LITELLM_BASE_URL"] == environment["LITELLM_URL"] == "http://said:3"
    assert environment["OLLAMA_API_BASE"] == environment["OLLAMA_BASE_URL"] == "http://said:4"


def test_mistakes_in_an_env_file(tmp_path: Path) -> None:
    """Lines that are no NAME=value, and variables that are not set, are named with their line and never quoted."""
    path = tmp_path / ".env"
    path.write_text("A=1\n\nnot a s3cret line\nB=${NONE}\n")
    with pytest.raises(FileProblems) as caught:
        read_env_file(path, {})
    assert caught.value.lines == (
        f"{path}:3: not NAME=value",
        f"{path}:4: B: the variable NONE is not set",
    )
    path.write_bytes(b"\xff")
    with pytest.raises(FileProblems, match="not UTF-8"):
        read_env_file(path, {})


def test_which_env_file(tmp_path: Path) -> None:
    """A named file must be there; .env of the folder is read where it is."""
    assert find_env_file(None, tmp_path) is None
    (tmp_path / ".env").write_text("A=1\n")
    assert find_env_file(None, tmp_path) == tmp_path / ".env"
    with pytest.raises(ConfigurationError, match=r"--env-file .*: no such file"):
        find_env_file(tmp_path / "none", tmp_path)


def test_names_that_mean_the_same() -> None:
    """Each document's name of a setting has its value; the first name wins where they differ."""
    environment = {
        "LITELLM_URL": "http://a:1",
        "LITELLM_MASTER_KEY": "k",
        "GOOGLE_API_KEY": "g",
        "TOGETHER_API_KEY": "t",
    }
    unify(environment)
    assert environment["LITELLM_BASE_URL"] == environment["LITELLM_PROXY_API_BASE"] == "http://a:1"
    assert environment["LITELLM_API_KEY"] == environment["LITELLM_PROXY_API_KEY"] == "k"
    assert environment["GEMINI_API_KEY"] == "g"
    assert environment["TOGETHERAI_API_KEY"] == "t"
    both = {"LITELLM_API_KEY": "first", "LITELLM_MASTER_KEY": "second"}
    unify(both)
    assert both["LITELLM_PROXY_API_KEY"] == "first"


def test_switches_and_addresses() -> None:
    """Switches become true or false; what is no switch or no address is refused without its value."""
    environment = {"USE_LITELLM": "1", "CASCADE_ROUTING_ENABLED": "off"}
    unify(environment)
    assert environment == {"USE_LITELLM": "true", "CASCADE_ROUTING_ENABLED": "false"}
    with pytest.raises(FileProblems) as caught:
        unify({"USE_LITELLM": "maybe", "LITELLM_URL": "localhost:4000", "OLLAMA_BASE_URL": "http://[bad"})
    assert caught.value.lines == (
        "USE_LITELLM: wants true or false",
        "LITELLM_BASE_URL or LITELLM_URL or LITELLM_PROXY_API_BASE: wants an address such as http://localhost:4000",
        "OLLAMA_API_BASE or OLLAMA_BASE_URL: wants an address such as http://localhost:4000",
    )
    assert is_address("https://h/path") and not is_address("ftp://h") and not is_address("http://h:99999999")


def test_document_001_variables(tmp_path: Path) -> None:
    """Document 001's .env: the upstream proxy, and cascade over the default strategy."""
    config = load(tmp_path, env_file=DOCUMENTS / "001-upstream.env")
    assert config.environment["LITELLM_BASE_URL"] == "http://localhost:4000"
    assert config.environment["LITELLM_API_KEY"] == "your-litellm-key"
    assert config.strategy == "cascade"
    assert config.sources == (str(DOCUMENTS / "001-upstream.env"),)


def test_document_003_variables(tmp_path: Path) -> None:
    """Document 003's .env, with its comment behind a value."""
    environment = load(tmp_path, env_file=DOCUMENTS / "003-jaf.env").environment
    assert environment["USE_LITELLM"] == "true"
    assert environment["LITELLM_API_KEY"] == "your-master-key"
    assert environment["GEMINI_API_KEY"] == "..."


def test_document_002_example(tmp_path: Path) -> None:
    """The shipped example, copied as it is, sets nothing; filled in, its names are known."""
    example = DOCUMENTS.parent / ".env.litellm.example"
    (tmp_path / ".env").write_text(example.read_text())
    assert load(tmp_path).environment == {"HOME": str(tmp_path)}
    filled = example.read_text().replace("OLLAMA_BASE_URL=", "OLLAMA_BASE_URL=http://localhost:11434")
    (tmp_path / ".env").write_text(filled.replace("OPENAI_API_KEY=", "OPENAI_API_KEY=sk-1"))
    environment = load(tmp_path, env={"OPENAI_API_KEY": "sk-real"}).environment
    assert environment["OPENAI_API_KEY"] == "sk-real"
    assert environment["OLLAMA_API_BASE"] == "http://localhost:11434"


def test_mistakes_of_file_and_environment_together(tmp_path: Path) -> None:
    """Files, .env and variables are all reported at once."""
    (tmp_path / ".env").write_text("oops again\n")
    found = problems(tmp_path, '{"default_modle": "x"}', env={"USE_LITELLM": "perhaps", "REDIS_PORT": "abc"})
    assert found == [
        ".env:1: not NAME=value",
        "USE_LITELLM: wants true or false",
        "environment: REDIS_PORT: wants a whole number from 1 to 65535",
        "1.json:1: unknown key default_modle (did you mean default_model?)",
    ]
