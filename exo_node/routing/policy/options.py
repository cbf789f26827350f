"""Candidates that may serve a call, with what is predicted of each; and why the others may not. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exo_node.routing.call import CallKind, Capability
from exo_node.routing.plan import Ask, Candidate, ProfileView

EXPECTED_OUTPUT = 256  # tokens of a typical answer, where the request allows as many
WITH_OUTPUT = frozenset({"chat", "completion"})
TOO_DEAR = "more than the max_cost"
# Kinds of candidates that some words for the field `provider` mean ("litellm": whoever it is, but not the ring).
_MEANT: Mapping[str, tuple[str, ...]] = {"ring": ("ring",), "local": ("ring",), "litellm": ("deployment", "peer")}
EMULATED: frozenset[Capability] = frozenset({"tools"})  # asked for by prompt where no candidate has it natively


@dataclass(slots=True)
class Option:
    """Times in seconds, cost in USD (None: not known). `hoped_s`: what a look at it may find, None when not due.

    `name` is for people; `tell_apart` makes it different from all others' of the call.
    """

    candidate: Candidate
    ttft_s: float
    output_s: float
    cost: float | None
    load: float
    half_open: bool = False
    hoped_s: float | None = None
    note: str = ""
    name: str = ""

    @property
    def total_s(self) -> float:
        return self.ttft_s + self.output_s


def name_of(candidate: Candidate) -> str:
    """For people: "openai/gpt-4o", "ring:llama", with "@node" of a peer."""
    if candidate.kind == "ring":
        return candidate.backend if candidate.backend.startswith("ring:") else f"ring:{candidate.model}"
    name = candidate.model if "/" in candidate.model else f"{candidate.provider}/{candidate.model}"
    return f"{name}@{candidate.node_id}" if candidate.node_id else name


def tell_apart(options: Sequence[Option]) -> None:
    """Name the backend too where several have the same model."""
    seen: dict[str, Option] = {}
    for option in options:
        other = seen.setdefault(option.name, option)
        if other is not option:
            for one in (other, option):
                one.name = f"{name_of(one.candidate)} ({one.candidate.backend})"


def expected_output(ask: Ask) -> int:
    """Tokens that the answer will probably have."""
    if ask.kind not in WITH_OUTPUT:
        return 0
    typical = EXPECTED_OUTPUT * ask.answers
    return typical if ask.max_tokens is None else min(ask.max_tokens, typical)


def answer_room(kind: CallKind, max_tokens: int | None, answers: int = 1) -> int:
    """Tokens that are kept free for an answer while it is made."""
    return max_tokens if max_tokens is not None else EXPECTED_OUTPUT * answers if kind in WITH_OUTPUT else 0


def window_of(ask: Ask) -> tuple[int, int]:
    """Tokens that a backend must have before it at once: of the longest prompt, and of an answer to it."""
    return ask.longest or ask.prompt_tokens, (ask.max_tokens or 0) // max(1, ask.answers)


def cost_of(candidate: Candidate, ask: Ask) -> float | None:
    """Predicted USD; a ring without a price costs nothing, anything else without one is not known."""
    if candidate.price is None:
        return 0.0 if candidate.kind == "ring" else None
    return candidate.price.cost(ask.prompt_tokens, expected_output(ask))


def why_not(candidate: Candidate, ask: Ask, emulate: frozenset[Capability]) -> str:
    """Why a candidate may not serve the call, whatever its latency; "" when it may."""
    if candidate.rejected:
        return candidate.rejected
    wish = ask.provider
    if wish is not None and wish != candidate.provider and candidate.kind not in _MEANT.get(wish, ()):
        return f"the request wants provider {wish}"
    missing = ask.needs - candidate.capabilities - (emulate if candidate.kind != "ring" else frozenset())
    if missing:
        return f"it does not offer {', '.join(sorted(missing))}"
    if candidate.context is not None:
        prompt, room = window_of(ask)
        if prompt >= candidate.context:
            return f"its context of {candidate.context} tokens is too small for a prompt of about {prompt}"
        answer = min(room, candidate.context - 1) if ask.kind in WITH_OUTPUT else 0
        if prompt + answer > candidate.context and candidate.kind != "ring":
            return (
                f"its context of {candidate.context} tokens does not hold about {prompt} of the prompt "
                f"and {answer} of the answer"
            )
    if not candidate.room:
        return "its rate limit or budget has no room now"
    if ask.max_cost is not None:
        cost = cost_of(candidate, ask)
        if cost is None:
            return "its price is not known and the request has a max_cost"
        if cost > ask.max_cost:
            return f"predicted to cost ${cost:.6f}, {TOO_DEAR} of ${ask.max_cost:g}"
    return ""


def emulated(candidates: Sequence[Candidate], ask: Ask) -> frozenset[Capability]:
    """Needs that no usable candidate has natively and that can be prompted for."""
    needs = ask.needs & EMULATED
    return frozenset(n for n in needs if not any(n in c.capabilities and not c.rejected for c in candidates))


def predict(candidate: Candidate, ask: Ask, profile: ProfileView, now: float, *, half_open: bool) -> Option:
    """What asking this candidate now would probably take."""
    itl = profile.itl(candidate, now)
    output = expected_output(ask) * itl
    flying = profile.in_flight(candidate.backend)
    ttft = profile.ttft(candidate, ask.prompt_tokens, now) + candidate.cold_s
    if candidate.capacity is not None and flying >= candidate.capacity:
        # Every slot is taken: wait until as many have ended as stand before us.
        ttft += (flying - candidate.capacity + 1) / max(1, candidate.capacity) * (EXPECTED_OUTPUT / 2 * itl)
    load = flying / candidate.capacity if candidate.capacity else float(flying)
    hoped = profile.due(candidate, ask.prompt_tokens, now) if not candidate.cold_s else None
    return Option(candidate, ttft, output, cost_of(candidate, ask), load, half_open, hoped, name=name_of(candidate))
