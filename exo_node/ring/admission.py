"""What the head accepts: checks of a job against the instance, before it takes a place in the queue."""

from __future__ import annotations

import math

from exo_node.errors import ContextLengthExceeded, InvalidRequest, NoCapacity
from exo_node.ring.head_data import Memory
from exo_node.ring.sequences import Job
from exo_node.types import FinishReason

NO_MEMORY_RETRY_S = 5.0


def check_job(job: Job, context: int, vocab_size: int) -> None:
    """Raise `InvalidRequest` (or `ContextLengthExceeded`, with both numbers) for a job that cannot be served."""
    if not job.prompt:
        raise InvalidRequest("the prompt has no tokens", param="prompt")
    if len(job.prompt) + job.draws > context:
        answer = " (one of them for the answer)" if job.draws else ""
        raise ContextLengthExceeded(
            f"the prompt has {len(job.prompt)} tokens, this instance holds {context}{answer}: "
            "shorten the prompt or load the model with a larger context",
            param="prompt",
        )
    if max(*job.prompt, *job.generated, 0) >= vocab_size or min(*job.prompt, *job.generated, 0) < 0:
        raise InvalidRequest(f"the prompt holds a token id outside 0 to {vocab_size - 1}", param="prompt")
    if job.max_tokens < 1 and job.draws:
        raise InvalidRequest("max_tokens must be at least 1", param="max_tokens")
    if job.reads and (job.generated or job.complete):
        raise InvalidRequest("a prompt that is read has no answer behind it yet", param="generated_ids")
    if job.pooling is not None and job.prompt_logprobs is not None:
        raise InvalidRequest("a prompt is scored or made a vector, not both", param="prompt_logprobs")
    if not 0 <= (job.prompt_logprobs or 0) <= vocab_size:
        raise InvalidRequest(f"prompt_logprobs must be between 0 and {vocab_size}", param="prompt_logprobs")
    if job.begun > len(job.prompt):
        raise InvalidRequest(f"the grammar covers {job.begun} tokens of a prompt of {len(job.prompt)}", param="prompt")
    _check_sampling(job, vocab_size)


def _check_sampling(job: Job, vocab_size: int) -> None:
    params = job.sampling
    rules: tuple[tuple[str, bool, str], ...] = (
        ("temperature", params.temperature >= 0, "must not be negative"),
        ("top_p", 0 < params.top_p <= 1, "must be above 0 and at most 1"),
        ("top_k", params.top_k >= 0, "must not be negative"),
        ("min_p", 0 <= params.min_p <= 1, "must be between 0 and 1"),
        ("repetition_penalty", params.repetition_penalty > 1e-7, "must be above 0.0000001"),
        ("frequency_penalty", math.isfinite(params.frequency_penalty), "must be a finite number"),
        ("presence_penalty", math.isfinite(params.presence_penalty), "must be a finite number"),
        ("top_logprobs", 0 <= (params.top_logprobs or 0) <= vocab_size, f"must be between 0 and {vocab_size}"),
    )
    for name, good, rule in rules:
        value = getattr(params, name)
        if not good or (isinstance(value, float) and not math.isfinite(value)):
            raise InvalidRequest(f"{name} {rule}, not {value:g}", param=name)
    for token, bias in params.logit_bias.items():
        if not 0 <= token < vocab_size or not math.isfinite(bias):
            raise InvalidRequest(
                f"logit_bias names token {token} with {bias:g}; ids go from 0 to {vocab_size - 1}", param="logit_bias"
            )


def check_memory(job: Job, memory: Memory) -> None:
    """Raise `NoCapacity` for a new job while memory runs out; an answer that goes on is always taken."""
    if memory.level == "critical" and not (job.generated or job.attempt):
        raise NoCapacity(
            f"the node with this model's head takes no requests for now: {memory.words}; ask again",
            code="low_memory",
            retry_after=NO_MEMORY_RETRY_S,
        )


def finished_already(job: Job, context: int) -> FinishReason | None:
    """Why a resumed job has nothing left to generate, or None."""
    if not job.draws:
        return None
    if job.complete or (job.generated and job.generated[-1] in job.stop_ids):
        return "stop"
    if len(job.generated) >= job.max_tokens or len(job.prompt) + len(job.generated) >= context:
        return "length"
    return None
