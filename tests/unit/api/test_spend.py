"""The spend log over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime

import aiohttp
import pytest

from exo_node.api.ports import Principal
from exo_node.api.spend import parse_query
from exo_node.errors import InvalidRequest
from exo_node.store_spend import SpendQuery
from tests.unit.api.scripted import END, ScriptedBackend, serve_api
from tests.unit.api.scripted_routing import ScriptedRouting

NOW = 2e9


def seconds(*date: int) -> float:
    return datetime(*date, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("2026-11-21", seconds(2026, 11, 21), seconds(2026, 11, 22)),
        ("20261121", seconds(2026, 11, 21), seconds(2026, 11, 22)),
        ("2026-11-21T10:30", seconds(2026, 11, 21, 10, 30), seconds(2026, 11, 21, 10, 30)),
        ("2026-11-21T10:30:00+02:00", seconds(2026, 11, 21, 8, 30), seconds(2026, 11, 21, 8, 30)),
        ("1795219200.5", 1795219200.5, 1795219200.5),
        ("7d", NOW - 7 * 86400, NOW - 7 * 86400),
        ("90m", NOW - 5400, NOW - 5400),
        ("999999w", 0.0, 0.0),
    ],
)
def test_times(text: str, since: float, until: float) -> None:
    """Dates are UTC's, and as an end they hold all of their day."""
    assert parse_query({"since": text}, NOW)[0].since == since
    if until:
        assert parse_query({"until": text}, NOW)[0].until == until


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"since": "yesterday"}, "since"),
        ({"since": "-7d"}, "since"),
        ({"until": "9999-12-31"}, "until"),
        ({"until": "2026-13-01"}, "until"),
        ({"since": "2026-11-21", "until": "2026-11-20"}, "until"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1e3"}, "limit"),
        ({"limit": "10001"}, "limit"),
        ({"group_by": "planet"}, "group_by"),
        ({"groupby": "day"}, "groupby"),
    ],
)
def test_refused(query: dict[str, str], param: str) -> None:
    """Each is a 400 that names the field."""
    with pytest.raises(InvalidRequest) as caught:
        parse_query(query, NOW)
    assert (caught.value.status, caught.value.param) == (400, param)


async def test_the_admin_reads_it() -> None:
    """The question reaches the log, under all paths, from admins and readers; other keys get a 403."""
    routing = ScriptedRouting()
    routing.keys = {"boss": Principal("admin", admin=True), "user": Principal("key-1")}
    routing.keys["reader"] = Principal("key-2", scopes=frozenset({"read"}))
    routing.spent = [{"day": "2026-11-21", "requests": 3}]
    async with serve_api(ScriptedBackend([END]), routing=routing) as url, aiohttp.ClientSession(url) as http:
        for path in ("/v1/spend", "/spend", "/api/v1/litellm/spend"):
            asked = f"{path}?group_by=day&since=2026-11-01&key=ci&model=m&limit=7"
            async with http.get(asked, headers={"x-api-key": "boss"}) as answer:
                told = await answer.json()
                assert (answer.status, told["data"], told["total"]["requests"]) == (200, routing.spent, 1)
                assert (told["since"], told["until"], told["group_by"]) == ("2026-11-01T00:00:00+00:00", None, "day")
            async with http.get(asked, headers={"x-api-key": "reader"}) as answer:
                assert answer.status == 200
            async with http.get(asked, headers={"x-api-key": "user"}) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (403, "missing_scope")
    asked_for = (SpendQuery(since=seconds(2026, 11, 1), key_id="ci", model="m", limit=7), "day")
    assert routing.asked == [asked_for] * 6
