"""Short chat templates, written for tests in the forms of the families' own: how tools, calls and results are told."""

from __future__ import annotations

from collections.abc import Mapping

from exo_node.models.template_sandbox import TemplateSandbox

SANDBOX = TemplateSandbox()  # for all tests of a process: starting one takes a tenth of a second

_OPEN = "{% for m in messages %}"
_CHATML_END = "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

QWEN = (
    "{% if tools %}{{ '<|im_start|>system\\n# Tools\\n' }}{% for t in tools %}{{ t | tojson }}{{ '\\n' }}{% endfor %}"
    '{{ \'Answer with <tool_call>\\n{"name": ..., "arguments": ...}\\n</tool_call><|im_end|>\\n\' }}{% endif %}'
    + _OPEN
    + "{{ '<|im_start|>' + ('user' if m.role == 'tool' else m.role) + '\\n' }}"
    "{% if m.role == 'tool' %}{{ '<tool_response>\\n' + m.content + '\\n</tool_response>' }}{% else %}"
    "{% if m.content %}{{ m.content }}{% endif %}{% for c in m.tool_calls or [] %}"
    '{{ \'<tool_call>\\n{"name": "\' + c.function.name + \'", "arguments": \' }}'
    "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}{{ c.function.arguments | tojson }}"
    "{% endif %}{{ '}\\n</tool_call>' }}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}" + _CHATML_END
)
QWEN3 = QWEN + (
    "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
)
R1 = _OPEN + (
    "{{ '<|im_start|>' + m.role + '\\n' + (m.content or '').split('</think>')[-1] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)
LLAMA = (
    "{{ '<|start_header_id|>system<|end_header_id|>\\n\\n' }}{% if tools %}"
    '{{ \'Respond as {"name": function name, "parameters": dictionary of argument name and its value}\\n\' }}'
    "{% for t in tools %}{{ t | tojson(indent=4) }}{% endfor %}{% endif %}{{ '<|eot_id|>' }}"
    + _OPEN
    + "{% if m.role == 'tool' %}{{ '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + m.content | tojson }}"
    "{% elif 'tool_calls' in m %}{% set c = m.tool_calls[0].function %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n<|python_tag|>{\"name\": \"' + c.name + '\", ' }}"
    "{{ '\"parameters\": ' }}{{ c.arguments | tojson }}{{ '}' }}"
    "{% else %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim }}{% endif %}"
    "{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
_MISTRAL = (
    "{% if tools %}{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    + _OPEN
    + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}{% elif m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'tool' %}{% if m.tool_call_id | length != 9 %}{{ raise_exception('ids have 9 letters') }}"
    "{% endif %}{{ '[TOOL_RESULTS] ' + {'content': m.content, 'call_id': m.tool_call_id} | tojson }}"
    "{{ '[/TOOL_RESULTS]' }}"
    "{% elif m.tool_calls %}CALLS{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}"
)
MISTRAL = _MISTRAL.replace(
    "CALLS",
    "{{ '[TOOL_CALLS] [' }}{% for c in m.tool_calls %}{% if c.id | length != 9 %}{{ raise_exception('9 letters') }}"
    "{% endif %}{{ {'name': c.function.name, 'arguments': c.function.arguments, 'id': c.id} | tojson }}"
    "{{ ', ' if not loop.last }}{% endfor %}{{ ']</s>' }}",
)
MAGISTRAL = _MISTRAL.replace(
    "CALLS",
    "{% for c in m.tool_calls %}{{ '[TOOL_CALLS]' + c.function.name + '[ARGS]' }}"
    "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}{{ c.function.arguments | tojson }}"
    "{% endif %}{% endfor %}{{ '</s>' }}",
).replace("{% if tools %}", "{{ 'Think in [THINK]...[/THINK].' }}{% if tools %}", 1)
DEEPSEEK = (
    "{% if tools %}{{ 'Tools: ' + tools | tojson }}{% endif %}"
    + _OPEN
    + "{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% elif m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'tool' %}{{ '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' }}"
    "{% elif m.content is none %}{{ '<｜Assistant｜><｜tool▁calls▁begin｜>' }}{% for c in m.tool_calls %}"
    "{{ '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' + c.function.name + '\\n```json\\n' + c.function.arguments }}"
    "{{ '\\n```<｜tool▁call▁end｜>' }}{% endfor %}{{ '<｜tool▁calls▁end｜>' }}"
    "{% else %}{{ '<｜Assistant｜>' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
DEEPSEEK_V31 = (
    DEEPSEEK.replace(
        "function<｜tool▁sep｜>' + c.function.name + '\\n```json\\n'", "' + c.function.name + '<｜tool▁sep｜>'"
    )
    .replace("\\n```<｜tool▁call▁end｜>", "<｜tool▁call▁end｜>")
    .replace(
        "{{ '<｜Assistant｜>' }}{% endif %}",
        "{{ '<｜Assistant｜>' + ('<think>' if thinking else '</think>') }}{% endif %}",
    )
)
PHI = (
    "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not "
    "none %}{{ '<|system|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
GRANITE = (
    "{% if tools %}{{ '<|start_of_role|>tools<|end_of_role|>' + tools | tojson + '<|end_of_text|>' }}{% endif %}"
    + _OPEN
    + "{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' }}{% if m.tool_calls %}{{ '<|tool_call|>[' }}"
    "{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}{{ ']' }}{% else %}{{ m.content }}{% endif %}"
    "{{ '<|end_of_text|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
)
FUNCTION_GEMMA = (
    "{% if tools %}{% for t in tools %}{{ '<start_function_declaration>' + t.function.name + t.function.parameters | "
    "tojson + '<end_function_declaration>' }}{% endfor %}{% endif %}"
    + _OPEN
    + "{{ '<start_of_turn>' + m.role + '\\n' }}{% if m.role == 'tool' %}"
    "{{ '<start_function_response>response:' + m.name + '{value:<escape>' + m.content + '<escape>}' }}{% else %}"
    "{{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ '<start_function_call>call:' + c.function.name + '{' }}"
    "{% for k, v in c.function.arguments | items %}{{ k + ':<escape>' + v | string + '<escape>' }}{% endfor %}"
    "{{ '}<end_function_call>' }}{% endfor %}{% endif %}{{ '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
GEMMA = (  # without tools, and without a system role
    _OPEN + "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content | trim }}"
    "{{ '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
GPT_OSS = (
    "{{ '<|start|>system<|message|>Reasoning: ' + (reasoning_effort or 'medium') + '<|end|>' }}"
    "{% if tools %}{{ '<|start|>developer<|message|>' }}{% for t in tools %}{{ t.function.name + ': ' }}"
    "{{ t.function.parameters | tojson }}{% endfor %}{{ '<|end|>' }}{% endif %}"
    + _OPEN
    + "{% if m.tool_calls %}{% set c = m.tool_calls[0] %}{{ '<|start|>assistant to=functions.' + c.function.name }}"
    "{{ '<|channel|>commentary json<|message|>' }}{{ c.function.arguments | tojson }}{{ '<|call|>' }}"
    "{% elif m.role == 'tool' %}{{ '<|start|>functions.' + m.name + ' to=assistant<|channel|>commentary<|message|>' }}"
    "{{ m.content | tojson + '<|end|>' }}{% else %}"
    "{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
PLAIN = _OPEN + "{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}<|assistant|>"

# name -> (template, name of the family that it is taken for, "" for none)
TEMPLATES: Mapping[str, tuple[str, str]] = {
    "qwen": (QWEN, "hermes"),
    "qwen3": (QWEN3, "hermes"),
    "r1": (R1, ""),
    "llama": (LLAMA, "llama"),
    "mistral": (MISTRAL, "mistral"),
    "magistral": (MAGISTRAL, "mistral-named"),
    "deepseek": (DEEPSEEK, "deepseek"),
    "deepseek-v3.1": (DEEPSEEK_V31, "deepseek-v3.1"),
    "phi": (PHI, "phi"),
    "granite": (GRANITE, "phi"),
    "functiongemma": (FUNCTION_GEMMA, "functiongemma"),
    "gemma": (GEMMA, ""),
    "gpt-oss": (GPT_OSS, "harmony"),
    "plain": (PLAIN, ""),
}
