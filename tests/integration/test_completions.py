"""/v1/completions of local models: prompts given back with their logprobs, the best of several; one node or three."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from exo_node.models.tokenizer import Tokenizer
from tests.checkpoints import reference_logits
from tests.integration.harness import NodeProcess
from tests.integration.shared_rings import DEMO, SharedRing, on_rings

pytestmark = [pytest.mark.reference, on_rings("mlx", "tinygrad-mlx-tinygrad")]
LONG = "Once upon a time there was a small ring of three machines. It said: 你好! " * 24  # longer than a prefill chunk


@pytest.fixture
def node(shared_ring: SharedRing) -> NodeProcess:
    """The last node of a cluster that holds the demo model over all its nodes."""
    shared_ring.place("demo")
    return shared_ring.cluster[-1]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(DEMO)


def complete(node: NodeProcess, **fields: Any) -> Any:
    status, answer = node.request("POST", "/v1/completions", {"model": "demo", **fields})
    assert status == 200, answer
    return answer


def log_softmax(ids: list[int]) -> npt.NDArray[np.float64]:
    """transformers' distributions after each of the ids."""
    wide = reference_logits(DEMO, ids).astype(np.float64)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=1, keepdims=True)))


def test_prompt_logprobs_are_transformers(node: NodeProcess, tokenizer: Tokenizer) -> None:
    """Scoring (echo, max_tokens 0): every token of a prompt of several chunks, to 1e-4; offsets lie in the text."""
    ids = tokenizer.prompt_ids(LONG)
    assert len(ids) > 512
    answer = complete(node, prompt=LONG, echo=True, logprobs=2, max_tokens=0)
    (choice,) = answer["choices"]
    told = choice["logprobs"]
    assert (choice["text"], choice["finish_reason"]) == (LONG, "length")
    assert told["tokens"] == [tokenizer.token_text(one) for one in ids]
    assert (told["token_logprobs"][0], told["top_logprobs"][0]) == (None, None)
    exact = log_softmax(ids)[:-1]
    np.testing.assert_allclose(told["token_logprobs"][1:], exact[np.arange(len(exact)), ids[1:]], atol=1e-4)
    for row, top in zip(exact, told["top_logprobs"][1:], strict=True):
        assert max(top.values()) == pytest.approx(row.max(), abs=1e-4)
    for token, offset in zip(told["tokens"][1:], told["text_offset"][1:], strict=True):
        if "\ufffd" not in token:
            assert LONG[offset : offset + len(token)] == token
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (len(ids), 0, len(ids))


def test_the_answers_logprobs_follow_the_prompts(node: NodeProcess, tokenizer: Tokenizer) -> None:
    """One list for both, the same whole and streamed, for text and for its ids; n answers each have the prompt."""
    prompt = "There are two"
    ids = tokenizer.prompt_ids(prompt)
    asked = {"echo": True, "logprobs": 1, "max_tokens": 4, "temperature": 0, "logit_bias": _no_end(tokenizer)}
    whole = complete(node, prompt=prompt, n=2, **asked)
    assert [choice["index"] for choice in whole["choices"]] == [0, 1]
    first, second = whole["choices"]
    assert first["text"] == second["text"]
    assert len(first["logprobs"]["tokens"]) == len(ids) + 4
    answer_ids = [*ids, *tokenizer.encode(first["text"].removeprefix(prompt), add_special_tokens=False)]
    exact = log_softmax(answer_ids)
    wanted = exact[np.arange(len(answer_ids) - 1), answer_ids[1:]]
    np.testing.assert_allclose(first["logprobs"]["token_logprobs"][1:], wanted, atol=1e-4)
    by_ids = complete(node, prompt=ids, **asked)["choices"][0]
    assert (by_ids["text"], by_ids["logprobs"]["tokens"]) == (first["text"], first["logprobs"]["tokens"])
    stream = node.client().completions.create(model="demo", prompt=prompt, stream=True, **asked)  # type: ignore[call-overload]
    pieces = [chunk.choices[0] for chunk in stream]
    assert "".join(piece.text for piece in pieces) == first["text"]
    told = [piece.logprobs for piece in pieces if piece.logprobs]
    assert [token for one in told for token in one.tokens] == first["logprobs"]["tokens"]
    assert [offset for one in told for offset in one.text_offset] == first["logprobs"]["text_offset"]
    answer = [*zip(first["logprobs"]["tokens"], first["logprobs"]["text_offset"], strict=True)][len(ids) :]
    assert all(first["text"].startswith(token, offset) for token, offset in answer)
    special = complete(node, prompt="", logprobs=0, max_tokens=3, temperature=0)["choices"][0]  # no text of its own
    assert (special["logprobs"]["tokens"][0], special["logprobs"]["text_offset"]) == ("<|user|>", [0, 0, 1])


def test_best_of_shows_the_likeliest(node: NodeProcess, tokenizer: Tokenizer) -> None:
    """Of the same four draws those with the highest mean logprob, in that order; usage counts all four."""
    asked = {"prompt": "There are", "seed": 3, "max_tokens": 6, "logit_bias": _no_end(tokenizer)}
    four = complete(node, n=4, logprobs=0, **asked)["choices"]
    ranked = sorted(four, key=lambda one: -np.mean(one["logprobs"]["token_logprobs"]))
    best = complete(node, n=2, best_of=4, **asked)
    assert [one["text"] for one in best["choices"]] == [one["text"] for one in ranked[:2]]
    assert [(one["index"], one["logprobs"]) for one in best["choices"]] == [(0, None), (1, None)]
    assert best["usage"]["completion_tokens"] == 24


def test_an_echo_alone_needs_no_ring(node: NodeProcess) -> None:
    """echo with max_tokens 0 and no logprobs gives the prompt and its tokens' number."""
    answer = complete(node, prompt=["one", "two words"], echo=True, max_tokens=0)
    assert [one["text"] for one in answer["choices"]] == ["one", "two words"]
    assert answer["usage"]["completion_tokens"] == 0


def test_refusals_name_the_field(node: NodeProcess) -> None:
    """A model without marks for it fills no middle; nothing is asked for by no tokens; the best cannot be streamed."""
    for fields, param in (
        ({"suffix": "the end"}, "suffix"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"best_of": 2, "stream": True}, "best_of"),
    ):
        status, answer = node.request("POST", "/v1/completions", {"model": "demo", "prompt": "Hi", **fields})
        assert (status, answer["error"]["param"]) == (400, param)


def _no_end(tokenizer: Tokenizer) -> dict[str, int]:
    """A bias that keeps answers from ending, so that they all have the same number of tokens."""
    return {str(one): -100 for one in tokenizer.eos_ids}
