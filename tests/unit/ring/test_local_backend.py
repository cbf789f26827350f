"""ring/local_backend.py: one request's way from text to ids to the head and back to text, with a scripted head."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from exo_node.errors import ContextLengthExceeded, DeadlineExceeded, InvalidRequest, NoCapacity, RingBroken
from exo_node.models.tokenizer import Tokenizer
from exo_node.ring.library import LoadedTokenizer
from exo_node.ring.local_backend import BackendDefaults, LocalBackend
from exo_node.ring.recovering import Recovered
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.types import GenerationRequest, Grammar, Instance, ModelCard, SamplingParams, TokenDelta, Usage
from tests.tiny_models import with_marks, write_byte_level

STORIES = Path(__file__).resolve().parents[4] / "shared" / "models" / "stories260K"
pytestmark = pytest.mark.skipif(not STORIES.is_dir(), reason="the folder ../shared/models/stories260K is not here")
ONCE = [403, 407, 261, 378]  # "Once upon a time"


class ScriptedHead:
    """A head that sends given deltas and remembers what it was asked."""

    def __init__(self, deltas: Sequence[ring_pb2.GenerateDelta]) -> None:
        self.deltas = deltas
        self.asked: list[ring_pb2.GenerateRequest] = []
        self.closed = 0

    async def generate(self, request: ring_pb2.GenerateRequest) -> AsyncGenerator[ring_pb2.GenerateDelta, None]:
        self.asked.append(request)
        try:
            for delta in self.deltas:
                yield delta
        finally:
            self.closed += 1


class OneInstance:
    """A cluster with one ready instance."""

    def __init__(self, head: ScriptedHead, *, context: int = 512, defaults: dict[str, float] | None = None) -> None:
        self.head = head
        self.loaded = LoadedTokenizer(Tokenizer.load(STORIES), defaults or {})
        self.instance = Instance(
            instance_id="i",
            model_id="m",
            digest="d",
            assignments=(),
            addresses=(),
            coordinator="",
            epoch=1,
            context=context,
            slots=1,
            state="ready",
        )
        self.gone = False

    async def ready_instance(self, model: str) -> Instance:
        return self.instance

    async def tokenizer(self, instance: Instance) -> LoadedTokenizer:
        return self.loaded

    def client(self, instance: Instance) -> Any:
        return self.head

    def models(self) -> list[ModelCard]:
        return []

    async def recover(self, instance: Instance) -> Recovered:
        self.gone = True
        raise NoCapacity("nobody is left")


def deltas(ids: Sequence[int], finish: str = "length", said: int = 0) -> list[ring_pb2.GenerateDelta]:
    """What a head sends that was asked to go on after `said` tokens of its answer."""
    made = [ring_pb2.GenerateDelta(index=index, ids=[token]) for index, token in enumerate(ids, said)]
    return [*made, ring_pb2.GenerateDelta(index=said + len(ids), finish_reason=finish)]


def backend(instances: OneInstance, **defaults: Any) -> LocalBackend:
    values: dict[str, Any] = {"max_generate_tokens": 100, "temperature": None, "system_prompt": None, **defaults}
    return LocalBackend(instances, BackendDefaults(**values))


def request(**fields: Any) -> GenerationRequest:
    return GenerationRequest(**{"request_id": "r", "model": "m", "prompt": "", **fields})


async def collect(one: LocalBackend, asked: GenerationRequest) -> list[TokenDelta]:
    return [delta async for delta in one.generate(asked)]


async def test_text_and_usage_of_a_whole_answer() -> None:
    """Deltas join to the decoded text; the last one has the reason and the usage."""
    found = await collect(backend(OneInstance(ScriptedHead(deltas(ONCE)))), request())
    assert "".join(delta.text for delta in found) == "Once upon a time"
    assert found[-1].finish_reason == "length"
    assert found[-1].usage is not None
    assert (found[-1].usage.prompt_tokens, found[-1].usage.completion_tokens) == (1, 4)


async def test_stop_string_ends_the_answer_and_cancels_the_head() -> None:
    """A stop string across token borders: the text ends before it, the reason is stop, the head's stream is closed."""
    head = ScriptedHead(deltas(ONCE))
    found = await collect(backend(OneInstance(head)), request(stop=("pon a",)))
    assert "".join(delta.text for delta in found) == "Once u"
    assert found[-1].finish_reason == "stop"
    assert head.closed == 1


