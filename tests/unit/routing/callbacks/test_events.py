"""The shapes in which services hear of calls."""

from __future__ import annotations

from exo_node.routing.call import AttemptRecord, Caller, CallRecord
from exo_node.routing.callbacks.events import helicone_log, langfuse_batch, response_view, summary
from exo_node.types import Usage


def record(**changes: object) -> CallRecord:
    """A finished call: the second backend answered."""
    fields: dict[str, object] = {
        "id": "chatcmpl-1",
        "kind": "chat",
        "model": "gpt-4",
        "served_model": "gpt-4o",
        "backend": "openai/gpt-4o",
        "provider": "openai",
        "stream": True,
        "caller": Caller("key1", "anna"),
        "started": 1_700_000_000.25,
        "ttft_s": 0.5,
        "total_s": 2.0,
        "usage": Usage(7, 3),
        "cost": 0.001,
        "attempts": [AttemptRecord(backend="azure/x", cause="rate_limited", status=429)],
        "body": {"messages": [{"role": "user", "content": "hi"}], "temperature": 0.5, "model": "gpt-4"},
        "text": "hello",
    }
    return CallRecord(**{**fields, **changes})  # type: ignore[arg-type]


def test_langfuse_gets_one_generation() -> None:
    """One event a call, with model, input, output, usage, cost and the three times."""
    (event,) = langfuse_batch(record())["batch"]
    body = event["body"]
    assert event["type"] == "generation-create"
    assert (body["model"], body["input"], body["output"]) == ("gpt-4o", [{"role": "user", "content": "hi"}], "hello")
    assert body["usage"] == {"input": 7, "output": 3, "total": 10, "unit": "TOKENS", "totalCost": 0.001}
    assert (body["startTime"], body["completionStartTime"], body["endTime"]) == (
        "2023-11-14T22:13:20.250Z",
        "2023-11-14T22:13:20.750Z",
        "2023-11-14T22:13:22.250Z",
    )
    assert body["modelParameters"] == {"temperature": 0.5}
    assert body["metadata"]["attempts"][0]["cause"] == "rate_limited"


def test_a_failure_is_marked_for_langfuse() -> None:
    """A call that failed has the level ERROR and the message that the client got."""
    (event,) = langfuse_batch(record(error="no backend answered", text=""))["batch"]
    assert (event["body"]["level"], event["body"]["statusMessage"]) == ("ERROR", "no backend answered")


def test_helicone_gets_request_response_and_timing() -> None:
    """One log with OpenAI-shaped response, seconds and milliseconds, and who asked."""
    told = helicone_log(record())
    assert told["providerResponse"]["json"]["choices"][0]["message"]["content"] == "hello"
    assert told["timing"]["startTime"] == {"seconds": 1_700_000_000, "milliseconds": 250}
    assert told["timing"]["timeToFirstToken"] == 500
    assert told["providerRequest"]["meta"]["Helicone-User-Id"] == "anna"
    failed = helicone_log(record(error="broken", error_code="upstream_server", status=502))
    assert failed["providerResponse"] == {
        "json": {"error": {"message": "broken", "code": "upstream_server"}},
        "status": 502,
        "headers": {},
    }


def test_own_functions_read_attributes() -> None:
    """`response.model` and `response.usage` work as document 002 prints them."""
    view = response_view(record())
    assert (view.model, view.usage.total_tokens, view.choices[0].message.content) == ("gpt-4o", 10, "hello")
    assert summary(record())["key_id"] == "key1"


def test_an_unknown_cost_is_not_zero() -> None:
    """Where no price is known, services are told no cost."""
    one = record(cost=0.0, cost_known=False, attempts=[AttemptRecord(backend="b", cost_known=False)])
    told = summary(one)
    assert (told["cost"], told["attempts"][0]["cost"]) == (None, None)
    assert langfuse_batch(one)["batch"][0]["body"]["usage"]["totalCost"] is None
