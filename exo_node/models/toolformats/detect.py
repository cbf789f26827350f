"""Which family a model's chat template is written for. Pure."""

from __future__ import annotations

from exo_node.models.toolformats import deepseek, gemma, harmony, hermes, llama, mistral, phi
from exo_node.models.toolformats.base import ToolFormat
from exo_node.models.toolformats.thoughts import KNOWN, Marks


def tool_format(template: str) -> ToolFormat | None:
    """The family whose syntax the template shows; None where it shows none that is known here."""
    if harmony.CHANNEL in template and harmony.MESSAGE in template:
        return harmony.HARMONY
    if deepseek.BEGIN in template or deepseek.CALL in template:
        return deepseek.DEEPSEEK_FENCED if "```json" in template else deepseek.DEEPSEEK_PLAIN
    if mistral.CALLS in template:
        return mistral.MISTRAL_NAMED if mistral.ARGS in template else mistral.MISTRAL_LIST
    if gemma.FUNCTION_MARKS[0] in template:
        return gemma.FUNCTION_GEMMA
    if gemma.GEMMA4_MARKS[0] in template:
        return gemma.GEMMA4
    if "<|tool|>" in template or phi.OPEN in template:
        return phi.PHI
    if hermes.OPEN in template and "<arg_key>" not in template:
        return hermes.HERMES
    if llama.TAGS[0] in template or llama.TAGS[1] in template or '"parameters": dictionary' in template:
        return llama.LLAMA
    return None


def thought_marks(template: str) -> Marks | None:
    """The marks that the template shows, in harmony's case none: its channels say it."""
    return next((marks for marks in KNOWN if marks.close in template), None)
