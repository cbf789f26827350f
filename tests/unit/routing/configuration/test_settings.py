"""`load_routing`: precedence, several files, reload."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exo_node.errors import ConfigurationError
from exo_node.routing.configuration.draft import TIMERS
from exo_node.routing.deployment import RoutingConfig
from tests.unit.routing.config_files import DOCUMENTS, load, problems


def test_nothing_configured(tmp_path: Path) -> None:
    """Without files and keys there is an empty configuration."""
    config = load(tmp_path, env={"PATH": "/bin"})
    assert config == RoutingConfig(environment={"HOME": str(tmp_path), "PATH": "/bin"}, continuation="same-model")


def test_yaml_is_imported_for_yaml_only() -> None:
    """Importing the reader and reading JSON imports neither yaml, dotenv nor cryptography."""
    code = (
        "import sys; from pathlib import Path; from exo_node.config import Settings;"
        "from exo_node.routing.configuration.settings import load_routing as load;"
        f"load(Settings(home=Path('/none'), litellm_config=(Path({str(DOCUMENTS / '000-exo.json')!r}),)), {{}});"
        "print(sorted({'yaml', 'dotenv', 'cryptography', 'litellm', 'redis'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_later_files_win(tmp_path: Path) -> None:
    """Files are read in order: deployments add up, single settings are the last file's."""
    config = load(
        tmp_path,
        '{"default_model": "a", "router": {"timeout": 1, "num_retries": 1}, "fallbacks": {"a": ["b"], "x": ["y"]}}',
        "default_model: b\nrouter_settings: {timeout: 2}\nfallbacks: [{a: [c]}]\n",
        DOCUMENTS / "001-docker.yaml",
        DOCUMENTS / "000-exo.json",
        '{"default_model": "last"}',
    )
    assert config.default_model == "last"
    assert (config.timeout_s, config.num_retries) == (30, 3)
    assert config.fallbacks == {"a": ("c",), "x": ("y",)}
    assert len(config.deployments) == 5
    assert [Path(name).name for name in config.sources] == [
        "1.json",
        "2.yaml",
        "001-docker.yaml",
        "000-exo.json",
        "5.json",
    ]


def test_files_win_over_flags(tmp_path: Path) -> None:
    """configuration file > flag, for what both can say."""
    flags: dict[str, Any] = {"max_cost": 1.0, "equivalents": "off", "continuation": "any", "default_model": "flag"}
    config = load(tmp_path, **flags)
    assert (config.max_cost, config.equivalents, config.continuation, config.default_model) == (
        1.0,
        "off",
        "any",
        "flag",
    )
    file = '{"max_cost": 2, "equivalents": "latency", "continuation": "off", "default_model": "file"}'
    config = load(tmp_path, file, **flags)
    assert (config.max_cost, config.equivalents, config.continuation) == (2.0, "latency", "off")
    assert config.default_model == "file"
    assert load(tmp_path, enable_litellm=False).enabled is False


@pytest.mark.parametrize(
    ("flag", "env", "file", "expected"),
    [
        (None, {}, "{}", None),
        (None, {"DEFAULT_ROUTING_STRATEGY": "hybrid"}, "{}", "hybrid"),
        ("hybrid", {"DEFAULT_ROUTING_STRATEGY": "hybrid", "CASCADE_ROUTING_ENABLED": "true"}, "{}", "cascade"),
        ("cost", {"DEFAULT_ROUTING_STRATEGY": "hybrid", "CASCADE_ROUTING_ENABLED": "true"}, "{}", "cost"),
        (None, {"CASCADE_ROUTING_ENABLED": "no"}, "{}", None),
        ("latency-based-routing", {}, "{}", "latency"),
        ("cost", {}, '{"routing_strategy": "cost_optimized"}', "cost"),
        ("latency", {}, '{"routing_strategy": "local-first"}', "local-first"),
    ],
)
def test_the_nodes_strategy(
    tmp_path: Path, flag: str | None, env: dict[str, str], file: str, expected: str | None
) -> None:
    """The file's own, a flag, CASCADE_ROUTING_ENABLED, DEFAULT_ROUTING_STRATEGY, in this order; .env counts as well."""
    assert load(tmp_path, file, env=env, routing_strategy=flag).strategy == expected
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in env.items()))
    assert load(tmp_path, file, routing_strategy=flag).strategy in (expected, flag and "hybrid")


