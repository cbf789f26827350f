"""LiteLLM's own callbacks: hands them finished calls as LiteLLM's client would have, whoever served those.

An event is `callback_events.summary` of the call with `request` (the body) and `text` (the answer).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from exo_node.routing.callbacks.names import CALLBACK_PARAMS, POSTED_CALLBACKS

CALL_TYPES = {
    "chat": "acompletion",
    "completion": "atext_completion",
    "embedding": "aembedding",
    "rerank": "arerank",
    "image": "aimage_generation",
    "speech": "aspeech",
    "transcription": "atranscription",
    "moderation": "amoderation",
}
FLUSH_S = 10.0  # seconds for a logger that keeps batches to send them


class CallbackFailed(Exception):
    """LiteLLM cannot make that logger (a key that is missing, usually), or it failed; the text says why."""


class Loggers:
    """One logger of each name, made when it is first told something."""

    def __init__(self, litellm: Any) -> None:
        self._litellm = litellm
        self._params: Mapping[str, Any] = {}
        self._made: dict[str, Any] = {}
        self._one = asyncio.Lock()  # at a time: LiteLLM's log does not say whose error it is

    def forget(self) -> None:
        """The variables have changed, and loggers read theirs when they are made."""
        from litellm.litellm_core_utils import litellm_logging, logging_callback_manager

        self._made.clear()
        litellm_logging._in_memory_loggers.clear()
        logging_callback_manager._generic_api_logger_cache.clear()

    async def tell(self, name: str, event: Mapping[str, Any], params: Mapping[str, Any]) -> None:
        """Tell `name` of one call, and see it off. Raises `CallbackFailed`, which LiteLLM itself only logs.

        `params`: settings of LiteLLM's for loggers that read no variables (`callback_names.CALLBACK_PARAMS`).
        """
        async with self._one:
            await self._tell_one(name, event, params)

    async def _tell_one(self, name: str, event: Mapping[str, Any], params: Mapping[str, Any]) -> None:
        if params != self._params:
            self.forget()
            self._params = params
            for key in CALLBACK_PARAMS:
                setattr(self._litellm, key, params.get(key))
        heard = _Heard()
        log = logging.getLogger("LiteLLM")
        log.addHandler(heard)
        try:
            logger = self._made.get(name)
            if logger is None:
                logger = self._made[name] = self._make(name, heard)
            await self._tell(logger, event)
        finally:
            log.removeHandler(heard)
        if heard.said:
            raise CallbackFailed(heard.said)

    async def _tell(self, logger: Any, event: Mapping[str, Any]) -> None:
        failed = bool(event.get("error"))
        started = datetime.fromtimestamp(event["started"])
        ended = datetime.fromtimestamp(event["started"] + event["total_s"])
        answer = None if failed else self._answer(event)
        arguments: tuple[Any, ...] = (self._arguments(event, answer, started, ended), answer, started, ended)
        which = "log_failure_event" if failed else "log_success_event"
        if self._does(logger, f"async_{which}"):
            await getattr(logger, f"async_{which}")(*arguments)
        else:
            await asyncio.to_thread(getattr(logger, which), *arguments)
        flush = getattr(logger, "flush_queue", None)
        if flush is not None:  # batches wait for 5 s and more: an end of the node would lose them
            async with asyncio.timeout(FLUSH_S):
                await flush()

    def _make(self, name: str, heard: _Heard) -> Any:
        from litellm.litellm_core_utils.litellm_logging import _init_custom_logger_compatible_class

        made: Any = None
        if name in POSTED_CALLBACKS:
            made = self._litellm.logging_callback_manager.add_custom_callback_generic_api_str(name)
        else:
            made = _init_custom_logger_compatible_class(name, None, None)
        if made is None or isinstance(made, str):
            raise CallbackFailed(f"LiteLLM cannot make its callback {name!r}: {heard.said or 'it does not say why'}")
        return made

    def _does(self, logger: Any, method: str) -> bool:
        """Whether the logger has that method of its own."""
        from litellm.integrations.custom_logger import CustomLogger

        return getattr(type(logger), method) is not getattr(CustomLogger, method)

    def _answer(self, event: Mapping[str, Any]) -> Any:
        usage = self._litellm.Usage(**event["usage"])
        if event["kind"] == "embedding":
            return self._litellm.EmbeddingResponse(model=event["model"], usage=usage, data=[])
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": event["text"]}}
        return self._litellm.ModelResponse(
            id=event["id"], created=int(event["started"]), model=event["model"], choices=[choice], usage=usage
        )

    def _arguments(self, event: Mapping[str, Any], answer: Any, started: datetime, ended: datetime) -> dict[str, Any]:
        """What LiteLLM calls `kwargs`, with its standard payload, which most loggers send."""
        from litellm.litellm_core_utils.litellm_logging import Logging, get_standard_logging_object_payload

        request = event["request"]
        messages = request.get("messages") or request.get("prompt") or request.get("input") or request.get("query")
        call_type = CALL_TYPES.get(event["kind"], event["kind"])
        first = started if event["ttft_s"] is None else datetime.fromtimestamp(event["started"] + event["ttft_s"])
        kept = ("id", "requested_model", "backend", "continued", "key_id", "attempts")
        metadata = {f"exo_{name}": event[name] for name in kept} | {"user_api_key_end_user_id": event["user"] or None}
        error = RuntimeError(event["error"]) if event.get("error") else None
        arguments: dict[str, Any] = {
            "model": event["model"],
            "messages": messages,
            "input": messages,
            "stream": event["stream"],
            "user": event["user"],
            "optional_params": {k: v for k, v in request.items() if k not in ("model", "messages", "prompt", "input")},
            "litellm_params": {"metadata": metadata, "api_base": "", "litellm_call_id": event["id"]},
            "litellm_call_id": event["id"],
            "call_type": call_type,
            "custom_llm_provider": event["provider"],
            "start_time": started,
            "end_time": ended,
            "completion_start_time": first,
            "api_call_start_time": started,
            "response_cost": event["cost"],
            "cache_hit": event["cached"],
            "additional_args": {},
            "original_response": event["text"],
            "log_event_type": "failed_api_call" if error else "successful_api_call",
            "exception": error,
            "traceback_exception": "",
            # What the user asked to be logged; the engine's own switch is for LiteLLM's log.
            "standard_callback_dynamic_params": {"turn_off_message_logging": False},
        }
        about = Logging(
            model=event["model"], messages=messages, stream=event["stream"], call_type=call_type, start_time=started,
            litellm_call_id=event["id"], function_id="",
        )  # fmt: skip
        arguments["standard_logging_object"] = get_standard_logging_object_payload(
            kwargs=arguments, init_response_obj=answer, start_time=started, end_time=ended, logging_obj=about,
            status="failure" if error else "success", error_str=event.get("error") or None, original_exception=error,
        )  # fmt: skip
        return arguments


class _Heard(logging.Handler):
    """The last error that LiteLLM logged: it does not raise what goes wrong with a callback."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.said = " ".join(str(record.exc_info[1] if record.exc_info else record.getMessage()).split())[:300]
