"""What comes with a model or out of one: headers, configurations, chat templates, answers with calls; and streams."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import orjson
from hypothesis import strategies as st

from exo_node.api.messages import parse_messages
from exo_node.errors import InvalidRequest
from exo_node.models.chat_template import ChatTemplate, read_template
from exo_node.models.headers import canonical_name, read_entries
from exo_node.models.spec import read_spec
from exo_node.models.template_sandbox import TemplateSandbox
from exo_node.models.toolformats import deepseek, gemma, harmony, hermes, llama, mistral, phi
from exo_node.models.toolformats.base import Options, Parser
from exo_node.models.toolformats.thoughts import KNOWN, ThoughtSplitter
from exo_node.routing.call import Call, UpstreamError
from exo_node.routing.upstream.sse_reader import SSEReader
from exo_node.routing.upstream.transcript import Transcript
from exo_node.routing.upstream.wire_errors import error_from_event, error_from_response
from exo_node.types import ToolUse
from tests.chat_templates import TEMPLATES
from tests.fuzz.cases import ROOT, Finding, Target
from tests.fuzz.inputs import TEXTS, anything, as_json, broken, broken_text, mutated

# ---- safetensors and configurations --------------------------------------------------------------------------------

CONFIG = json.loads((ROOT / "exo_node" / "models" / "demo" / "config.json").read_text())
TINY = {
    **CONFIG, "num_hidden_layers": 1, "hidden_size": 2, "intermediate_size": 2, "vocab_size": 3, "head_dim": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1,
}  # fmt: skip
_LAYER = {
    "self_attn.q_proj": [2, 2], "self_attn.k_proj": [1, 2], "self_attn.v_proj": [1, 2], "self_attn.o_proj": [2, 2],
    "mlp.gate_proj": [2, 2], "mlp.up_proj": [2, 2], "mlp.down_proj": [2, 2], "input_layernorm": [2],
    "post_attention_layernorm": [2],
}  # fmt: skip
SHAPES = {"model.embed_tokens.weight": [3, 2], "model.norm.weight": [2], "lm_head.weight": [3, 2]} | {
    f"model.layers.0.{name}.weight": shape for name, shape in _LAYER.items()
}


def _header() -> dict[str, Any]:
    out: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in SHAPES.items():
        begin, end = end, end + 4 * math.prod(shape)
        out[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    return out


HEADER = _header()
DATA = bytes(max(one["data_offsets"][1] for one in HEADER.values() if "data_offsets" in one))


def _file(header: bytes, data: bytes = DATA, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="exo-fuzz-") as name:
        folder = Path(name)
        (folder / "tokenizer.json").write_text("{}")
        yield folder


Model = tuple[bytes, bytes, bytes]  # model.safetensors, config.json, the index ("": none)


def _models(example: Any, random: Random) -> Iterator[Model]:
    config, sound = as_json(TINY), as_json(HEADER)
    index = as_json({"weight_map": dict.fromkeys(SHAPES, "a.safetensors")})
    yield _file(sound), config, b""
    yield _file(sound), config, index
    yield _file(as_json(example)), config, b""
    yield _file(sound), as_json({**TINY, **example} if isinstance(example, dict) else example), b""
    while True:
        match random.randrange(8):
            case 0:
                yield broken(_file(sound), random), config, b""
            case 1:
                length = random.choice((0, 1, 2, 7, 2**31, 2**32, 2**63, 2**64 - 1, 100_000_000, len(sound) + 1))
                yield _file(sound, length=length), config, b""
            case 2:
                yield _file(sound), as_json(mutated(TINY, random, 3)), b""
            case 3:
                yield _file(sound), config, as_json(mutated(json.loads(index), random, 2))
            case 4:
                yield _file(broken(sound, random)), broken(config, random), b""
            case 5:
                yield _file(sound, broken(DATA, random)), config, b""
            case _:
                yield _file(as_json(mutated(HEADER, random, 3))), config, b""


def _model(folder: Path, case: Model) -> None:
    weights, config, index = case
    (folder / "config.json").write_bytes(config)
    single, listed = folder / "model.safetensors", folder / "model.safetensors.index.json"
    for path in (single, listed):
        path.unlink(missing_ok=True)
    if index:
        listed.write_bytes(index)
        (folder / "a.safetensors").write_bytes(weights)
    else:
        single.write_bytes(weights)
    try:
        for name, entry in read_entries(folder).items():
            canonical_name(name)
            if entry.offset < 8 or entry.offset + entry.info.nbytes > len(weights):
                raise Finding("a tensor that lies beyond its file was let through")
    finally:
        read_spec(folder, "m")


# ---- chat templates ------------------------------------------------------------------------------------------------

CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "get", "arguments": '{"city": "a"}'}}
CHAT = [
    {"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "t"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "abcdefghi", "name": "get", "content": "5"}, {"role": "user", "content": "u"},
]  # fmt: skip
TOOLS = ({"type": "function", "function": {"name": "get", "parameters": {"type": "object", "properties": {}}}},)
# Ways to reach the interpreter, to take all memory or all time, to write what is no text.
NASTY = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.__init__.__globals__ }}", "{{ cycler.__init__ }}",
    "{{ namespace.__init__.__globals__ }}", "{{ lipsum.__globals__['os'].popen('id').read() }}", "{{ self.__dict__ }}",
    "{{ 'a' * 10**9 }}", "{{ [0] * 10**9 }}", "{{ 10 ** 10 ** 8 }}", "{% for i in range(10**9) %}a{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ '%1000000000d' % 1 }}", "{{ '{:>1000000000}'.format(1) }}",
    "{{ 'a'|center(1000000000) }}", "{{ messages|tojson(indent=1000000000) }}", "{{ 'a'.ljust(10**9) }}",
    "{{ messages|map('upper')|list }}", "{{ messages.append(1) }}", "{{ messages[0].update({'a': 1}) }}",
    "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{{ raise_exception('no') }}",
    "{{ raise_exception(messages) }}", "{{ strftime_now('%Y' * 100) }}", "{{ strftime_now('%\ud800') }}",
    "{{ strftime_now(5) }}", "{{ messages[99] }}", "{{ messages[0]['x']['y'] }}", "{{ 1/0 }}", "{{ 'a' + 1 }}",
    "{{ undefined.x.y }}", "{{ (1).__class__ }}", "{{ 'a'|attr('__class__') }}", "{{ messages|groupby('role')|list }}",
    "{{ dict(a=1)|xmlattr }}", "{{ 'a'|wordwrap(0) }}", "{{ 'abc'|batch(0)|list }}", "{{ range(5)|slice(0)|list }}",
    "{{ '(a+)+$'|replace('a', 'b') }}", "{{ 'x'|urlize }}", "{{ 5|filesizeformat }}", "{{ 'a'|indent(10**9) }}",
    "{{ ('a'*1000000)|replace('a', 'b'*1000000) }}", "{{ ([[]]*1000000)|sum(start=[])|length }}", "{{ loop.index }}",
    "{{ 1e400 }}", "{{ '\\ud800' }}", "{{ -" + "(" * 200 + "1" + ")" * 200 + " }}", "{{" + "[" * 300 + "]" * 300 + "}}",
    "{% if " + " and ".join(["messages"] * 500) + " %}a{% endif %}", "{{ '".join("x" * 99), "{% generation %}",
    "{{ tools|tojson(sort_keys=5) }}", "{{ messages|tojson(separators=5) }}", "{{ messages|random }}",
)  # fmt: skip
SOURCES = [source for source, _ in TEMPLATES.values()]


def _templates(example: Any, random: Random) -> Iterator[Any]:
    source, value = example
    yield source, CHAT
    while True:
        messages = random.choice((CHAT, mutated(CHAT, random, 3), value))
        match random.randrange(4):
            case 0:
                yield source, messages
            case 1:
                at = random.randrange(len(source) + 1)
                yield source[:at] + random.choice(NASTY) + source[at:], messages
            case _:
                yield broken_text(source, random), messages


@contextlib.contextmanager
def _sandbox() -> Iterator[TemplateSandbox]:
    """With less time for each template than a node gives it: many take all of it."""
    sandbox = TemplateSandbox(cpu_s=0.3)
    try:
        yield sandbox
    finally:
        sandbox.close()


def _template(sandbox: TemplateSandbox, case: Any) -> None:
    source, sent = case
    try:
        messages = parse_messages(sent)
    except InvalidRequest:
        messages = parse_messages(CHAT)
    template = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}, sandbox)
    for use in (None, ToolUse(tools=TOOLS)):
        text = template.render(messages, use=use)
        if len(text) > (1 << 20) + 8 * len(json.dumps([messages, TOOLS])) + 1000:
            raise Finding("a prompt far longer than its parts")
        if "<class '" in text or "builtin_function" in text:
            raise Finding("a template saw the interpreter's own")
    template.format.stage(text)


def _named(example: Any, random: Random) -> Iterator[Any]:
    """`tokenizer_config.json`'s forms of a template."""
    yield {"chat_template": example}
    while True:
        table = [{"name": "default", "template": "x"}, {"name": "tool_use", "template": "y"}]
        yield {"chat_template": random.choice((mutated(table, random), mutated({"default": "x", "a": "y"}, random)))}


