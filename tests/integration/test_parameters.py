"""Every sampling field that the API honours has its effect on the text or the distribution, through a real node.

Distributions are exact: `logit_bias` puts chosen tokens 50 above the rest and, corrected by their own
log-probabilities, at weights of our choice. Draws are seeded, so a run gives what the last one gave.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

import exo_node.models
from exo_node.models.tokenizer import Tokenizer
from tests.integration.harness import NodeProcess, nodes

PROMPT = "Once upon a time"
QUESTION: Any = [{"role": "user", "content": "Tell me a story."}]
EXTENSIONS = ("top_k", "min_p", "repetition_penalty")  # the SDK has no names for these
LIFT = 50.0  # e^50: what is not lifted never shows
WEIGHTS = (0.5, 0.25, 0.15, 0.1)
DRAWS = 192  # where shares are to be told apart
FEW = 64  # where it is only to be seen what never comes: 15% would, but for one time in 30,000


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """One node; it places the bundled model when it is first asked."""
    arguments = ["--discovery-module", "none", "--reproducible"]
    with nodes(tmp_path_factory.mktemp("parameters") / "home", arguments) as (one,):
        yield one


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(Path(exo_node.models.__file__).parent / "demo")


@pytest.fixture(scope="module")
def words(tokenizer: Tokenizer) -> list[int]:
    """Eight tokens, each a whole word."""
    found = tokenizer.encode(" there was a little computer and the ring", add_special_tokens=False)
    assert len(set(found)) == 8
    return found


def complete(node: NodeProcess, **fields: Any) -> Completion:
    extra = {name: fields.pop(name) for name in EXTENSIONS if name in fields}
    asked = {"model": "demo", "prompt": PROMPT, "max_tokens": 12, **fields}
    answer = node.client().completions.create(**asked, extra_body=extra)
    assert isinstance(answer, Completion)
    return answer


def text(node: NodeProcess, **fields: Any) -> str:
    return complete(node, **fields).choices[0].text


def chat(node: NodeProcess, **fields: Any) -> ChatCompletion:
    asked = {"model": "demo", "messages": QUESTION, "max_tokens": 12, **fields}
    answer = node.client().chat.completions.create(**asked)
    assert isinstance(answer, ChatCompletion)
    return answer


def logprob(node: NodeProcess, token: int, **fields: Any) -> float:
    """What the model gives to `token` next: it is forced, and `logprobs` tells of the distribution before any bias."""
    answer = complete(node, logit_bias={str(token): 100}, temperature=0, max_tokens=1, logprobs=0, **fields)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    return logprobs.token_logprobs[0] or 0.0


@pytest.fixture(scope="module")
def bias(node: NodeProcess, words: list[int]) -> dict[str, float]:
    """The logit_bias under which the first four words have exactly WEIGHTS after PROMPT."""
    pairs = zip(words, WEIGHTS, strict=False)
    return {str(token): LIFT + math.log(weight) - logprob(node, token) for token, weight in pairs}


def shares(node: NodeProcess, bias: Mapping[str, float], draws: int, **fields: Any) -> list[float]:
    """How often each of the four words was drawn."""
    found: Counter[str] = Counter()
    for seed in range(0, draws, 16):
        answer = complete(node, logit_bias=bias, max_tokens=1, n=16, seed=seed, **fields)
        found.update(choice.text for choice in answer.choices)
    names = [" there", " was", " a", " little"]
    assert set(found) <= set(names)
    return [found[name] / draws for name in names]


def near(found: list[float], weights: tuple[float, ...], draws: int) -> bool:
    """Whether shares are those of `weights` within four standard deviations; what has no weight must never come."""
    total = sum(weights)
    return all(
        abs(share - weight / total) < 4 * math.sqrt(0.25 / draws) and (weight > 0 or share == 0)
        for share, weight in zip(found, weights, strict=True)
    )


@pytest.mark.parametrize(
    ("fields", "weights"),
    [
        ({"temperature": 1}, WEIGHTS),
        ({"temperature": 0}, (1, 0, 0, 0)),
        ({"temperature": 0.5}, (0.25, 0.0625, 0.0225, 0.01)),
        ({"temperature": 2}, tuple(math.sqrt(weight) for weight in WEIGHTS)),
        ({"temperature": 1, "top_k": 2}, (0.5, 0.25, 0, 0)),
        ({"temperature": 1, "top_p": 0.7}, (0.5, 0.25, 0, 0)),
        ({"temperature": 1, "top_p": 0.8}, (0.5, 0.25, 0.15, 0)),
        ({"temperature": 1, "min_p": 0.25}, (0.5, 0.25, 0.15, 0)),
        ({"temperature": 1, "min_p": 0.4, "top_k": 3}, (0.5, 0.25, 0, 0)),
    ],
    ids=str,
)
def test_the_distribution(node: NodeProcess, bias: dict[str, float], fields: Any, weights: tuple[float, ...]) -> None:
    """logit_bias, temperature, top_k, top_p and min_p: tokens come as often as they should, and cut ones never."""
    draws = DRAWS if all(weights) else FEW
    found = shares(node, bias, draws, **fields)
    assert near(found, weights, draws), found


def test_logit_bias_forces_and_bans(node: NodeProcess, words: list[int], tokenizer: Tokenizer) -> None:
    """100 makes a token the only one, -100 takes the likeliest one away; ids beyond the vocabulary are refused."""
    assert text(node, logit_bias={str(words[4]): 100}, temperature=0, max_tokens=3) == " computer" * 3
    first = text(node, temperature=0, max_tokens=1)
    (likeliest,) = tokenizer.encode(first, add_special_tokens=False)
    assert text(node, logit_bias={str(likeliest): -100}, temperature=0, max_tokens=1) != first
    with pytest.raises(openai.BadRequestError, match="vocabulary"):
        text(node, logit_bias={str(tokenizer.vocab_size): 1})


def test_seed(node: NodeProcess) -> None:
    """The same seed gives the same text, another another; choice i of n is the text of seed + i alone."""
    hot: dict[str, Any] = {"temperature": 2, "max_tokens": 32}  # at 1.5 and 16 one pair of texts in 35 is the same
    alone = [text(node, seed=seed, **hot) for seed in (7, 8, 9)]
    assert len(set(alone)) == 3
    assert [choice.text for choice in complete(node, seed=7, n=3, **hot).choices] == alone
    unseeded = {text(node, **hot) for _ in range(3)}
    assert len(unseeded) == 3


def test_n_and_several_prompts(node: NodeProcess) -> None:
    """Prompts x n choices in order of index; usage counts a shared prompt once."""
    one = complete(node, temperature=0, max_tokens=4)
    many = complete(node, prompt=[PROMPT, "The ring"], n=2, temperature=0, max_tokens=4)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    texts = [choice.text for choice in many.choices]
    assert texts[0] == texts[1] == one.choices[0].text
    assert texts[2] == texts[3] == text(node, prompt="The ring", temperature=0, max_tokens=4)
    assert one.usage is not None
    assert many.usage is not None
    assert many.usage.completion_tokens == 16
    assert one.usage.prompt_tokens < many.usage.prompt_tokens < 3 * one.usage.prompt_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_stop(node: NodeProcess, stream: bool) -> None:
    """The text ends before the first stop string, inside a token and across two; the earliest of a list counts."""
    whole = complete(node, temperature=0, logprobs=0).choices[0]
    assert whole.logprobs is not None
    assert whole.logprobs.tokens is not None
    tokens = whole.logprobs.tokens
    assert "".join(tokens) == whole.text
    across = tokens[3][-1] + tokens[4][:2]
    for stop in (across, [whole.text[-2:], across], tokens[5].strip()[1:] or tokens[5]):
        ends = [whole.text.index(one) for one in ([stop] if isinstance(stop, str) else stop)]
        if stream:
            chunks = list(
                node.client().completions.create(
                    model="demo", prompt=PROMPT, temperature=0, max_tokens=12, stop=stop, stream=True
                )
            )
            found = "".join(chunk.choices[0].text for chunk in chunks)
            finish = chunks[-1].choices[0].finish_reason
        else:
            answer = complete(node, temperature=0, stop=stop).choices[0]
            found, finish = answer.text, answer.finish_reason
        assert (found, finish) == (whole.text[: min(ends)], "stop"), stop


def test_limits_of_tokens(node: NodeProcess) -> None:
    """max_tokens and max_completion_tokens end an answer with `length`; completions have 16 unless told."""
    for field in ("max_tokens", "max_completion_tokens"):
        asked: dict[str, Any] = {"model": "demo", "messages": QUESTION, "temperature": 0, field: 5}
        answer = node.client().chat.completions.create(**asked)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 5
    for body, count in (({}, 16), ({"max_tokens": 3}, 3), ({"max_completion_tokens": 4}, 4)):
        _, found = node.request(
            "POST", "/v1/completions", {"model": "demo", "prompt": PROMPT, "temperature": 0, **body}
        )
        assert found["usage"]["completion_tokens"] == count


def test_penalties_on_what_was_generated(node: NodeProcess, words: list[int], tokenizer: Tokenizer) -> None:
    """Presence and frequency penalty let the runner-up win once the best token was there; a small one does not."""
    start = tokenizer.prompt_ids(PROMPT)
    best = words[0]
    then = [*start, best]
    for second in words[1:]:
        lead_1 = logprob(node, best) - logprob(node, second)
        lead_2 = logprob(node, best, prompt=then) - logprob(node, second, prompt=then)
        if lead_1 - lead_2 > -0.9:  # so that it leads at first too, when it leads by 1 afterwards
            break
    else:
        pytest.fail("no two words whose order does not change")
    bias = {str(best): LIFT + 1 - lead_2, str(second): LIFT}
    asked: dict[str, Any] = {"logit_bias": bias, "temperature": 0, "max_tokens": 2}
    once, other = (tokenizer.decode([token], after=start) for token in (best, second))
    assert text(node, **asked) == once + once
    for penalty in ("presence_penalty", "frequency_penalty"):
        assert text(node, **asked, **{penalty: 0.9}) == once + once
        assert text(node, **asked, **{penalty: 1.1}) == once + other


def test_frequency_penalty_grows_and_presence_penalty_does_not(node: NodeProcess, words: list[int]) -> None:
    """A token that leads by far falls behind only where each of its appearances counts."""
    asked: dict[str, Any] = {
        "logit_bias": {str(words[4]): 100, str(words[7]): 70}, "temperature": 0, "max_tokens": 40,
    }  # fmt: skip
    assert text(node, **asked, presence_penalty=2) == " computer" * 40
    found = text(node, **asked, frequency_penalty=2)
    assert found.startswith(" computer" * 3)
    assert " ring" in found


def test_repetition_penalty_counts_the_prompt(node: NodeProcess, words: list[int], tokenizer: Tokenizer) -> None:
    """A token of the prompt that would win loses to one that was not there."""
    there, absent = words[4], words[7]
    prompt = [*tokenizer.prompt_ids(PROMPT), there]
    lead = logprob(node, there, prompt=prompt) - logprob(node, absent, prompt=prompt)
    bias = {str(there): LIFT + 1 - lead, str(absent): LIFT}
    asked: dict[str, Any] = {"prompt": prompt, "logit_bias": bias, "temperature": 0, "max_tokens": 1}
    assert text(node, **asked) == " computer"
    assert text(node, **asked, repetition_penalty=2) == " ring"


def test_logprobs_of_a_chat(node: NodeProcess) -> None:
    """Greedy: the chosen token leads its list, lists fall, sum to at most 1, and the bytes are the text's."""
    answer = chat(node, temperature=0, logprobs=True, top_logprobs=20).choices[0]
    assert answer.logprobs is not None
    content = answer.logprobs.content
    assert content is not None
    assert len(content) == 12
    for one in content:
        values = [top.logprob for top in one.top_logprobs]
        assert len(values) == 20
        assert values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) <= 1 + 1e-5
        assert (one.token, one.logprob) == (one.top_logprobs[0].token, values[0])
    assert b"".join(bytes(one.bytes or []) for one in content).decode() == answer.message.content
    bare = chat(node, temperature=0, logprobs=True).choices[0].logprobs
    assert bare is not None
    assert [(one.token, one.top_logprobs) for one in bare.content or []] == [(one.token, []) for one in content]
    assert chat(node, temperature=0).choices[0].logprobs is None


