"""Errors about a chat, told of the request that became it."""

from __future__ import annotations

import pytest

from exo_node.api.dialects import anthropic_request, ollama, responses_request
from exo_node.api.dialects.origins import Origins, naming
from exo_node.errors import InvalidRequest

RESPONSES, ANTHROPIC, OLLAMA = responses_request.ORIGINS, anthropic_request.ORIGINS, ollama.ORIGINS
SCHEMA = "response_format.json_schema.schema"


@pytest.mark.parametrize(
    ("origins", "param", "named"),
    [
        (RESPONSES, "messages[3].content[0].type", "input"),
        (RESPONSES, "max_completion_tokens", "max_output_tokens"),
        (RESPONSES, "reasoning_effort", "reasoning.effort"),
        (RESPONSES, SCHEMA, "text.format.schema"),
        (RESPONSES, "response_format", "text.format"),
        (RESPONSES, "tools[1].function.parameters", "tools[1].parameters"),
        (RESPONSES, "temperature", "temperature"),
        (RESPONSES, None, None),
        (ANTHROPIC, "messages[3].content[0].type", "messages"),
        (ANTHROPIC, "max_tokens", "max_tokens"),
        (ANTHROPIC, "stop", "stop_sequences"),
        (ANTHROPIC, SCHEMA, "output_config.format.schema"),
        (ANTHROPIC, "tools[1].function.parameters.type", "tools[1].input_schema.type"),
        (ANTHROPIC, "tools[0].function.name", "tools[0].name"),
        (OLLAMA, SCHEMA, "format"),
        (OLLAMA, "max_tokens", "options.num_predict"),
        (OLLAMA, "top_p", "options.top_p"),
        (OLLAMA, "enable_thinking", "think"),
    ],
)
def test_errors_name_the_requests_fields(origins: Origins, param: str | None, named: str | None) -> None:
    """What a backend says of the chat is said of the field that it came from."""
    with pytest.raises(InvalidRequest) as caught, naming(origins):
        raise InvalidRequest(f"ring: {param}: is not done", param=param)
    assert (caught.value.param, caught.value.message) == (named, f"ring: {named}: is not done")