async def test_the_head_is_asked_for_what_the_request_says() -> None:
    """Sampling, seed, stop ids and the room that the context leaves reach the head."""
    head = ScriptedHead(deltas(ONCE))
    instances = OneInstance(head, context=20)
    sampling = SamplingParams(temperature=0.5, top_k=7, logit_bias={3: -1.0}, top_logprobs=None)
    asked = request(sampling=sampling, sampling_given=frozenset({"temperature"}), seed=11, max_tokens=500)
    await collect(backend(instances), asked)
    sent = head.asked[0]
    assert list(sent.prompt_ids) == [1]
    assert sent.max_tokens == 19
    assert (sent.sampling.temperature, sent.sampling.top_k, sent.sampling.seed) == (0.5, 7, 11)
    assert dict(sent.sampling.logit_bias) == {3: -1.0}
    assert set(sent.stop_ids) >= {2}


@pytest.mark.parametrize(
    ("model_default", "node_default", "given", "expected"),
    [(0.25, 0.75, True, 1.0), (0.25, 0.75, False, 0.25), (None, 0.75, False, 0.75), (None, None, False, 1.0)],
)
async def test_temperature_comes_from_request_then_model_then_node(
    model_default: float | None, node_default: float | None, given: bool, expected: float
) -> None:
    """FEATURES, "Defaults": the request's, else the model's generation_config.json, else the configured one."""
    head = ScriptedHead(deltas(ONCE))
    defaults = {} if model_default is None else {"temperature": model_default}
    asked = request(sampling_given=frozenset({"temperature"}) if given else frozenset())
    await collect(backend(OneInstance(head, defaults=defaults), temperature=node_default), asked)
    assert head.asked[0].sampling.temperature == expected


async def test_a_long_prompt_is_refused_with_both_numbers() -> None:
    """A prompt over the context is a 400 with the field, what it has and what there is; nothing reaches the head."""
    head = ScriptedHead(())
    one = backend(OneInstance(head, context=16))
    with pytest.raises(ContextLengthExceeded, match=r"16 tokens.*prompt has 16") as caught:
        await collect(one, request(prompt=tuple([5] * 16)))
    assert caught.value.param == "prompt"
    with pytest.raises(ContextLengthExceeded, match="at least"):
        await collect(one, request(prompt="x" * 10_000_000))
    assert head.asked == []


async def test_unknown_ids_are_refused() -> None:
    """A logit_bias on a token that the model does not have is the caller's mistake."""
    asked = request(sampling=SamplingParams(logit_bias={512: 1.0}))
    with pytest.raises(InvalidRequest, match="512") as caught:
        await collect(backend(OneInstance(ScriptedHead(()))), asked)
    assert caught.value.param == "logit_bias"


async def test_a_gap_or_an_early_end_is_a_failure_never_a_success() -> None:
    """A delta whose index is not the next, or a stream without finish reason: the ring is to be brought back, and where
    it cannot be, both reasons are told."""
    for broken in ([ring_pb2.GenerateDelta(index=1, ids=[5])], deltas(ONCE)[:-1]):
        instances = OneInstance(ScriptedHead(broken))
        with pytest.raises(RingBroken, match="cannot be brought back: nobody is left"):
            await collect(backend(instances), request())
        assert instances.gone


async def test_logprobs_travel_with_their_tokens() -> None:
    """Each token carries its log-probability and alternatives as text and bytes."""
    entry = ring_pb2.TokenLogprobs(logprob=-0.5, top_ids=[403, 5], top_logprobs=[-0.5, -2.0])
    made = [ring_pb2.GenerateDelta(index=0, ids=[403], logprobs=[entry], finish_reason="length")]
    found = await collect(backend(OneInstance(ScriptedHead(made))), request())
    logprobs = [one for delta in found for one in delta.logprobs]
    assert [one.token_id for one in logprobs] == [403]
    assert [alternative[2] for alternative in logprobs[0].top] == [-0.5, -2.0]


async def test_system_prompt_of_the_node_is_added_once() -> None:
    """`--system-prompt` goes before a chat that has no system message of its own."""
    head = ScriptedHead(deltas(ONCE))
    instances = OneInstance(head)
    one = backend(instances, system_prompt="Be brief. ")
    await collect(one, request(prompt=None, messages=({"role": "user", "content": "Hi"},)))
    mine = {"role": "system", "content": "Mine. "}
    await collect(one, request(prompt=None, messages=(mine, {"role": "user", "content": "Hi"})))
    decode = instances.loaded.tokenizer.decode
    assert [decode(asked.prompt_ids) for asked in head.asked] == ["Be brief. Hi", "Mine. Hi"]


async def test_a_model_that_is_not_ready_in_time_is_a_deadline() -> None:
    """`timeout_s` also covers placing the model."""

    class Slow(OneInstance):
        async def ready_instance(self, model: str) -> Instance:
            import asyncio

            await asyncio.Event().wait()
            raise AssertionError

    with pytest.raises(DeadlineExceeded):
        await collect(backend(Slow(ScriptedHead(()))), request(timeout_s=0.01))


