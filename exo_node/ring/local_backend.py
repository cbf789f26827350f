"""The local ring as a `Backend`: tokenizes once, keeps the log of ids, asks the head for tokens, makes text of them.

The node that holds the client's connection owns the request (ARCHITECTURE 3.10): it fixes the seed, and it accepts a
delta only when its index is the next one.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from exo_node.errors import ContextLengthExceeded, DeadlineExceeded, InvalidRequest, RingBroken
from exo_node.models.answer_reader import AnswerReader
from exo_node.models.chat_format import Stage
from exo_node.models.tokenizer import Tokenizer
from exo_node.ring import embedding, speech
from exo_node.ring.library import LoadedTokenizer
from exo_node.ring.ports import Instances
from exo_node.ring.prompt_echo import PromptEcho, token_logprob
from exo_node.ring.resuming import RecoveryRecord, deltas
from exo_node.ring.text import TextAssembler, TextPiece
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.types import (
    EmbeddingRequest,
    Embeddings,
    GenerationRequest,
    Grammar,
    Instance,
    ModelCard,
    TokenDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

log = logging.getLogger("exo.backend")
T = TypeVar("T")
NOTHING: tuple[str, tuple[ToolCallDelta, ...]] = ("", ())  # came aside of the text

THREAD_FROM_CHARACTERS = 20_000  # some 5 ms of tokenizing: shorter texts cost less than the trip to a thread and back
COUNTED_TOKENS = 10_000_000  # room for every prompt that is only counted
COUNTED_CHARACTERS = 4_000_000  # a longer one is not counted: it would take half a minute and gigabytes
NEVER = -1e9  # a bias that no logit makes up for
SEED_BITS = 63  # seeds travel as uint64 and are shown as JSON integers


@dataclass(frozen=True, slots=True)
class BackendDefaults:
    """Node-wide settings for requests that leave something open."""

    max_generate_tokens: int
    temperature: float | None
    system_prompt: str | None


def forget(record: RecoveryRecord) -> None:
    """Nobody asks for it."""


class LocalBackend:
    """Turns a `GenerationRequest` into a stream of `TokenDelta` by way of a ring of this cluster."""

    def __init__(
        self, instances: Instances, defaults: BackendDefaults, record: Callable[[RecoveryRecord], None] = forget
    ) -> None:
        """`record` hears of every loss that a generation got over."""
        self._instances = instances
        self._defaults = defaults
        self._record = record

    async def models(self) -> list[ModelCard]:
        return self._instances.models()

    async def count_tokens(self, request: GenerationRequest) -> int:
        """See `types.Backend.count_tokens`."""
        _refuse_uncountable(request)
        instance = await self._instances.ready_instance(request.model)
        loaded = await self._instances.tokenizer(instance)
        roomy = replace(instance, context=COUNTED_TOKENS)
        prompt = await self._prompt_ids(request, loaded.tokenizer, roomy)
        return len(prompt.ids) + len(await self._prefix_ids(request, loaded.tokenizer, roomy, prompt))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """See `types.Backend.embed`."""
        return await embedding.embed(self._instances, request, self._record)

    async def encode(self, request: GenerationRequest) -> tuple[list[int], str]:
        """See `types.Backend.encode`."""
        _refuse_uncountable(request)
        instance = await self._instances.ready_instance(request.model)
        tokenizer = (await self._instances.tokenizer(instance)).tokenizer
        ids = (await self._prompt_ids(request, tokenizer, replace(instance, context=COUNTED_TOKENS))).ids
        return ids, b"".join(map(tokenizer.token_bytes, ids)).decode(errors="replace")

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenDelta, None]:
        """See `types.Backend.generate`."""
        deadline = None if request.timeout_s is None else time.monotonic() + request.timeout_s
        try:
            async with asyncio.timeout(request.timeout_s):
                instance = await self._instances.ready_instance(request.model)
                loaded = await self._instances.tokenizer(instance)
                prompt = await self._prompt_ids(request, loaded.tokenizer, instance)
                prefix = await self._prefix_ids(request, loaded.tokenizer, instance, prompt)
        except TimeoutError as error:
            raise DeadlineExceeded(f"the model was not ready within {request.timeout_s:g} s; try again") from error
        # What the caller has of the answer was generated: penalties count it, chunks of the prompt end before it.
        prefilled = _prefilled(request, loaded.tokenizer, prefix)
        own = min(prefilled, len(prefix)) if request.prompt_logprobs is None else len(prefix)
        asked = len(prompt.ids) + prefilled
        request = replace(request, grammar=speech.bound(request, loaded.tokenizer, prompt))
        echo = PromptEcho(request, loaded.tokenizer, prompt.ids)
        if request.max_tokens == 0 and request.prompt_logprobs is None:
            yield echo.ahead(TokenDelta(finish_reason="length", usage=Usage(asked, 0)))
            return
        ends = loaded.tokenizer.eos_ids | prompt.ends
        ids, said = [*prompt.ids, *prefix[:own]], prefix[own:]
        message = self._message(request, loaded, instance, ids, said, own, deadline, ends)
        stream = deltas(self._instances, instance, message, deadline, self._record)
        detokenizer = speech.detokenizer(request, loaded.tokenizer, prompt)
        detokenizer.push(prefix)  # the caller has that text; what comes is spaced, and completes characters, after it
        reader = detokenizer if isinstance(detokenizer, AnswerReader) else None
        if reader is not None:
            reader.aside()
        assembler = TextAssembler(detokenizer, request.stop, echo.length)
        count = thoughts = cached = 0
        drawn = 0.0
        try:
            async for delta in stream:
                echo.hear(delta)
                cached = min(delta.cached_tokens, asked) or cached
                for offset, token_id in enumerate(delta.ids):
                    count += 1
                    logprob = None
                    if delta.logprobs:
                        logprob = token_logprob(loaded.tokenizer, token_id, delta.logprobs[offset])
                        drawn += logprob.logprob
                    thoughts += reader is not None and reader.thinking
                    piece = _skip_end(ends, assembler, token_id, logprob)
                    aside = NOTHING if reader is None else reader.aside()
                    if piece.stopped or (reader is not None and reader.done):
                        reason = "stop" if piece.stopped else "tool_calls"
                        last = _last(piece, aside, reason, Usage(asked, count, cached, thoughts))
                        yield echo.ahead(replace(last, mean_logprob=_mean(request, drawn, count)))
                        return
                    if piece.text or piece.token_ids or aside != NOTHING:
                        yield echo.ahead(
                            TokenDelta(
                                piece.text, piece.token_ids, piece.logprobs, reasoning=aside[0], tool_calls=aside[1]
                            )
                        )
                if delta.finish_reason:
                    piece = assembler.finish()
                    reason, aside = delta.finish_reason, NOTHING
                    if piece.stopped:
                        reason = "stop"
                    elif reader is not None:
                        aside = reader.aside()
                        reason = "tool_calls" if reader.calls and reason == "stop" else reason
                    last = _last(piece, aside, reason, Usage(asked, count, cached, thoughts))
                    yield echo.ahead(replace(last, mean_logprob=_mean(request, drawn, count)))
                    return
        finally:
            await stream.aclose()

    async def _prompt_ids(self, request: GenerationRequest, tokenizer: Tokenizer, instance: Instance) -> speech.Prompt:
        """The prompt's ids, refused before tokenizing when it cannot fit."""
        stage: Stage = "before"
        ends: frozenset[int] = frozenset()
        if request.messages is not None:
            messages: list[Any] = list(request.messages)
            if self._defaults.system_prompt and not any(one.get("role") == "system" for one in messages):
                messages.insert(0, {"role": "system", "content": self._defaults.system_prompt})
            field, texts = "messages", [text for one in messages for text in _texts(one.get("content"))]
        else:
            assert request.prompt is not None
            field, texts = "prompt", [request.prompt, request.suffix] if isinstance(request.prompt, str) else []
        # A 10 MB prompt would take seconds to tokenize only to be refused: no token is longer than the longest one.
        at_least = sum(tokenizer.min_tokens(text) for text in texts)
        if at_least > instance.context:
            raise too_long(field, f"at least {at_least}", instance.context)
        if request.messages is not None:
            text = await asyncio.to_thread(_chat_text, tokenizer, messages, request)
            ids = await _in_thread(lambda: tokenizer.encode(text, add_special_tokens=False), [text])
            stage = tokenizer.chat_format(request.tool_use).stage(text)
        else:
            prompt = request.prompt
            assert prompt is not None
            if request.suffix:
                assert isinstance(prompt, str), "the API takes a suffix with texts only"
                before = prompt
                ids, ends = await _in_thread(lambda: tokenizer.infill_ids(before, request.suffix), texts)
            else:
                ids = await _in_thread(lambda: tokenizer.prompt_ids(prompt), texts)
        if not ids:
            raise InvalidRequest("the prompt is empty and this model has no BOS token: send some text", param=field)
        if len(ids) + (request.max_tokens != 0) > instance.context:
            raise too_long(field, str(len(ids)), instance.context)
        return speech.Prompt(ids, stage, ends)

    async def _prefix_ids(
        self, request: GenerationRequest, tokenizer: Tokenizer, instance: Instance, prompt: speech.Prompt
    ) -> list[int]:
        """Ids of the part of the answer that the caller already has: the given ones where they are that text's."""
        field = "messages" if request.messages is not None else "prompt"
        ids = list(request.prefix_ids)
        for token in ids:
            if not 0 <= token < tokenizer.vocab_size:
                raise InvalidRequest(f"prefix_ids holds {token}, not a token id of this model", param="prefix_ids")
        text = request.prefix
        # Text may go out before the token that it is part of (a stop string is held back in its middle).
        reader = speech.detokenizer(request, tokenizer, prompt)
        if text and (not ids or reader.push(ids) != text):
            if isinstance(reader, AnswerReader):
                if reader.calls:
                    raise RingBroken("the answer broke off in a tool call, of which not every token is known")
                text = tokenizer.chat_format(request.tool_use).lead(text, stage=prompt.stage)
            at_least = tokenizer.min_tokens(text)
            if at_least > instance.context:
                raise too_long(field, f"at least {at_least}", instance.context)
            ids = await _in_thread(lambda: tokenizer.encode(text, add_special_tokens=False), [text])
        if len(prompt.ids) + len(ids) + (request.max_tokens != 0) > instance.context:
            raise too_long(field, str(len(prompt.ids) + len(ids)), instance.context)
        return ids

    def _message(
        self,
        request: GenerationRequest,
        loaded: LoadedTokenizer,
        instance: Instance,
        prompt: Sequence[int],
        said: Sequence[int],
        begun: int,
        deadline: float | None,
        ends: frozenset[int],
    ) -> ring_pb2.GenerateRequest:
        sampling = request.sampling
        vocabulary = loaded.tokenizer.vocab_size
        for token_id in sampling.logit_bias:
            if token_id >= vocabulary:
                raise InvalidRequest(
                    f"token id {token_id} is not in this model's vocabulary of {vocabulary}", param="logit_bias"
                )
        temperature = sampling.temperature
        if "temperature" not in request.sampling_given:
            given = loaded.defaults.get("temperature", self._defaults.temperature)
            temperature = sampling.temperature if given is None else float(given)
        seed = request.seed if request.seed is not None else secrets.randbits(SEED_BITS)
        bias = dict(sampling.logit_bias)
        if request.ignore_eos:
            bias |= {one: NEVER for one in ends if one < vocabulary}
        room = instance.context - len(prompt) - len(said)
        most = self._defaults.max_generate_tokens
        wanted = most if request.max_tokens is None else len(said) + request.max_tokens
        return ring_pb2.GenerateRequest(
            instance_id=instance.instance_id,
            request_id=request.request_id,
            prompt_ids=prompt,
            generated_ids=said,
            sampling=ring_pb2.Sampling(
                temperature=temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_p=sampling.min_p,
                frequency_penalty=sampling.frequency_penalty,
                presence_penalty=sampling.presence_penalty,
                repetition_penalty=sampling.repetition_penalty,
                logit_bias=bias,
                top_logprobs=sampling.top_logprobs,
                seed=seed % 2**64,
            ),
            max_tokens=min(wanted, len(said) + room),
            stop_ids=sorted(ends),
            timeout_ms=0 if deadline is None else max(1, int((deadline - time.monotonic()) * 1000)),
            grammar=_grammar(request.grammar, begun),
            prompt_logprobs=request.prompt_logprobs,
            client=request.client,
            priority=request.priority,
        )


