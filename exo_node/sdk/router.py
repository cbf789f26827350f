"""Document 001's router: picks a model by what the messages ask for, what it can do, and what it costs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exo_node.routing.adapter.cascade import shortcoming
from exo_node.routing.call import CHARACTERS_PER_TOKEN, IMAGE_TOKENS, Call
from exo_node.routing.deployment import Price
from exo_node.routing.plan import Ask, Candidate
from exo_node.routing.policy.heuristics import Assessment, assess, last_user_text, suits
from exo_node.sdk.provider import PER_THOUSAND, LiteLLMProvider, Message, plain
from exo_node.sdk.replies import Reply

EXPECTED_OUTPUT = 500  # tokens, for comparing costs before there is an answer
MESSAGE_CHARACTERS = 16  # role and separators: about four tokens in every chat template
STRATEGIES = ("heuristic", "hybrid", "cost_optimized", "cascade")


@dataclass(frozen=True, slots=True, order=True)
class Offer:
    """A model that fits the prompt and the money; `cost` is predicted, in USD. Ordered by cost."""

    cost: float
    provider: str
    model: str
    unfit: str = ""  # why it does not suit the task


class HeuristicRouter:
    """Over providers by name. A routing node decides by measured latency; this is for programs that hold providers."""

    def select_model(
        self, messages: Sequence[Message], providers: Mapping[str, LiteLLMProvider], max_cost: float | None = None
    ) -> tuple[str, str, str]:
        """(provider's name, model, why). Raises `ValueError` when no model qualifies."""
        best, why = _choose(messages, providers, max_cost)
        return best.provider, best.model, why

    async def route_request(
        self,
        messages: Sequence[Message],
        providers: Mapping[str, LiteLLMProvider],
        strategy: str = "heuristic",
        max_cost: float | None = None,
        **parameters: Any,
    ) -> Reply:
        """Select among what the providers list, and ask.

        `heuristic` = `hybrid`: the cheapest that suits the task; `cost_optimized`: the cheapest; `cascade`: from the
        cheapest on until one answers well (not empty, no refusal, JSON where it was asked for).
        `max_cost`: USD, predicted. Raises `ValueError` for an unknown strategy or when nothing is cheap enough, else
        the last provider's own error.
        """
        if strategy not in STRATEGIES:
            raise ValueError(f"unknown strategy {strategy!r}; known: {', '.join(STRATEGIES)}")
        for provider in providers.values():
            with contextlib.suppress(Exception):  # one that does not tell is taken at its table's word
                await provider.get_available_models()
        if strategy in ("heuristic", "hybrid"):
            offers = [_choose(messages, providers, max_cost)[0]]
        else:
            offers = _offers(messages, providers, max_cost)[0]
        if strategy != "cascade":
            return await providers[offers[0].provider].chat_completion(messages, offers[0].model, **parameters)
        return await self._cascade(messages, providers, offers, parameters)

    async def _cascade(
        self,
        messages: Sequence[Message],
        providers: Mapping[str, LiteLLMProvider],
        offers: Sequence[Offer],
        parameters: Mapping[str, Any],
    ) -> Reply:
        failure: Exception | None = None
        answer: Reply | None = None
        for offer in offers:
            try:
                answer = await providers[offer.provider].chat_completion(messages, offer.model, **parameters)
            except Exception as error:  # the next one may do better; the last failure is raised below
                failure = error
                continue
            body = {**parameters, "messages": plain(messages)}
            call = Call(id="", kind="chat", model=offer.model, body=body, stream=False, deadline=0.0, prompt_tokens=0)
            if not shortcoming(call, answer):
                return answer
        if answer is not None:
            return answer  # the dearest one's, which nobody could better
        assert failure is not None
        raise failure


def _choose(
    messages: Sequence[Message], providers: Mapping[str, LiteLLMProvider], max_cost: float | None
) -> tuple[Offer, str]:
    offers, assessment = _offers(messages, providers, max_cost)
    fitting = [one for one in offers if not one.unfit]
    best = (fitting or offers)[0]
    among = f"the cheapest of {len(fitting)} that suit" if fitting else f"none suits ({best.unfit}): the cheapest"
    return best, f"{assessment.words}: {among}, about ${best.cost:.6f}"


def _offers(
    messages: Sequence[Message], providers: Mapping[str, LiteLLMProvider], max_cost: float | None
) -> tuple[list[Offer], Assessment]:
    """Cheapest first. Raises `ValueError` when there is none."""
    body = {"messages": plain(messages)}
    prompt = _prompt_tokens(body["messages"])
    text = last_user_text(body)
    ask = Ask(kind="chat", model="", prompt_tokens=prompt, max_tokens=None, stream=False, text=text)
    assessment = assess(ask)
    found: list[tuple[float, Candidate]] = []
    for name, provider in providers.items():
        for model in provider.get_supported_models():
            info = provider.get_model_info(model)
            assert info is not None
            window = info["metadata"].get("context_window")
            cost = provider.calculate_cost(prompt, EXPECTED_OUTPUT, model)
            if (max_cost is not None and cost > max_cost) or (window is not None and prompt >= window):
                continue
            pricing = {side: price * PER_THOUSAND for side, price in info["pricing"].items()}
            tasks = tuple(info["metadata"].get("task_types", ()))
            found.append(
                (
                    cost,
                    Candidate(
                        backend=model,
                        kind="deployment",
                        provider=name,
                        model=model,
                        price=Price(pricing["input"], pricing["output"]),
                        task_types=tasks,
                    ),
                )
            )
    if not found:
        limit = "" if max_cost is None else f" for at most ${max_cost:g}"
        raise ValueError(f"no model of these providers has a known price{limit} and room for the prompt")
    dearest = max(one.price.output for _, one in found if one.price is not None)
    offers = [Offer(cost, one.provider, one.model, suits(assessment, one, dearest)) for cost, one in found]
    return sorted(offers), assessment


def _prompt_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """An estimate by characters, at least 1; a picture counts as one of usual size, not by the length of its base64."""
    characters = pictures = 0
    for message in messages:
        characters += MESSAGE_CHARACTERS
        for name, value in message.items():
            if name == "role":
                continue
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, Mapping) and part.get("type") in ("image_url", "input_image", "image"):
                    pictures += 1
                else:
                    characters += _characters(part)
    return max(1, -(-characters // CHARACTERS_PER_TOKEN) + pictures * IMAGE_TOKENS)


def _characters(value: Any) -> int:
    """Of all text inside; `data` is sound or a file, not text."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(len(str(name)) + _characters(inner) for name, inner in value.items() if name != "data")
    return sum(map(_characters, value)) if isinstance(value, list) else 0
