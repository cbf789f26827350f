"""What is told of a call: the `x-exo-*` headers, the `exo` object in a stream's last event, and the one record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from exo_node.errors import ExoError
from exo_node.routing.adapter.attempts import Attempts, Tried, is_priced
from exo_node.routing.call import Call, CallRecord, CallSink
from exo_node.routing.frames import HEADER_LIMIT, header_value
from exo_node.routing.plan import Candidate
from exo_node.routing.upstream.transcript import said_in
from exo_node.types import Usage

MAX_WHY = 160  # characters of the reason why a backend of the asked name was not asked
MAX_TEXT = 1_000_000  # characters of the answer that a record keeps


class Report:
    """`tell` may be called often; the first time counts."""

    def __init__(
        self, call: Call, attempts: Attempts, sinks: Sequence[CallSink], clock: Callable[[], float], began: float
    ) -> None:
        self._call, self._attempts, self._sinks, self._clock = call, attempts, sinks, clock
        self._began, self._wall = began, time.time()
        self.strategy = ""
        self.reason = ""
        self.passed_over: Sequence[Candidate] = ()  # of the asked name, but nothing could be sent to them
        self.ttft_s: float | None = None
        self.continued = False
        self._told = False

    def first_content(self) -> None:
        if self.ttft_s is None:
            self.ttft_s = self._clock() - self._began

    def headers(self, tried: Tried | None) -> dict[str, str]:
        """`tried` None: nothing answered."""
        found = {"x-exo-strategy": self.strategy} if self.strategy else {}
        attempts = self._attempts
        cost, known, estimated = attempts.cost, attempts.cost_known and bool(attempts.records), attempts.cost_estimated
        if attempts.records:
            found["x-exo-attempts"] = attempts.header(tried)
        if tried is not None:
            step, candidate = tried.step, tried.candidate
            ttft_s = self.ttft_s if self.ttft_s is not None else self._clock() - self._began
            if not tried.ended:
                known = known and is_priced(candidate)
                cost, estimated = cost + (step.cost or 0.0), True
            found |= {
                "x-exo-backend": candidate.backend,
                "x-exo-model": candidate.model,
                "x-exo-provider": candidate.provider,
                "x-exo-reason": (step.reason or self.reason) + self._why_not_asked(candidate),
                "x-exo-predicted-ttft-ms": f"{step.ttft_s * 1000:.1f}",
                "x-exo-ttft-ms": f"{ttft_s * 1000:.1f}",
                "x-exo-cached": "false",
            }
        if known:  # a price that nobody knows is not 0
            found["x-exo-cost"] = f"{cost:.9f}".rstrip("0").rstrip(".")
            if estimated and cost:
                found["x-exo-cost-estimated"] = "true"
        said = "".join(found.values())
        if len(said) <= HEADER_LIMIT and said.isascii() and said.isprintable():
            return found  # as nearly always
        return {name: header_value(value) for name, value in found.items()}

    def _why_not_asked(self, served: Candidate) -> str:
        """The provider that the request names, and why another one answers: who misses a key should hear of it."""
        prefix = self._call.model.partition("/")[0].lower()
        named = [
            f"{one.provider}/{one.model}: {one.rejected}"
            for one in self.passed_over
            if one.provider != served.provider and (served.tier or served.equivalent or one.provider == prefix)
        ]
        return "".join(f"; {why[:MAX_WHY]}" for why in named[:2])

    def exo(self, tried: Tried, usage: Usage, estimated: bool) -> dict[str, Any]:
        """`usage` is the running attempt's, which has not ended yet."""
        attempts, price = self._attempts, tried.candidate.price
        cost, known, guessed = attempts.cost, attempts.cost_known, attempts.cost_estimated
        if not tried.ended:
            known = known and is_priced(tried.candidate)
            if price is not None:
                cost += price.cost(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
        served = [one.backend for one in attempts.records if one.ttft_s is not None or one is tried.record]
        found: dict[str, Any] = {"backends": served, "continued": self.continued}
        found["cost"] = round(cost, 9) if known else None
        if estimated:
            found["usage_estimated"] = True
        if guessed or (estimated and cost):
            found["cost_estimated"] = True
        return found

    def answered(self, tried: Tried | None, usage: Usage | None, estimated: bool, text: str) -> None:
        self._tell(tried, usage=usage, estimated=estimated, text=text)

    def gone(self, tried: Tried | None, text: str) -> None:
        """The client left before the end."""
        used, estimated = self._attempts.used
        self._tell(tried, usage=used, estimated=estimated, status=499, error="the client went away", code="cancelled",
                   text=text)  # fmt: skip

    def failed(self, error: BaseException, text: str) -> None:
        """No (complete) answer. An `ExoError` gets the headers that its reply should carry (failure.headers_of)."""
        status, message, code = 500, "internal error", "internal_error"
        if isinstance(error, ExoError):
            error.__dict__["exo_headers"] = self.headers(None)
            status, message, code = error.status, error.message, error.code or ""
        used, estimated = self._attempts.used
        self._tell(None, usage=used, estimated=estimated, status=status, error=message, code=code, text=text)

    def _tell(
        self,
        tried: Tried | None,
        *,
        usage: Usage | None = None,
        estimated: bool = False,
        status: int = 200,
        error: str = "",
        code: str = "",
        text: str = "",
    ) -> None:
        if self._told:
            return
        self._told = True
        candidate = tried.candidate if tried is not None else None
        record = CallRecord(
            id=self._call.id,
            kind=self._call.kind,
            model=self._call.model,
            served_model=candidate.model if candidate else "",
            backend=candidate.backend if candidate else "",
            provider=candidate.provider if candidate else "",
            stream=self._call.stream,
            caller=self._call.caller,
            started=self._wall,
            ttft_s=self.ttft_s,
            total_s=self._clock() - self._began,
            usage=usage or Usage(0, 0),
            usage_estimated=estimated,
            cost=self._attempts.cost,
            cost_known=self._attempts.cost_known,
            continued=self.continued,
            status=status,
            error=error,
            error_code=code,
            attempts=self._attempts.records,
            body=self._call.body,
            text=text[:MAX_TEXT],
        )
        for sink in self._sinks:
            sink(record)


def text_of(data: Mapping[str, Any] | None) -> str:
    """The text of a whole answer's first choice, "" where it has none."""
    choices = data.get("choices") if data else None
    return said_in(choices[0]) if isinstance(choices, list) and choices else ""