def test_logprobs_of_a_completion(node: NodeProcess) -> None:
    """Tokens, offsets into the text, and the likeliest five of each place."""
    answer = complete(node, temperature=0, logprobs=5).choices[0]
    logprobs = answer.logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.text_offset is not None
    assert logprobs.top_logprobs is not None
    assert logprobs.token_logprobs is not None
    for token, at, top, value in zip(
        logprobs.tokens, logprobs.text_offset, logprobs.top_logprobs, logprobs.token_logprobs, strict=True
    ):
        assert answer.text[at:].startswith(token)
        assert top[token] == value == max(top.values())


def test_a_stream_says_what_a_plain_answer_says(node: NodeProcess) -> None:
    """At a heat where byte tokens come up in every order: no chunk holds half a character, and the sum is the same."""
    hot: dict[str, Any] = {"model": "demo", "messages": QUESTION, "temperature": 2, "seed": 3, "max_tokens": 150}
    plain = node.client().chat.completions.create(**hot)
    chunks = list(node.client().chat.completions.create(**hot, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == plain.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == plain.choices[0].finish_reason
    assert chunks[-1].usage == plain.usage


def test_the_context_is_used_to_its_last_token(node: NodeProcess, words: list[int]) -> None:
    """One token of room gives one; none is a 400 with both numbers; a limit beyond the context ends with it."""
    (card,) = [one for one in node.request("GET", "/v1/models")[1]["data"] if one["id"] == "demo"]
    context = card["context_length"]
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 10_000, "logit_bias": {str(words[0]): 100}}
    for room in (1, 3):
        answer = complete(node, prompt=[words[0]] * (context - room), **asked)
        assert answer.usage is not None
        assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", room)
    with pytest.raises(openai.BadRequestError, match=rf"{context} tokens.*{context}") as caught:
        complete(node, prompt=[words[0]] * context, **asked)
    assert caught.value.code == "context_length_exceeded"
