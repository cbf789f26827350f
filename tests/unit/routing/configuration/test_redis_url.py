"""A Redis server's address as one text, and the other ways to name one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exo_node.routing.configuration.redis_url import parse_redis_url
from exo_node.routing.deployment import RedisConfig
from tests.unit.routing.config_files import load, problems


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("redis://h", {"tls": False, "host": "h"}),
        ("rediss://u:p%40w@h:6380/2",
         {"tls": True, "host": "h", "port": 6380, "username": "u", "password": "p@w", "db": 2}),
        ("redis://:pw@[::1]:1/", {"tls": False, "host": "::1", "port": 1, "password": "pw"}),
        ("rediss://h?ssl_ca_certs=/ca.pem", {"tls": True, "host": "h", "ca_file": "/ca.pem"}),
    ],
)  # fmt: skip
def test_addresses(url: str, fields: dict[str, Any]) -> None:
    """Host, port, user, password, database and TLS; what the address leaves open is left open."""
    assert parse_redis_url(url) == fields


@pytest.mark.parametrize(
    "url",
    ["h:6379", "http://:planted@h", "redis://:planted@", "redis://:planted@h:x", "redis://:planted@h/zero", 5,
     "rediss://:planted@h?ssl_cert_reqs=none", "redis://:planted@h:0"],
)  # fmt: skip
def test_no_addresses(url: Any) -> None:
    """Anything else is refused, without what may be a password."""
    with pytest.raises(ValueError, match=r"^wants redis://") as caught:
        parse_redis_url(url)
    assert "planted" not in str(caught.value)


def test_in_files_and_variables(tmp_path: Path) -> None:
    """redis_url and redis_ssl in a file, url in `redis`, REDIS_URL; a file's server wins over the environment's."""
    env = {"REDIS_URL": "rediss://:pw@env:1/3"}
    at_env = RedisConfig("env", 1, "pw", 3, tls=True)
    assert load(tmp_path, env=env).redis == at_env
    assert load(tmp_path, "redis: {port: 2}", env=env).redis == RedisConfig("env", 2, "pw", 3, tls=True)
    assert load(tmp_path, "redis: {url: 'redis://file'}", env=env).redis == RedisConfig("file")
    text = "router_settings: {redis_url: '${R}', redis_username: u, redis_ssl_ca_certs: /ca.pem}"
    expected = RedisConfig("env", 1, "pw", 3, username="u", tls=True, ca_file="/ca.pem")
    assert load(tmp_path, text, env={"R": env["REDIS_URL"]}).redis == expected
    ssl = load(tmp_path, "cache: {type: redis, host: h, ssl: true}")
    assert ssl.redis == RedisConfig("h", tls=True)
    variables = {"REDIS_HOST": "h", "REDIS_SSL": "true", "REDIS_SSL_CA_CERTS": "/ca.pem", "REDIS_USERNAME": "u"}
    assert load(tmp_path, env=variables).redis == RedisConfig("h", username="u", tls=True, ca_file="/ca.pem")
    assert "pw" not in repr(at_env)


def test_mistakes_are_reported_without_the_password(tmp_path: Path) -> None:
    """A wrong address, TLS that is denied, certificates without TLS."""
    assert problems(tmp_path, "redis: {url: 'http://:planted@h'}") == [
        "1.yaml:1: redis.url: wants redis://[USER:PASSWORD@]HOST[:PORT][/DB], or rediss:// for TLS"
    ]
    assert problems(tmp_path, "router_settings: {redis_url: 'rediss://h', redis_ssl: false}") == [
        "1.yaml:1: router_settings.redis_ssl: is false, and redis_url says rediss://, which is TLS"
    ]
    assert problems(tmp_path, env={"REDIS_URL": "http://:planted@h"}) == [
        "environment: REDIS_URL: wants redis://[USER:PASSWORD@]HOST[:PORT][/DB], or rediss:// for TLS"
    ]
    assert problems(tmp_path, env={"REDIS_HOST": "h", "REDIS_SSL_CA_CERTS": "/ca"}) == [
        "environment: Redis: ssl_ca_certs means nothing without ssl (redis_ssl: true, REDIS_SSL, or rediss://)"
    ]
