"""LiteLLM, imported under our terms. The only place that imports it as a whole.

Facts that the settings answer (LITELLM.md 2): at import it fetches its price map; on the first Anthropic call it
fetches a table of beta headers; counting tokens of a Llama downloads a tokenizer while the event loop waits 48 s; it
reads `.env`; it prints advertisements to standard output on errors.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from exo_node.routing.sidecar.protocol import provider_environment
from exo_node.routing.sidecar.sending import note_requests

# Read by LiteLLM while it is imported or at its first use of the thing.
LOCAL_ONLY = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_MODE": "PRODUCTION",  # reads no .env
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}

_LINE_END = re.compile("\r\n|\r|\n")


def apply_environment(environment: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """Make the providers' variables of this process those of `environment`; returns what was set (the next `before`).

    `os.environ` of a running process is not what `/proc/PID/environ` shows: that is the block it was started with.
    """
    wanted = provider_environment(environment)
    for name in before.keys() - wanted.keys():
        os.environ.pop(name, None)
    os.environ.update(wanted)
    os.environ.update(LOCAL_ONLY)
    return wanted


def load() -> Any:
    """Import LiteLLM (3 s of CPU) and set it up. Call after `apply_environment`."""
    os.environ.update(LOCAL_ONLY)
    import litellm

    litellm.suppress_debug_info = True  # no advertisements on standard output
    litellm.disable_hf_tokenizer_download = True
    litellm.drop_params = False  # a parameter that a provider does not know is an error that names it
    litellm.modify_params = False
    litellm.num_retries = 0  # the adapter is the one owner of retries
    litellm.disable_streaming_logging = True
    litellm.turn_off_message_logging = True  # no text of anyone's in its log
    # A continuation answers only what is new; LiteLLM would put the prefix in front of Anthropic's whole answers.
    litellm.disable_add_prefix_to_prompt = True
    litellm.callbacks = []
    logging.getLogger("LiteLLM").setLevel(logging.ERROR)
    _send_once()
    _log_nothing()
    _remember_finish()
    note_requests()
    _remember_source()
    _split_at_line_ends()
    _lose_no_event()
    return litellm


async def warm(litellm: Any) -> None:
    """Load what LiteLLM loads at a first streamed call, which would hold the event loop for 0.4 s. Asks nobody."""
    stream = await litellm.acompletion(
        model="openai/warm-up",
        messages=[{"role": "user", "content": "Hi"}],
        mock_response="Hello there",
        stream=True,
        stream_options={"include_usage": True},
    )
    async for _ in stream:
        pass


def _send_once() -> None:
    """LiteLLM's HTTP client sends a request again when its connection broke, also after the provider had read it.

    That would bill twice in silence, and the adapter is the one owner of retries. Its second try is one method.
    """
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

    async def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        error = sys.exc_info()[1]  # called while the first try's error is handled
        raise error if error is not None else ConnectionError("no second try")

    AsyncHTTPHandler.single_connection_post_request = refuse

    # OpenAI's client tries twice more unless it is told otherwise, and for several kinds of calls LiteLLM does not.
    from openai._models import FinalRequestOptions

    FinalRequestOptions.get_max_retries = lambda self, max_retries: 0  # type: ignore[method-assign]


def _remember_finish() -> None:
    """LiteLLM's reader of Gemini's chunks says "stop" with each of them; note which one really finished (relay.py)."""
    from litellm.llms.vertex_ai.gemini.vertex_and_google_ai_studio_gemini import ModelResponseIterator

    parse = ModelResponseIterator.chunk_parser

    def chunk_parser(self: Any, chunk: Any) -> Any:
        if any(candidate.get("finishReason") for candidate in chunk.get("candidates") or ()):
            self.exo_finished = True
        elif not hasattr(self, "exo_finished"):
            self.exo_finished = False
        return parse(self, chunk)

    ModelResponseIterator.chunk_parser = chunk_parser


def _remember_source() -> None:
    """A streamed completion is a chat's stream behind a generator: keep the way to it, for it alone knows whether the
    provider finished (relay.py)."""
    from litellm import main

    lines_of = main._async_streaming

    class Lines:
        def __init__(self, response: Any, **told: Any) -> None:
            self.exo_source = response
            self._lines = lines_of(response=response, **told)

        def __aiter__(self) -> Any:
            return self._lines

    main._async_streaming = Lines


def _split_at_line_ends() -> None:
    """httpx also ends lines at U+0085, U+2028 and U+2029, which JSON may hold as they are: an event with one of them
    would be cut in two, and LiteLLM would lose it and all that follows. Lines of streams end with CR, LF or both."""
    from httpx import _models

    class LineDecoder:
        def __init__(self) -> None:
            self._parts: list[str] = []  # of the line that has not ended
            self._cr = ""  # the last character, where its LF may be on its way

        def decode(self, text: str) -> list[str]:
            text = self._cr + text
            self._cr = "\r" if text.endswith("\r") else ""
            first, *others = _LINE_END.split(text.removesuffix("\r"))
            self._parts.append(first)
            if not others:
                return []
            lines = ["".join(self._parts), *others[:-1]]
            self._parts = others[-1:]
            return lines

        def flush(self) -> list[str]:
            rest = "".join(self._parts)
            return [rest] if rest or self._cr else []

    _models.LineDecoder = LineDecoder  # type: ignore[attr-defined, assignment]


def _lose_no_event() -> None:
    """LiteLLM's reader of OpenAI-like streams takes each line with "[DONE]" anywhere in it for the end, text of an
    answer too, which is lost then; it calls that end "stop" whether the provider has said so or not, and passes over
    events that are no JSON. The end is the line that says nothing else, a finish_reason is the provider's to tell, and
    an event that cannot be read breaks the stream.
    """
    from litellm.llms.base_llm.base_model_iterator import BaseModelResponseIterator

    def read(self: Any, str_line: str) -> Any:
        said = str_line.strip()
        payload = said.removeprefix("data:").strip()
        event = BaseModelResponseIterator._string_to_dict_parser(str_line=said)
        if event:
            return self.chunk_parser(chunk=event)
        if payload and payload != "[DONE]" and said.startswith("data:"):
            raise ValueError("an event of the stream is no JSON object")
        return BaseModelResponseIterator.chunk_parser(self, {})  # which says nothing

    BaseModelResponseIterator._handle_string_chunk = read


def _log_nothing() -> None:
    """LiteLLM computes costs and a log record of each call for callbacks, of which there are none here (ours are told
    by the adapter): a tenth of a stream's CPU time, a third of a plain call's.
    """
    from litellm.litellm_core_utils.litellm_logging import Logging

    async def later(self: Any, *args: Any, **kwargs: Any) -> None:
        return None

    def now(self: Any, *args: Any, **kwargs: Any) -> None:
        return None

    Logging.dispatch_success_handlers = later
    Logging.async_success_handler = later
    Logging.success_handler = now
    Logging.response_cost_calculator = now
    Logging._response_cost_calculator = now