def _grammar(grammar: Grammar | None, begun: int) -> ring_pb2.Grammar | None:
    """The grammar of a request, of whose prompt it covers the last `begun` ids (and what is generated after them)."""
    if grammar is None:
        return None
    return ring_pb2.Grammar(kind=grammar.kind, text=grammar.text, field=grammar.field, begun=begun)


def _texts(content: Any) -> list[str]:
    """The texts of a message's content: a string, or parts of which some have text."""
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if isinstance(part, dict) and isinstance(part.get("text"), str)]


def _refuse_uncountable(request: GenerationRequest) -> None:
    field, texts = "prompt", [request.prompt] if isinstance(request.prompt, str) else []
    if request.messages is not None:
        field, texts = "messages", [text for one in request.messages for text in _texts(one.get("content"))]
    if (characters := sum(map(len, texts))) > COUNTED_CHARACTERS:
        raise InvalidRequest(f"{field}: {characters} characters; at most {COUNTED_CHARACTERS} are counted", param=field)


def _chat_text(tokenizer: Tokenizer, messages: list[Any], request: GenerationRequest) -> str:
    """Waits for another process: not for the event loop."""
    hinted = tokenizer.chat_format(request.tool_use).hinted(request.template_hints)
    return tokenizer.chat_text(messages, use=request.tool_use, options={**hinted, **request.template_options})