async def test_an_answer_cut_anywhere_goes_on_with_the_same_text() -> None:
    """With the ids of the part that the caller has, the head is asked for the rest and the text joins without a seam,
    also inside a word and after a prompt; only new tokens are counted."""
    tokenizer = OneInstance(ScriptedHead(())).loaded.tokenizer
    ids = tokenizer.encode("Once upon a time, there was a caf\u00e9.", add_special_tokens=False)
    for fields in ({"prompt": "Tom said: "}, {"prompt": None, "messages": ({"role": "user", "content": "Hi"},)}):
        first = ScriptedHead(deltas(ids))
        whole = await collect(backend(OneInstance(first)), request(**fields))
        text = "".join(delta.text for delta in whole)
        assert whole[-1].usage is not None
        for cut in range(len(ids)):
            had = "".join(delta.text for delta in whole[:cut])
            given = tuple(token for delta in whole[:cut] for token in delta.token_ids)
            head = ScriptedHead(deltas(ids[len(given) :], said=len(given)))
            asked = request(**fields, prefix=had, prefix_ids=given)
            rest = await collect(backend(OneInstance(head)), asked)
            assert had + "".join(delta.text for delta in rest) == text
            assert list(head.asked[0].prompt_ids) == list(first.asked[0].prompt_ids)
            assert tuple(head.asked[0].generated_ids) == given
            assert head.asked[0].max_tokens == first.asked[0].max_tokens
            assert rest[-1].usage is not None
            assert rest[-1].usage.prompt_tokens == whole[-1].usage.prompt_tokens
            assert rest[-1].usage.completion_tokens == len(ids) - len(given)


async def test_a_grammar_covers_the_part_that_is_there() -> None:
    """The head is told which of the prompt's ids are the answer's (a request's own), and what was generated."""
    grammar = Grammar("regex", "Once.*", "guided_regex")
    for fields, begun in (({"prefix_ids": ONCE[:2]}, 0), ({"prefix": "Once upon", "prefilled": 9}, 2)):
        head = ScriptedHead(deltas(ONCE, said=2 - begun))
        await collect(backend(OneInstance(head)), request(prompt="Tom said:", grammar=grammar, **fields))
        asked = head.asked[0]
        assert asked.grammar == ring_pb2.Grammar(kind="regex", text="Once.*", field="guided_regex", begun=begun)
        assert [*asked.prompt_ids, *asked.generated_ids][-2:] == ONCE[:2]
        assert len(asked.generated_ids) == 2 - begun
    head = ScriptedHead(deltas(ONCE))
    await collect(backend(OneInstance(head)), request(prompt="Tom said:"))
    assert not head.asked[0].HasField("grammar")


async def test_a_prefix_without_ids_or_with_others_is_tokenized() -> None:
    """Text of another backend, or ids that are not that text's (a stop string was held back): the text counts."""
    for given in ((), (403,)):
        head = ScriptedHead(deltas(ONCE[2:], said=2))
        await collect(backend(OneInstance(head)), request(prefix="Once upon", prefix_ids=given))
        tokenizer = OneInstance(head).loaded.tokenizer
        assert tokenizer.decode(list(head.asked[0].generated_ids)) == "Once upon"


@pytest.mark.parametrize(("prefilled", "counted"), [(0, 0), (4, 1), (9, 2)])
async def test_the_requests_own_part_of_a_prefix_is_prompt(prefilled: int, counted: int) -> None:
    """Usage counts it so; what another backend had already said is its answer, which is counted there."""
    head = ScriptedHead(deltas(ONCE[2:], said=2 - counted))
    rest = await collect(backend(OneInstance(head)), request(prefix="Once upon", prefilled=prefilled))
    usage = rest[-1].usage
    assert usage is not None
    assert usage.prompt_tokens == len(head.asked[0].prompt_ids)
    assert len(head.asked[0].generated_ids) == 2 - counted


async def test_a_prefix_that_does_not_fit_is_refused() -> None:
    """Prompt and prefix share the context; ids must be the model's."""
    one = backend(OneInstance(ScriptedHead(()), context=16))
    with pytest.raises(ContextLengthExceeded):
        await collect(one, request(prompt=(5, 5), prefix_ids=(5,) * 14))
    with pytest.raises(InvalidRequest, match="prefix_ids"):
        await collect(one, request(prompt=(5,), prefix_ids=(100_000,)))


