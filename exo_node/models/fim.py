"""Filling in the middle: how a model is told what stands before and after the text that it is to write. Pure.

Sources: the models' cards and reference code: StarCoder 1 and 2, SantaCoder, Stable Code, Granite Code
(huggingface.co/bigcode/starcoder2-15b), Qwen2.5-Coder (github.com/QwenLM/Qwen2.5-Coder), CodeGemma
(ai.google.dev/gemma/docs/codegemma), DeepSeek-Coder (github.com/deepseek-ai/DeepSeek-Coder), CodeLlama
(github.com/meta-llama/codellama), Codestral (mistral-common's `encode_fim`), CodeGeeX4 and GLM-4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FimFormat:
    """Marks before the prefix, the suffix and the middle; `middle` "" where the answer follows at once.

    `suffix_first`: the suffix stands before the prefix. `ends`: tokens after which the text has returned to the suffix.
    """

    prefix: str
    suffix: str
    middle: str
    suffix_first: bool = False
    ends: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        return tuple(mark for mark in (self.prefix, self.suffix, self.middle) if mark)


FORMATS: tuple[FimFormat, ...] = (
    FimFormat("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", ends=(
        "<|fim_pad|>", "<|endoftext|>", "<|file_sep|>", "<|file_separator|>", "<|repo_name|>", "<|im_end|>")),
    FimFormat("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ends=("<fim_pad>", "<|endoftext|>", "<file_sep>")),
    FimFormat("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ends=("<fim-pad>", "<|endoftext|>")),
    FimFormat("▁<PRE>", "▁<SUF>", "▁<MID>", ends=("▁<EOT>",)),
    # The hole is where the suffix begins, the "end" where the middle does.
    FimFormat("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", ends=("<|EOT|>",)),
    FimFormat("[PREFIX]", "[SUFFIX]", "", suffix_first=True, ends=("[MIDDLE]",)),
    FimFormat("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>", ends=("<|endoftext|>", "<|user|>")),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fim:
    """A format with its token ids in one vocabulary. `ends`: ids that end the answer, the marks among them."""

    prefix: int
    suffix: int
    middle: int | None
    suffix_first: bool
    ends: frozenset[int]

    def ids(self, before: Sequence[int], after: Sequence[int]) -> list[int]:
        """The prompt that asks for what stands between `before` and `after` (without BOS)."""
        middle = [] if self.middle is None else [self.middle]
        if self.suffix_first:
            return [self.suffix, *after, self.prefix, *before, *middle]
        return [self.prefix, *before, self.suffix, *after, *middle]


def fim_of(id_of: Callable[[str], int | None]) -> Fim | None:
    """How the model with that vocabulary fills in; None where it was not made for it."""
    for form in FORMATS:
        ids = [id_of(mark) for mark in form.marks]
        known = [one for one in ids if one is not None]
        if len(known) == len(ids):
            ends = {one for mark in form.ends if (one := id_of(mark)) is not None}
            middle = known[2] if form.middle else None
            return Fim(known[0], known[1], middle, form.suffix_first, frozenset((*known, *ends)))
    return None
