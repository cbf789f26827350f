"""Document 001's router: picks a model by what the messages ask for, what it can do, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exo_node.routing.heuristics import assess, last_user_text
from exo_node.routing.plan import Ask
from exo_node.sdk.provider import LiteLLMProvider, Message, plain
from exo_node.sdk.replies import Reply

EXPECTED_OUTPUT = 500  # tokens, for comparing costs before there is an answer
CHARACTERS_PER_TOKEN = 4


class HeuristicRouter:
    """Over providers by name. A routing node decides by measured latency; this is for programs that hold providers."""

    def select_model(
        self, messages: Sequence[Message], providers: Mapping[str, LiteLLMProvider], max_cost: float | None = None
    ) -> tuple[str, str, str]:
        """(provider's name, model, why). Raises `ValueError` when no model qualifies."""
        task = _task(plain(messages))
        ranked = self._ranked(messages, providers, max_cost)
        fitting = [one for one in ranked if task in one[3]] or [one for one in ranked if not one[3]] or ranked
        cost, name, model, tasks = fitting[0]
        why = f"task {task}: " + ("made for it" if task in tasks else "no model is marked for it")
        return name, model, f"{why}; about ${cost:.6f}, the cheapest of {len(fitting)}"

    async def route_request(
        self,
        messages: Sequence[Message],
        providers: Mapping[str, LiteLLMProvider],
        strategy: str = "heuristic",
        max_cost: float | None = None,
        **parameters: Any,
    ) -> Reply:
        """Select and ask. `cost_optimized` takes the cheapest; `cascade` goes on when one fails or is empty.

        Raises `ValueError` for an unknown strategy or when nothing is cheap enough.
        """
        if strategy in ("heuristic", "hybrid"):
            name, model, _ = self.select_model(messages, providers, max_cost)
            return await providers[name].chat_completion(messages, model, **parameters)
        if strategy not in ("cost_optimized", "cascade"):
            raise ValueError(f"unknown strategy {strategy!r}; known: heuristic, hybrid, cost_optimized, cascade")
        ranked = self._ranked(messages, providers, max_cost)
        last: Exception | None = None
        answer: Reply | None = None
        for _, name, model, _ in ranked if strategy == "cascade" else ranked[:1]:
            try:
                answer = await providers[name].chat_completion(messages, model, **parameters)
            except Exception as error:  # the next one may do better; the last failure is raised below
                last = error
                continue
            if strategy == "cost_optimized" or (answer.choices and answer.choices[0].message.content):
                return answer
        if answer is not None:
            return answer
        assert last is not None
        raise last

    def _ranked(
        self, messages: Sequence[Message], providers: Mapping[str, LiteLLMProvider], max_cost: float | None
    ) -> list[tuple[float, str, str, tuple[str, ...]]]:
        """(predicted cost, provider, model, task types), cheapest first."""
        prompt = sum(len(str(one.get("content", ""))) for one in plain(messages)) // CHARACTERS_PER_TOKEN + 1
        found = []
        for name, provider in providers.items():
            for model in provider.get_supported_models():
                info = provider.get_model_info(model)
                if info is None or not info["pricing"]:
                    continue
                cost = provider.calculate_cost(prompt, EXPECTED_OUTPUT, model)
                if max_cost is None or cost <= max_cost:
                    found.append((cost, name, model, tuple(info["metadata"].get("task_types", ()))))
        if not found:
            limit = "" if max_cost is None else f" for at most ${max_cost:g}"
            raise ValueError(f"no model of these providers has a known price{limit}")
        return sorted(found)


def _task(messages: list[dict[str, Any]]) -> str:
    body = {"messages": messages}
    prompt = sum(len(str(one.get("content", ""))) for one in messages) // CHARACTERS_PER_TOKEN
    ask = Ask(
        kind="chat",
        model="",
        prompt_tokens=prompt,
        max_tokens=None,
        stream=False,
        text=last_user_text(body),
    )
    return assess(ask).task