async def test_counting_a_prompts_tokens() -> None:
    """What `generate` would send to the head, also where that is too long; nothing is generated."""
    instances = OneInstance(ScriptedHead([]), context=8)
    counting = backend(instances)
    assert await counting.count_tokens(GenerationRequest(request_id="r", model="m", prompt="Once upon a time")) == 5
    long = GenerationRequest(request_id="r", model="m", prompt="Once upon a time " * 9, prefix="Once upon")
    assert await counting.count_tokens(long) > 30
    endless = request(messages=({"role": "user", "content": [{"type": "text", "text": "a" * 4_000_001}]},))
    for ask in (counting.count_tokens, counting.encode):
        with pytest.raises(InvalidRequest, match="messages: 4000001 characters"):
            await ask(endless)
    assert instances.head.asked == []


async def test_a_prompt_as_the_model_reads_it() -> None:
    """Its ids and their text, markers included."""
    ids, text = await backend(OneInstance(ScriptedHead([]))).encode(request(prompt="Once upon a time"))
    assert ids == [1, *ONCE]
    assert text.endswith("Once upon a time")
    assert text.startswith("<s>")


async def test_an_answer_without_an_end() -> None:
    """ignore_eos bans the ends of text, beside the request's own biases."""
    head = ScriptedHead(deltas(ONCE))
    await collect(backend(OneInstance(head)), request(ignore_eos=True, sampling=SamplingParams(logit_bias={5: 1.0})))
    assert dict(head.asked[0].sampling.logit_bias) == {1: -1e9, 2: -1e9, 5: 1.0}


def scored(ids: Sequence[int], *values: float) -> list[ring_pb2.GenerateDelta]:
    entries = [ring_pb2.TokenLogprobs(logprob=value) for value in values]
    return [ring_pb2.GenerateDelta(ids=ids, logprobs=entries, finish_reason="stop")]


async def test_the_mean_logprob_counts_the_end_too() -> None:
    """What best_of chooses by: every token drawn, the end of the text among them."""
    head = ScriptedHead(scored([403, 407, 2], -1.0, -2.0, -6.0))
    found = await collect(backend(OneInstance(head)), request(sampling=SamplingParams(top_logprobs=0)))
    assert found[-1].mean_logprob == -3.0
    assert [one.logprob for delta in found for one in delta.logprobs] == [-1.0, -2.0]


async def test_a_prompt_alone_is_given_back_without_the_head() -> None:
    """echo and max_tokens 0: its text and its tokens' number; the whole context may be prompt."""
    head = ScriptedHead([])
    one = backend(OneInstance(head, context=5))
    (delta,) = await collect(one, request(prompt="Once upon a time", echo=True, max_tokens=0))
    assert (delta.echo, delta.finish_reason, delta.usage) == ("Once upon a time", "length", Usage(5, 0))
    assert head.asked == []


async def test_a_scored_prompt_comes_with_the_first_delta() -> None:
    """The head is asked for the prompt's logprobs; they come back as tokens before the answer."""
    told = ring_pb2.GenerateDelta(prompt_logprobs=[ring_pb2.TokenLogprobs(logprob=-0.5)] * 4)
    head = ScriptedHead([told, *deltas(ONCE)])
    found = await collect(backend(OneInstance(head)), request(prompt="Once upon a time", echo=True, prompt_logprobs=2))
    assert head.asked[0].prompt_logprobs == 2
    assert (found[0].echo, [one.logprob for one in found[0].echoed[1:]]) == ("Once upon a time", [-0.5] * 4)
    assert not any(delta.echo or delta.echoed for delta in found[1:])
    assert found[-1].usage == Usage(5, 4)


async def test_a_suffix_stands_in_the_prompt_and_its_marks_end_the_answer(tmp_path: Path) -> None:
    """The prompt is made of both texts; a mark that the model writes is an end, and no text."""
    marks = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>")
    tokenizer = Tokenizer.load(with_marks(write_byte_level(tmp_path / "plain"), tmp_path / "fim", *marks))
    pre, suf, mid, end = (tokenizer.encode(mark, add_special_tokens=False)[0] for mark in marks)
    inside = tokenizer.encode("(x)", add_special_tokens=False)
    head = ScriptedHead(deltas([*inside, end], finish="stop"))
    instances = OneInstance(head)
    instances.loaded = LoadedTokenizer(tokenizer, {})
    found = await collect(backend(instances), request(prompt="def step", suffix=": return x"))
    before, after = (tokenizer.encode(text, add_special_tokens=False) for text in ("def step", ": return x"))
    assert list(head.asked[0].prompt_ids) == [tokenizer.bos_id, pre, *before, suf, *after, mid]
    assert set(head.asked[0].stop_ids) >= {pre, suf, mid, end, *tokenizer.eos_ids}
    assert "".join(delta.text for delta in found) == "(x)"