def test_a_strategy_that_is_none(tmp_path: Path) -> None:
    """An unknown strategy is refused wherever it is said."""
    with pytest.raises(ConfigurationError, match=r"routing strategy: .*'fastest'"):
        load(tmp_path, routing_strategy="fastest")
    (line,) = problems(tmp_path, '{"router_settings": {"routing_strategy": "leastbusy"}}')
    assert line.startswith("1.json:1: router_settings.routing_strategy: ") and "least-busy" in line


def test_a_groups_strategy_is_not_the_nodes(tmp_path: Path) -> None:
    """`routing_strategy` of a router orders the deployments inside a group; the node's own is another setting."""
    deployment = "model_list: [{model_name: a, litellm_params: {model: openai/a}}]\n"
    config = load(tmp_path, deployment + "router_settings: {routing_strategy: least-busy}\n")
    assert (config.strategy, config.deployments[0].strategy) == (None, "least-busy")
    aliases = "router_settings: {routing_strategy: least-busy, model_group_alias: {x: [a, b]}}\n"
    assert load(tmp_path, deployment + aliases).strategy == "least-busy"


def test_ids_are_stable(tmp_path: Path) -> None:
    """Ids survive what stands around, a new key, and equal entries; no id is there twice."""
    entry = "  - {model_name: a, litellm_params: {model: openai/a, api_key: KEY}}\n"
    first = load(tmp_path, "model_list:\n" + entry.replace("KEY", "one") + entry.replace("KEY", "two")).deployments
    other = "  - {model_name: b, litellm_params: {model: openai/b, rpm: 3}}\n"
    second = load(tmp_path, "model_list:\n" + other + entry.replace("KEY", "three")).deployments
    assert first[0].id == second[1].id
    assert len({d.id for d in first}) == 2


def test_reload(tmp_path: Path) -> None:
    """A reload is another call: what the files say now, or an error that leaves the old configuration to the caller."""
    path = tmp_path / "c.json"
    path.write_text('{"default_model": "a"}')
    old = load(tmp_path, path)
    path.write_text('{"default_model": ')
    assert problems(tmp_path, path) == ["c.json:1: not JSON: a value is expected here"]
    path.write_text('{"default_model": "b"}')
    assert (old.default_model, load(tmp_path, path).default_model) == ("a", "b")


def test_all_files_are_checked(tmp_path: Path) -> None:
    """Files that cannot be read do not hide mistakes in the others."""
    assert problems(tmp_path, tmp_path / "none.json", "a: [", '{"model_lst": []}', "3") == [
        "none.json: no such file",
        "2.yaml:1: not YAML: expected the node content, but found '<stream end>'",
        "3.json:1: unknown key model_lst (did you mean model_list?)",
        "4.yaml:1: wants LiteLLM's or exo's configuration (model_list, model_deployments, ...), a record with "
        "system_name, or a list of records",
    ]


@pytest.mark.parametrize("path", sorted(DOCUMENTS.glob("*.[jy]*")), ids=lambda path: path.name)
def test_each_example_is_valid(tmp_path: Path, path: Path) -> None:
    """Every file in configs/documents is read without a complaint, with no variable set."""
    load(tmp_path, path)


def test_timers_have_a_field_each() -> None:
    """Each name of a time or a retry is a field of the configuration or of a deployment."""
    fields = {*RoutingConfig.__dataclass_fields__, "stream_timeout_s"}
    assert set(TIMERS.values()) <= fields


def test_wrong_variables_hide_nothing(tmp_path: Path) -> None:
    """A wrong strategy or Redis port in the environment, or a missing --env-file, is reported beside the rest."""
    env = {"DEFAULT_ROUTING_STRATEGY": "fastest", "REDIS_HOST": "r", "REDIS_PORT": "x"}
    found = problems(
        tmp_path, '{"no_such_key": 1}', env=env, routing_strategy="fastest", env_file=tmp_path / "none.env"
    )
    assert [line.partition(": ")[0] for line in found] == [
        "--env-file none.env", "routing strategy", "environment", "1.json:1",
    ]  # fmt: skip
