"""Request fields that are read nowhere else: those that would change the answer and are not done (refused by name,
never dropped), and those that change nothing here (accepted). Anything else a client sends is unknown and ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exo_node.api.fields import bad, kind

# Field -> values that ask for nothing beyond what is done anyway. Clients send these unasked (`tools: []` by ollama-py
# and the Agents SDK). null is always one of them.
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    # OpenAI, chat
    "modalities": (["text"], []),
    "audio": (),
    "reasoning": (),
    "web_search_options": (),
    # What vLLM, llama.cpp, mlx_lm, Ollama and exo v2 add
    "add_generation_prompt": (True,),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "chat_template": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "draft_model": (),
    "dry_multiplier": (0, 0.0),
    "format": ("",),
    "grammar_lazy": (False,),
    "grammar_triggers": ([],),
    "guided_whitespace_pattern": (),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1, 1.0),
    "logits_processors": ([],),
    "min_tokens": (0,),
    "mirostat": (0,),
    "prompt_logprobs": (),
    "repeat_penalty": (1, 1.0),
    "skip_special_tokens": (True,),
    "stop_token_ids": ([],),
    "template": ("",),
    "tfs_z": (1, 1.0),
    "thinking": (),
    "truncate_prompt_tokens": (),
    "typical_p": (1, 1.0),
    "use_beam_search": (False,),
    "xtc_probability": (0, 0.0),
}
_INSTEAD: Mapping[str, str] = {"repeat_penalty": "; use repetition_penalty", "reasoning": "; use reasoning_effort"}

# Fields of one route that would say something on the other, and what they may be there.
OF_COMPLETIONS: Mapping[str, tuple[Any, ...]] = {"prompt": (), "echo": (False,), "best_of": (1,), "suffix": ("",)}
OF_CHATS: Mapping[str, tuple[Any, ...]] = {
    "messages": (),
    "top_logprobs": (),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "reasoning_effort": (),
    "chat_template_kwargs": ({},),
    "enable_thinking": (),
}

# Accepted: they concern OpenAI's accounting, storage, caching and speed, or are wishes that no answer must fulfil.
_HARMLESS: Mapping[str, type] = {
    "user": str,
    "metadata": dict,
    "service_tier": str,
    "safety_identifier": str,
    "prompt_cache_key": str,
    "prompt_cache_retention": str,
    "prompt_cache_options": dict,
    "parallel_tool_calls": bool,
    "store": bool,
    "prediction": dict,
    "verbosity": str,
}


def refuse_unsupported(body: Mapping[str, Any]) -> None:
    """Raise for the first field whose meaning is not done, and for a harmless one of the wrong type."""
    for name, value in body.items():
        if value is None:
            continue
        if not is_neutral(value, _UNSUPPORTED.get(name)):
            problem = f"is not supported by local models yet{_INSTEAD.get(name, '')}"
            raise bad(name, problem, code="unsupported_parameter")
        wanted = _HARMLESS.get(name)
        if wanted is not None and not isinstance(value, wanted):
            example = kind(wanted())
            raise bad(name, f"must be {example}, not {kind(value)}", code="invalid_type")


def refuse_misplaced(body: Mapping[str, Any], foreign: Mapping[str, tuple[Any, ...]], route: str) -> None:
    """Raise for the first of the `foreign` fields, which `route` has."""
    for name, values in foreign.items():
        value = body.get(name)
        if value is not None and not is_neutral(value, values):
            raise bad(name, f"is a field of {route}, and does nothing here", code="unsupported_parameter")


def is_neutral(value: Any, neutral: tuple[Any, ...] | None) -> bool:
    """Whether `value` is one of those (0 is not false); None stands for any."""
    return neutral is None or any(type(value) is type(same) and value == same for same in neutral)
