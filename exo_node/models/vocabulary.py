"""Whether two models mean the same by a token's number, as a draft model must. Reads tokenizer.json only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from exo_node.errors import CheckpointError, InvalidRequest

# Tables are padded to whole blocks, and larger models of a family may have a few special tokens more.
PADDING = 1024
FILE = "tokenizer.json"


def check_same_vocabulary(model_id: str, model: Path, draft_id: str, draft: Path) -> None:
    """Raises `InvalidRequest` unless the models in these folders have the same tokens under the same numbers, but for
    at most `PADDING` at the end of one; `CheckpointError` for a file that cannot be read. Blocking."""
    one, other = _read(model), _read(draft)
    if one == other:
        return
    mine, theirs = _tokens(one, model), _tokens(other, draft)
    shared = min(max(mine, default=-1), max(theirs, default=-1)) + 1
    for number in range(shared):
        if mine.get(number) != theirs.get(number):
            found = f"token {number} is {_shown(mine.get(number))} and {_shown(theirs.get(number))}"
            raise other_vocabulary(model_id, draft_id, found)
    if abs(len(mine) - len(theirs)) > PADDING:
        raise other_vocabulary(model_id, draft_id, f"{len(mine)} and {len(theirs)} tokens")


def other_vocabulary(model_id: str, draft_id: str, found: str) -> InvalidRequest:
    """`found`: what differs, of the model and of the draft model."""
    return InvalidRequest(
        f"{draft_id} cannot guess for {model_id}: their vocabularies differ ({found}); take a smaller model of its "
        "own family",
        param="draft_model",
        code="vocabulary_mismatch",
    )


def _read(folder: Path) -> bytes:
    try:
        return (folder / FILE).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder / FILE} cannot be read: {error.strerror}") from error


def _tokens(data: bytes, folder: Path) -> dict[int, str]:
    """Number -> token: the model's own table (an object, or for Unigram a list) and what was added to it."""
    try:
        fields: Any = json.loads(data)
        table = fields["model"]["vocab"]
        pairs = table.items() if isinstance(table, dict) else ((entry[0], at) for at, entry in enumerate(table))
        found = {int(number): str(token) for token, number in pairs}
        return found | {int(one["id"]): str(one["content"]) for one in fields.get("added_tokens") or ()}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{folder / FILE} has no vocabulary that can be read: {type(error).__name__}") from error


def _shown(token: str | None) -> str:
    return "unused" if token is None else repr(token[:20])
