"""OpenAI's chat and completion requests -> `GenerationRequest`s, one per choice. Pure.

Field meanings: https://platform.openai.com/docs/api-reference ; `top_k`, `min_p` and `repetition_penalty` are the
extensions that vLLM, llama.cpp and mlx_lm share. Every limit is OpenAI's unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from exo_node.api.fields import (
    MAX_TOKEN_ID,
    Fields,
    answer_limit,
    bad,
    checked_text,
    kind,
    stream_options,
    token_ids,
)
from exo_node.api.messages import parse_messages
from exo_node.api.semantics import OF_CHATS, OF_COMPLETIONS, refuse_misplaced, refuse_unsupported
from exo_node.api.structured import grammar_of
from exo_node.api.tools import parse_tool_use
from exo_node.config import Settings
from exo_node.models.chat_format import EFFORTS
from exo_node.types import GenerationRequest, SamplingParams

MAX_CHOICES = 16  # n
MAX_BEST_OF = 20  # OpenAI's
MAX_SEQUENCES = 256  # prompts x n in one request: a bound on memory, not OpenAI's
MAX_STOPS = 64  # OpenAI allows 4; clients of Anthropic and Ollama send more
COMPLETION_TOKENS = 16  # OpenAI's default of /v1/completions, and vLLM's
INT64 = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """What a client asked for. `requests[i]` makes the choice of index i; `n` consecutive ones share a prompt.

    `top_logprobs` None: no logprobs in the answer. `best` (best_of): only so many of the `n` are shown, the likeliest.
    """

    kind: Literal["chat", "completion"]
    id: str
    model: str
    requests: tuple[GenerationRequest, ...]
    n: int
    stream: bool
    include_usage: bool
    top_logprobs: int | None
    best: int | None = None
    functions: bool = False  # the older form of tools: its answers have it too
    service_tier: str | None = None  # that the answer had, where one was asked for


def parse_chat(body: Mapping[str, Any], request_id: str, settings: Settings) -> ParsedRequest:
    """Raises `InvalidRequest` with the field's name."""
    fields = Fields(body)
    refuse_unsupported(body)
    refuse_misplaced(body, OF_COMPLETIONS, "/v1/completions")
    if body.get("messages") is None:
        raise bad("messages", "is required", code="missing_required_parameter")
    messages = parse_messages(body["messages"])
    wanted, top = fields.boolean("logprobs") or False, fields.integer("top_logprobs", 0, 20)
    if top is not None and not wanted:
        raise bad("top_logprobs", "needs logprobs: true")
    limit = answer_limit(fields)
    use, options = parse_tool_use(body), _template_options(fields)
    parsed = _parsed(
        "chat", fields, request_id, settings, [messages], top_logprobs=(top or 0) if wanted else None, limit=limit
    )
    if use is not None and use.choice != "none" and fields.boolean("ignore_eos"):
        raise bad("ignore_eos", "cannot go with tools, whose calls end an answer")
    requests = tuple(replace(one, tool_use=use, template_options=options) for one in parsed.requests)
    return replace(parsed, requests=requests, functions=bool(body.get("functions")))


def _template_options(fields: Fields) -> dict[str, Any]:
    """What the chat template is to be told: it depends on the model whether it can be."""
    options = fields.object("chat_template_kwargs")
    thinking, effort = fields.boolean("enable_thinking"), fields.text("reasoning_effort")
    if effort is not None and effort not in EFFORTS:
        raise bad("reasoning_effort", f"must be one of {', '.join(EFFORTS)}; got {effort[:40]!r}")
    asked = {"enable_thinking": thinking, "reasoning_effort": effort}
    return {**options, **{name: value for name, value in asked.items() if value is not None}}


def parse_completion(body: Mapping[str, Any], request_id: str, settings: Settings) -> ParsedRequest:
    """Raises `InvalidRequest` with the field's name."""
    fields = Fields(body)
    refuse_unsupported(body)
    refuse_misplaced(body, OF_CHATS, "/v1/chat/completions")
    prompts = _prompts(body.get("prompt"))
    top = fields.integer("logprobs", 0, 5)
    echo, suffix, limit = fields.boolean("echo") or False, fields.text("suffix") or "", answer_limit(fields, 0)
    if limit == 0 and not echo:
        name = "max_completion_tokens" if body.get("max_tokens") is None else "max_tokens"
        raise bad(name, "must be at least 1, or 0 with echo: true, which asks for the prompt alone")
    if suffix and echo:
        raise bad("suffix", "cannot go with echo: the answer stands between the two", code="unsupported_parameter")
    if suffix and not all(isinstance(prompt, str) for prompt in prompts):
        raise bad("suffix", "goes with prompts that are texts, not token ids", code="unsupported_parameter")
    parsed = _parsed(
        "completion",
        fields,
        request_id,
        settings,
        prompts,
        top_logprobs=top,
        limit=COMPLETION_TOKENS if limit is None else limit,
        best_of=fields.integer("best_of", 1, MAX_BEST_OF),
    )
    scored = top if echo else None
    requests = (replace(one, echo=echo, prompt_logprobs=scored, suffix=suffix) for one in parsed.requests)
    return replace(parsed, requests=tuple(requests))


