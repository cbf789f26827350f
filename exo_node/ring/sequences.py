"""One generation as the head sees it, and what the head tells its callers. Plain data, no numpy."""

from __future__ import annotations

from dataclasses import dataclass, field

from exo_node.errors import ExoError
from exo_node.types import FinishReason, SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A `GenerateRequest` as data.

    `generated` are tokens already delivered (resume): never sent again, but counted by `max_tokens`. A token of
    `stop_ids` ends the generation and is itself delivered. `deadline` is on the head's clock.
    """

    request_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    generated: tuple[int, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    sampling: SamplingParams = field(default_factory=SamplingParams)
    attempt: int = 0
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """What a sampler drew. `logprob` None = none asked for; `top` is (id, logprob), most likely first."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A token of the generation `ticket`. `index` counts generated tokens from 0; `choice` is None only where a resumed
    generation was already complete. The times are on the first delta only."""

    ticket: int
    index: int
    choice: TokenChoice | None
    finish: FinishReason | None
    queue_us: int = 0
    prefill_us: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """The generation `ticket` has ended with an error."""

    ticket: int
    error: ExoError


Notice = Delta | Failed


@dataclass(slots=True)
class Generation:
    """A running or waiting generation. `sent` tokens are cached or on their way; `in_flight` rows are not home."""

    ticket: int
    job: Job
    arrived: float
    tokens: list[int]
    n_generated: int
    prefill: int  # tokens known at admission: these go out in chunks
    sequence: int = 0  # 0 until its first row
    admitted: float = 0.0
    sent: int = 0
    in_flight: int = 0
    first: bool = True

    @classmethod
    def start(cls, ticket: int, job: Job, now: float) -> Generation:
        tokens = [*job.prompt, *job.generated]
        return cls(ticket, job, now, tokens, len(job.generated), len(tokens))

    def finish_after(self, token: int, context: int) -> FinishReason | None:
        """Whether the generation is over now that `token` has been appended."""
        if token in self.job.stop_ids:
            return "stop"
        if self.n_generated >= self.job.max_tokens or len(self.tokens) >= context:
            return "length"
        return None
