"""One generation as the head sees it, and what the head tells its callers. Plain data, no numpy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from exo_node.errors import ExoError
from exo_node.types import FinishReason, Grammar, SamplingParams

if TYPE_CHECKING:
    from exo_node.ring.drafting import Drafting

Priority = Literal["high", "normal", "low"]
RANKS: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}


@dataclass(frozen=True, slots=True)
class Pooling:
    """One vector is wanted of the prompt: its hidden states' mean, or the last one. `dimensions` 0: all of them."""

    mode: Literal["mean", "last"]
    dimensions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A `GenerateRequest` as data.

    `generated` are tokens already delivered (resume): never sent again, but counted by `max_tokens`. A token of
    `stop_ids` ends the generation and is itself delivered. `deadline` is on the head's clock.

    `grammar` binds the last `begun` tokens of the prompt and all that follows; `complete`: nothing may follow already.
    `client`: who asks (an API key's id, "" where none is needed): slots are shared out fairly among clients, and a
    prompt's beginning is found again only in what the same one has sent. `sequence`: where its KV was when the ring was
    lost (`Delta.sequence`), 0 = nowhere.
    """

    request_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    generated: tuple[int, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    sampling: SamplingParams = field(default_factory=SamplingParams)
    attempt: int = 0
    deadline: float | None = None
    grammar: Grammar | None = None
    begun: int = 0
    complete: bool = False
    prompt_logprobs: int | None = None
    pooling: Pooling | None = None
    client: str = ""
    priority: Priority = "normal"
    sequence: int = 0

    @property
    def resumes(self) -> bool:
        """Whether it ran before."""
        return bool(self.generated or self.attempt)

    @property
    def reads(self) -> bool:
        """Whether something is told of the prompt itself."""
        return self.pooling is not None or self.prompt_logprobs is not None

    @property
    def draws(self) -> bool:
        """False: the generation is over with its prompt."""
        return self.pooling is None and (self.max_tokens > 0 or self.prompt_logprobs is None)


@dataclass(frozen=True, slots=True)
class Want:
    """Output `output` of a returned step is the distribution of the next token of `ticket`, at absolute `position`.

    Behind it come one for each of `drafts`: output + 1 foretells the token after drafts[0], if that is what is drawn.
    """

    ticket: int
    output: int
    position: int
    drafts: tuple[int, ...] = ()

    @property
    def outputs(self) -> range:
        return range(self.output, self.output + 1 + len(self.drafts))


@dataclass(frozen=True, slots=True)
class Reading:
    """Outputs [output, output + count) of a returned step are those of the prompt of `ticket` from `position` on."""

    ticket: int
    output: int
    count: int
    position: int


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """What a sampler drew. `logprob` None = none asked for; `top` is (id, logprob), most likely first.

    `ended`: the grammar allows nothing after it.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Delta:
    """A token of the generation `ticket`. `index` counts generated tokens from 0; `choice` is None where a resumed
    generation was already complete, or where `prompt` or `vector` tell of the prompt (prompt_reading.py). The times are
    on the first token's only, and so is how much of the prompt was `cached`, and of a resumed one `replayed`: known
    tokens that were computed again, in any stage. `sequence`: where its KV is, where that is new; else 0."""

    ticket: int
    index: int
    choice: TokenChoice | None
    finish: FinishReason | None
    queue_us: int = 0
    prefill_us: int = 0
    prompt: tuple[TokenChoice, ...] = ()
    vector: bytes = b""
    cached: int = 0
    replayed: int = 0
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """The generation `ticket` has ended with an error."""

    ticket: int
    error: ExoError


Notice = Delta | Failed


@dataclass(slots=True, eq=False)
class Generation:
    """A running or waiting generation.

    `sent` tokens are cached or on their way, drafts not counted; `in_flight` rows are not home; `drafts` are those of
    the row that is not. It is `decoding` once everything that was known at its admission (`prefill` tokens) is sent. Of
    its first `kept` tokens some stages have lost nothing: only the others, from `lost_from` on, compute them.
    """

    ticket: int
    job: Job
    arrived: float
    tokens: list[int]
    n_generated: int
    prefill: int
    sequence: int = 0  # 0 without a slot
    admitted: float | None = None
    first_at: float | None = None  # when its first token was drawn
    sent: int = 0
    in_flight: int = 0
    first: bool = True
    read: int = 0  # outputs of the prompt that were told already, where its log-probabilities are wanted
    cached: int = 0  # of the prompt, when it was first admitted
    replayed: int = 0  # known tokens that were not there for all stages
    kept: int = 0
    lost_from: int = 0
    told: int = 0  # the sequence that its caller knows of
    drafts: tuple[int, ...] = ()
    order: int = 0  # of admission: the larger, the sooner another may take its memory
    since: int = 0  # the step of its admission; then that of the end of its prompt
    back: bool = False  # it has had a slot before, and gave it up
    drafter: Drafting | None = None

    @classmethod
    def start(cls, ticket: int, job: Job, now: float) -> Generation:
        tokens = [*job.prompt, *job.generated]
        return cls(ticket, job, now, tokens, len(job.generated), len(tokens))

    @property
    def decoding(self) -> bool:
        return self.sent >= self.prefill

    @property
    def goes_on(self) -> bool:
        """Whether tokens may follow its prefill: not where only the prompt is read, or one token drawn."""
        return self.job.draws and self.prefill + 1 < len(self.job.prompt) + self.job.max_tokens

    def longest(self, context: int) -> int:
        """Tokens that its sequence holds at most in the end."""
        return min(context, len(self.job.prompt) + max(self.job.max_tokens, 0))

    def reads_at(self, position: int, length: int) -> bool:
        """Whether all outputs of a row are wanted (of a pooling by the last, one is; none that was told before)."""
        job = self.job
        wanted = job.prompt_logprobs is not None or (job.pooling is not None and job.pooling.mode == "mean")
        return wanted and position < len(job.prompt) and position + length > self.read

    def finish_after(self, choice: TokenChoice, context: int) -> FinishReason | None:
        """Whether the generation is over now that the token has been appended."""
        if choice.ended or choice.token in self.job.stop_ids:
            return "stop"
        if self.n_generated >= self.job.max_tokens or len(self.tokens) >= context:
            return "length"
        return None