def _parsed(
    kind: Literal["chat", "completion"],
    fields: Fields,
    request_id: str,
    settings: Settings,
    prompts: list[Any],
    *,
    top_logprobs: int | None,
    limit: int | None,
    best_of: int | None = None,
) -> ParsedRequest:
    model = fields.text("model") or settings.default_model
    if not model:
        raise bad("model", "is required", code="missing_required_parameter")
    shown = fields.integer("n", 1, MAX_CHOICES) or 1
    n = best_of or shown
    stream, grammar = fields.boolean("stream") or False, grammar_of(fields.body)
    if n < shown:
        raise bad("best_of", f"must be at least n, which is {shown}")
    if n > shown and stream:
        raise bad("best_of", "above n cannot be streamed: which answer is best is known when all are there")
    # Without logprobs in the answer the best are chosen by them all the same.
    sampling, given = _sampling(fields, 0 if top_logprobs is None and n > shown else top_logprobs)
    seed, stop = fields.integer("seed", -INT64, INT64 - 1), _stop(fields)
    if n * len(prompts) > MAX_SEQUENCES:
        raise bad("prompt", f"asks for {n * len(prompts)} answers at once; at most {MAX_SEQUENCES} are made")
    endless = fields.boolean("ignore_eos") or False
    if endless and grammar is not None:
        raise bad("ignore_eos", "cannot go with a grammar, which says where the answer ends")
    requests = tuple(
        GenerationRequest(
            request_id=f"{request_id}-{index}",
            model=model,
            messages=prompts[index // n] if kind == "chat" else None,
            prompt=prompts[index // n] if kind == "completion" else None,
            sampling=sampling,
            sampling_given=given,
            # Each choice its own draw, the first one as if it were alone; unsigned, as it travels.
            seed=None if seed is None else (seed + index % n) % 2**64,
            max_tokens=None if limit is None else min(limit, settings.max_generate_tokens),
            stop=stop,
            timeout_s=settings.response_timeout,
            grammar=grammar,
            ignore_eos=endless,
        )
        for index in range(n * len(prompts))
    )
    return ParsedRequest(
        kind=kind,
        id=request_id,
        model=model,
        requests=requests,
        n=n,
        stream=stream,
        include_usage=_include_usage(fields, stream),
        top_logprobs=top_logprobs,
        best=shown if n > shown else None,
    )


def _sampling(fields: Fields, top_logprobs: int | None) -> tuple[SamplingParams, frozenset[str]]:
    """The parameters, and the names of those that the caller set. The others are neutral; the backend knows better."""
    read: dict[str, Any] = {
        "temperature": fields.number("temperature", 0, 2),
        "top_p": fields.number("top_p", 0, 1),
        "top_k": fields.integer("top_k", 0, MAX_TOKEN_ID),
        "min_p": fields.number("min_p", 0, 1),
        "frequency_penalty": fields.number("frequency_penalty", -2, 2),
        "presence_penalty": fields.number("presence_penalty", -2, 2),
        "repetition_penalty": fields.number("repetition_penalty", 0, 1e6, open_low=True),
        "logit_bias": _logit_bias(fields.get("logit_bias")),
    }
    if read["top_p"] == 0:  # OpenAI's lowest: the likeliest token alone
        read |= {"top_p": 1.0, "temperature": 0.0}
    given = {name: value for name, value in read.items() if value is not None}
    return SamplingParams(**given, top_logprobs=top_logprobs), frozenset(given)


def _logit_bias(value: Any) -> dict[int, float] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise bad("logit_bias", f"must be an object of token id: bias, not {kind(value)}", code="invalid_type")
    bias: dict[int, float] = {}
    for key, amount in value.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10 and int(key) <= MAX_TOKEN_ID):
            raise bad("logit_bias", f"keys must be token ids, got {key[:40]!r}")
        if type(amount) not in (int, float) or not -100 <= amount <= 100:
            raise bad("logit_bias", f"the bias of token {key} must be a number between -100 and 100")
        bias[int(key)] = float(amount)
    return bias


def _stop(fields: Fields) -> tuple[str, ...]:
    value = fields.get("stop")
    if value is not None and not isinstance(value, str | list):
        raise bad("stop", f"must be a string or an array of strings, not {kind(value)}", code="invalid_type")
    stops = (checked_text(value, "stop"),) if isinstance(value, str) else fields.texts("stop")
    if len(stops) > MAX_STOPS:
        raise bad("stop", f"takes at most {MAX_STOPS} strings, got {len(stops)}")
    if "" in stops:
        raise bad("stop", "must not be an empty string")
    return stops


def _include_usage(fields: Fields, stream: bool) -> bool:
    options = stream_options(fields, stream)
    if options is None:
        return False
    included = options.get("include_usage")
    if included is not None and not isinstance(included, bool):
        raise bad("stream_options.include_usage", f"must be a boolean, not {kind(included)}", code="invalid_type")
    return included or False


def _prompts(value: Any) -> list[str | tuple[int, ...]]:
    """A string, token ids, or an array of either (all of one kind) -> one prompt each."""
    if value is None:
        raise bad("prompt", "is required", code="missing_required_parameter")
    if isinstance(value, str):
        return [checked_text(value, "prompt")]
    if not isinstance(value, list):
        raise bad("prompt", f"must be a string or an array, not {kind(value)}", code="invalid_type")
    if not value:
        raise bad("prompt", "is an empty array; an empty string starts from nothing")
    if type(value[0]) is int:
        return [token_ids(value, "prompt")]
    if isinstance(value[0], str):
        return [checked_text(item, f"prompt[{i}]") for i, item in enumerate(value)]
    return [token_ids(item, f"prompt[{i}]") for i, item in enumerate(value)]