def _named_read(folder: Path, config: Any) -> None:
    if isinstance(config, dict):
        read_template(folder, config, ("tool_use",))


# ---- answers: calls and thoughts -----------------------------------------------------------------------------------

FORMATS = (
    hermes.HERMES, llama.LLAMA, mistral.MISTRAL_LIST, mistral.MISTRAL_NAMED, phi.PHI, deepseek.DEEPSEEK_FENCED,
    deepseek.DEEPSEEK_PLAIN, gemma.FUNCTION_GEMMA, gemma.GEMMA4, harmony.HARMONY,
)  # fmt: skip
SCHEMAS = {"get": {"type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}}}
_WORDS = sorted({
    *(word for one in FORMATS for word in (*one.markers, one.frame.begin, one.frame.end, one.frame.after) if word),
    *(word for marks in KNOWN for word in (marks.open, marks.close)),
    *("get", "city", '"', "{", "}", "[", "]", ":", ",", "=", "(", ")", "\\", "\\u", "d8", "<escape>", "call:get", "\n"),
    '{"name": "get", "arguments": {"city": "a"}}', "get(city='a', n=1)", "```json\n", "<function=get>", "analysis",
    "to=",
})  # fmt: skip


def _answers(example: Any, random: Random) -> Iterator[Any]:
    which, words = example
    text = "".join(words)
    family = FORMATS[which]
    written = family.frame.write([("get", '{"city": "a\\u00e9", "n": 5}'), ("get", "{}")])
    yield which, text, 0
    yield which, written, 1
    while True:
        base = random.choice((text, written, text + written))
        yield which, broken_text(base, random), random.randrange(2**32)


def _feed(parser: Parser | ThoughtSplitter, pieces: list[str]) -> tuple[str, str, dict[int, str]]:
    out = [parser.feed(piece) for piece in pieces]
    out.append(parser.finish())
    calls: dict[int, str] = {}
    for one in (call for each in out for call in each.calls):
        calls[one.index] = calls.get(one.index, "") + (one.name or "") + one.arguments
    return "".join(one.text for one in out), "".join(one.reasoning for one in out), calls


def _answer(world: Any, case: Any) -> None:
    which, text, salt = case
    random = Random(salt)
    cuts = sorted(random.randrange(len(text) + 1) for _ in range(random.randrange(6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    options = Options(schemas=SCHEMAS, parallel=salt % 2 == 0, new_id=lambda: "call_1")
    whole = _feed(FORMATS[which].parser(options), [text])
    if _feed(FORMATS[which].parser(options), pieces) != whole:
        raise Finding(f"{FORMATS[which].name}: what comes out depends on how the text was cut")
    for marks in KNOWN:
        inside = bool(salt & 4)
        split = _feed(ThoughtSplitter(marks, inside=inside), [text])
        if split != _feed(ThoughtSplitter(marks, inside=inside), pieces):
            raise Finding("thoughts depend on how the text was cut")


# ---- streams of providers ------------------------------------------------------------------------------------------

_CHOICE = {"index": 0, "delta": {"role": "assistant", "content": "a"}, "finish_reason": None}
EVENT = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [_CHOICE]}
USAGE = {**EVENT, "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
ERROR = {"error": {"message": "m", "type": "t", "code": 429, "param": None, "details": [{"retryDelay": "5s"}]}}
HEADERS = {"retry-after": "5", "retry-after-ms": "100", "x-ratelimit-reset-requests": "1m5s", "Date": "x"}


def _streams(example: Any, random: Random) -> Iterator[Any]:
    yield b"data: " + as_json(example) + b"\n\n", 0
    while True:
        events = [random.choice((EVENT, EVENT, EVENT, USAGE, ERROR, example)) for _ in range(random.randrange(1, 12))]
        if random.random() < 0.5:
            events = [mutated(one, random) if random.random() < 0.3 else one for one in events]
        end = random.choice((b"\n\n", b"\r\n\r\n", b"\n"))
        data = b"".join(random.choice((b"data: ", b"data: ", b"data:", b": ", b"event: x\ndata: ")) + as_json(one) + end
                        for one in events) + random.choice((b"data: [DONE]\n\n", b""))  # fmt: skip
        yield (broken(data, random) if random.random() < 0.5 else data), random.randrange(2**32)


def _stream(world: Any, case: Any) -> None:
    data, salt = case
    random = Random(salt)
    read = []
    for cuts in ([], sorted(random.randrange(len(data) + 1) for _ in range(random.randrange(6)))):
        reader = SSEReader("p", ("sk-secret",))
        transcript = Transcript(
            Call(id="i", kind="chat", model="m", body={}, stream=True, deadline=1e12, prompt_tokens=1)
        )
        events: list[Any] = []
        for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True):
            batch = reader.feed(data[a:b]) if a < b else None
            for one in (batch,) if reader.over or b < len(data) else (batch, reader.end()):
                if one is not None:
                    events += one.events
                    with contextlib.suppress(UpstreamError):
                        transcript.take(one)
        read.append((events, reader.done, reader.failure is None))
    if read[0] != read[1]:
        raise Finding("what is read of a stream depends on how it was cut")


def _refusals(example: Any, random: Random) -> Iterator[Any]:
    yield 500, as_json(example), {}
    while True:
        body = random.choice((as_json(mutated(ERROR, random, 3)), broken(as_json(ERROR), random), as_json([example])))
        headers = {name: random.choice((value, random.choice(TEXTS))) for name, value in HEADERS.items()}
        yield random.choice((301, 400, 401, 404, 413, 429, 500, 503, 529, 600)), body, headers


def _refusal(world: Any, case: Any) -> None:
    status, body, headers = case
    error = error_from_response("p", status, headers, body, ("sk-secret",), now=1e9)
    if error.retry_after is not None and not 0 <= error.retry_after < 1e9:
        raise Finding("a time to wait that is none")
    with contextlib.suppress(ValueError):
        event = orjson.loads(body)  # as its callers do: it knows no integers beyond 64 bits
        if isinstance(event, dict):
            error_from_event("p", event, ("sk-secret",))


TARGETS = (
    Target(name="safetensors.files", share=100, example=anything, spread=_models, check=_model, each=20, world=_folder),
    Target(
        name="templates.templates",
        share=6,
        case_s=120,
        world=_sandbox,
        example=st.tuples(st.sampled_from([*SOURCES, *NASTY]), anything),
        spread=_templates,
        check=_template,
        each=8,
    ),
    Target(name="templates.named", share=10, example=anything, spread=_named, check=_named_read, world=_folder),
    Target(
        name="templates.calls",
        share=104,
        example=st.tuples(
            st.integers(0, len(FORMATS) - 1), st.lists(st.sampled_from(_WORDS) | st.text(max_size=4), max_size=12)
        ),
        spread=_answers,
        check=_answer,
        each=20,
    ),
    Target(name="templates.streams", share=40, example=anything, spread=_streams, check=_stream, each=20),
    Target(name="templates.refusals", share=20, example=anything, spread=_refusals, check=_refusal, each=20),
)