async def _in_thread(work: Callable[[], T], texts: Sequence[str]) -> T:
    if sum(map(len, texts)) < THREAD_FROM_CHARACTERS:
        return work()
    return await asyncio.to_thread(work)


def too_long(field: str, tokens: str, context: int) -> ContextLengthExceeded:
    """The error for a prompt that does not fit, with both numbers."""
    has = "have" if field == "messages" else "has"
    return ContextLengthExceeded(
        f"this model's context holds {context} tokens; the {field} {has} {tokens} and at least one must be generated: "
        "shorten it",
        param=field,
    )


def _prefilled(request: GenerationRequest, tokenizer: Tokenizer, prefix: Sequence[int]) -> int:
    """Tokens of the part of `prefix` that counts as prompt."""
    if request.prefilled == len(request.prefix):
        return len(prefix) if request.prefilled else 0
    return len(tokenizer.encode(request.prefix[: request.prefilled], add_special_tokens=False))


def _skip_end(ends: frozenset[int], assembler: TextAssembler, token_id: int, logprob: TokenLogprob | None) -> TextPiece:
    """Add a token to the text; an end-of-text token has none."""
    if token_id in ends:
        return TextPiece("", (token_id,), ())
    return assembler.push(token_id, logprob)


def _mean(request: GenerationRequest, drawn: float, count: int) -> float | None:
    """The mean log-probability of `count` tokens, where they were asked for."""
    return drawn / count if count and request.sampling.top_logprobs is not None else None


def _last(piece: TextPiece, aside: tuple[str, tuple[ToolCallDelta, ...]], reason: Any, usage: Usage) -> TokenDelta:
    return TokenDelta(
        piece.text,
        piece.token_ids,
        piece.logprobs,
        finish_reason=reason,
        usage=usage,
        reasoning=aside[0],
        tool_calls=aside[1],
        stopped_by=piece.stopped_by,
    )
