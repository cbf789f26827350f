"""A prompt given back: its tokens with probabilities and places, once, before anything else."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from exo_node.errors import RingBroken
from exo_node.models.tokenizer import Tokenizer
from exo_node.ring.prompt_echo import PromptEcho
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.types import GenerationRequest, TokenDelta
from tests.tiny_models import write_byte_level, write_metaspace


def told(*values: float) -> ring_pb2.GenerateDelta:
    entries = [ring_pb2.TokenLogprobs(logprob=value, top_ids=[9], top_logprobs=[-0.5]) for value in values]
    return ring_pb2.GenerateDelta(prompt_logprobs=entries)


@pytest.mark.parametrize("write", [write_byte_level, write_metaspace])
def test_offsets_lie_in_the_text(write: object, tmp_path: Path) -> None:
    """Each token begins where the text before it ends; BOS has no text, half a character begins where it will be."""
    tokenizer = Tokenizer.load(write(tmp_path))  # type: ignore[operator]
    text = "There was 你 ring"
    ids = tokenizer.prompt_ids(text)
    request = GenerationRequest(request_id="r", model="m", prompt=text, echo=True, prompt_logprobs=1)
    echo = PromptEcho(request, tokenizer, ids)
    half = (len(ids) - 1) // 2
    echo.hear(told(*[-1.0] * half))
    echo.hear(told(*[-2.0] * (len(ids) - 1 - half)))
    first, second = echo.ahead(TokenDelta("!")), echo.ahead(TokenDelta("?"))
    assert (first.echo, first.text, second) == (text, "!", TokenDelta("?"))
    assert echo.length == len(text)
    assert [one.token_id for one in first.echoed] == ids
    assert math.isnan(first.echoed[0].logprob)
    assert [one.logprob for one in first.echoed[1:]] == [-1.0] * half + [-2.0] * (len(ids) - 1 - half)
    for at, one in enumerate(first.echoed):
        assert one.offset == len(tokenizer.decode(ids[:at]).rstrip("\ufffd"))
    assert text[first.echoed[-1].offset :] == tokenizer.token_text(ids[-1])


def test_ids_have_a_text_and_a_gap_is_an_error(tmp_path: Path) -> None:
    """Token ids are shown as the text that they stand for; a head that tells too little is broken."""
    tokenizer = Tokenizer.load(write_byte_level(tmp_path))
    ids = tuple(tokenizer.prompt_ids("a ring"))
    plain = GenerationRequest(request_id="r", model="m", prompt=ids, echo=True)
    assert PromptEcho(plain, tokenizer, ids).ahead(TokenDelta()) == TokenDelta(echo="a ring")
    quiet = GenerationRequest(request_id="r", model="m", prompt=ids)
    assert PromptEcho(quiet, tokenizer, ids).ahead(TokenDelta("x")) == TokenDelta("x")
    scored = GenerationRequest(request_id="r", model="m", prompt=ids, prompt_logprobs=0)
    with pytest.raises(RingBroken, match=f"told of 0 of {len(ids) - 1} tokens"):
        PromptEcho(scored, tokenizer, ids).ahead(TokenDelta())
