"""Chat templates render as transformers renders them; refusals are 400s that say why; a template is kept in its box."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from exo_node.errors import CheckpointError, InvalidRequest
from exo_node.models.chat_template import ChatTemplate, read_template
from exo_node.models.tokenizer import Tokenizer
from tests.chat_templates import SANDBOX
from tests.tiny_models import write_byte_level, write_metaspace

# The shapes of well-known families, in words of our own.
LLAMA3 = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
{%- set system = messages[0]['content'] | trim %}{% set messages = messages[1:] %}
{%- else %}{% set system = "" %}{% endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" + system + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
CHATML = """{% for message in messages %}
{% if loop.first and message.role != 'system' %}<|im_start|>system
Be brief.<|im_end|>
{% endif %}
<|im_start|>{{ message.role }}
{% generation %}{{ message.content }}{% endgeneration %}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
QWEN_TOOLS = """{%- set ns = namespace(last=0) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}{% continue %}{% endif %}
{{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content }}{% if loop.index0 == ns.last %}[last]{% endif %}<|im_end|>
{% endfor %}{{ messages[0] | tojson(indent=2) }}{{ dict(a=1) | tojson }}"""
MISTRAL = """{{ bos_token }}{% for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Roles must alternate user and assistant') }}{% endif %}
{%- if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"""
GEMMA = """{{ bos_token }}{% for message in messages %}
{% set role = 'model' if message.role == 'assistant' else message.role %}
{{ '<start_of_turn>' + role + '\\n' }}
{%- if message.content is string %}{{ message.content | trim }}
{%- else %}{% for part in message.content %}
{%- if part.type == 'text' %}{{ part.text | trim }}{% endif %}{% endfor %}{% endif %}
{{ '<end_of_turn>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
PHI3 = """{% for message in messages %}{{ '<|' + message.role + '|>' + '\\n' + message.content + '<|end|>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""
TEMPLATES = {"llama3": LLAMA3, "chatml": CHATML, "qwen": QWEN_TOOLS, "mistral": MISTRAL, "gemma": GEMMA, "phi3": PHI3}
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": " Hi <b>there</b> & 'you' "}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b\nc"}, {"role": "user", "content": "ä 😀"}],
    [{"role": "user", "content": "a", "name": None}, {"role": "assistant", "content": "b"}],
]


def with_template(folder: Path, template: Any) -> Path:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    return folder


@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("family", list(TEMPLATES))
def test_renders_and_tokenizes_as_transformers(family: str, add: bool, tmp_path: Path) -> None:
    """Text and ids of every chat equal apply_chat_template's."""
    transformers = pytest.importorskip("transformers")
    writer = write_metaspace if family in ("mistral", "gemma", "phi3") else write_byte_level
    folder = with_template(writer(tmp_path / "t"), TEMPLATES[family])
    ours, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for chat in CHATS:
        text = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=add)
        ids = theirs.apply_chat_template(chat, tokenize=True, add_generation_prompt=add, return_dict=True)["input_ids"]
        assert ours.chat_text(chat, add_generation_prompt=add) == text
        assert ours.chat_ids(chat, add_generation_prompt=add) == ids


def render(source: str, messages: Any, **special: str) -> str:
    return ChatTemplate(source, special, SANDBOX).render(messages)


def test_text_parts_are_joined_unless_the_template_walks_them() -> None:
    """A list of text parts reaches a plain template as one string, a template for parts as parts."""
    parts = [{"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]}]
    assert "a b<|im_end|>" in render(CHATML, parts)
    assert not ChatTemplate(CHATML, {}, SANDBOX).takes_parts
    assert ChatTemplate(GEMMA, {}, SANDBOX).takes_parts
    assert "user\nab" in render(GEMMA, parts, bos_token="")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "empty"),
        (["hi"], "role"),
        ([{"content": "x"}], "role"),
        ([{"role": "user", "content": 3}], "text"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "image_url"),
        ([{"role": "user", "content": [{"type": "text"}]}], "text"),
        ([{"role": "user", "content": "x", "extra": object()}], "object"),
    ],
)
def test_malformed_messages(messages: Any, words: str) -> None:
    """Each malformed message is a 400 that names the field."""
    with pytest.raises(InvalidRequest, match=words) as caught:
        render(CHATML, messages)
    assert caught.value.param is not None
    assert caught.value.param.startswith("messages")


def test_a_templates_refusal_is_the_callers_to_mend() -> None:
    """raise_exception's words reach the caller as a 400."""
    with pytest.raises(InvalidRequest, match="Roles must alternate"):
        render(MISTRAL, [{"role": "assistant", "content": "x"}], bos_token="")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].missing.field }}",
        "{{ messages[5].role }}",
        "{{ 1 // 0 }}",
        "{{ 'a' + 1 }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ namespace(__class__=1) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_failing_or_hostile_templates(source: str) -> None:
    """A template that fails or reaches out of its sandbox is an error of the request, not of the node."""
    with pytest.raises(InvalidRequest):
        render(source, [{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    "source", ["{% for i in range(50000) %}{% for j in range(50000) %}{{ 'x' * 99 }}{% endfor %}{% endfor %}"]
)
def test_endless_output_is_cut_off(source: str) -> None:
    """Output that outgrows the messages manifold ends the rendering."""
    with pytest.raises(InvalidRequest, match="come to an end"):
        render(source, [{"role": "user", "content": "x"}])


def test_a_template_that_does_not_compile() -> None:
    """Broken syntax is the model's fault."""
    with pytest.raises(CheckpointError, match="compile"):
        ChatTemplate("{% if %}", {}, SANDBOX)


def test_helpers_of_the_environment() -> None:
    """tojson does not escape HTML or non-ASCII; strftime_now formats today; blocks leave no blank lines."""
    message: Mapping[str, Any] = {"role": "user", "content": "<ä>"}
    assert render("{{ messages[0].content | tojson }}", [message]) == '"<ä>"'
    assert render("{{ strftime_now('%Y') }}", [message]).isdigit()
    assert render("  {% if true %}\nx\n  {% endif %}\n", [message]) == "x\n"


def test_where_a_template_comes_from(tmp_path: Path) -> None:
    """chat_template.jinja wins over tokenizer_config.json, that over chat_template.json; of named ones 'default'."""
    assert read_template(tmp_path, {}) is None
    (tmp_path / "chat_template.json").write_text('{"chat_template": "c"}')
    assert read_template(tmp_path, {}) == "c"
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    assert read_template(tmp_path, {"chat_template": named}) == "d"
    assert read_template(tmp_path, {"chat_template": "b"}) == "b"
    with pytest.raises(CheckpointError, match="default"):
        read_template(tmp_path, {"chat_template": named[:1]})
    (tmp_path / "chat_template.jinja").write_text("j")
    assert read_template(tmp_path, {"chat_template": "b"}) == "j"


def test_no_template(tmp_path: Path) -> None:
    """A model without a template sends chats to /v1/completions."""
    tokenizer = Tokenizer.load(write_byte_level(tmp_path / "t"))
    with pytest.raises(InvalidRequest, match="/v1/completions"):
        tokenizer.chat_ids([{"role": "user", "content": "x"}])
