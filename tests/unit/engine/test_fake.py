"""The fake engine shows every mistake that a ring can make."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from exo_node.engine.base import EngineRow, LoadPlan
from exo_node.engine.fake import FakeEngine, to_array
from exo_node.errors import CheckpointError, UnsupportedModel
from exo_node.types import DTYPE_BYTES, Dtype, Shard

CONFIG = {"num_hidden_layers": 4, "hidden_size": 8, "vocab_size": 50}


def loaded(start: int = 0, end: int = 4, *, head: bool = True, config: dict[str, object] | None = None) -> FakeEngine:
    engine = FakeEngine()
    plan = LoadPlan(
        config=CONFIG if config is None else config,
        shard=Shard("fake", start, end, 4),
        is_head=head,
        compute_dtype="float32",
        slots=3,
        context=32,
        max_chunk=16,
        device="CPU",
    )
    engine.load(plan, None, lambda done, total: None)
    return engine


def row(slot: int, position: int, tokens: Sequence[int] | int) -> EngineRow:
    """A row of token ids, or of that many vectors."""
    if isinstance(tokens, int):
        return EngineRow(slot, position, tokens, None, tokens)
    return EngineRow(slot, position, len(tokens), np.asarray(tokens, np.int32), len(tokens))


def logits(engine: FakeEngine, *rows: EngineRow) -> npt.NDArray[np.float32]:
    return engine.logits(engine.forward(rows, None))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("cuts", [(0, 4), (0, 0, 4), (0, 1, 4), (0, 1, 2, 3, 4)])
def test_a_sharded_model_equals_the_whole_in_every_wire_dtype(cuts: tuple[int, ...], dtype: Dtype) -> None:
    """Values are integers that every dtype holds exactly."""
    parts = [loaded(a, b, head=a == 0 and i == 0) for i, (a, b) in enumerate(pairwise(cuts))]
    hidden = parts[0].export(parts[0].forward([row(1, 0, (3, 1, 4, 1, 5))], None), dtype)
    for part in parts[1:]:
        assert len(hidden.data) == 5 * 8 * DTYPE_BYTES[dtype]
        hidden = part.export(part.forward([row(1, 0, 5)], hidden), dtype)
    assert np.array_equal(parts[0].logits(hidden), logits(loaded(), row(0, 0, (3, 1, 4, 1, 5))))


def test_chunks_and_company_do_not_change_the_numbers() -> None:
    """One pass, token by token, and with other rows beside: the same logits."""
    tokens = (3, 1, 4, 1, 5, 9)
    whole = logits(loaded(), row(0, 0, tokens))
    single = loaded()
    steps = [logits(single, row(2, i, (7,)), row(0, i, (token,)))[1] for i, token in enumerate(tokens)]
    assert np.array_equal(whole, np.stack(steps))


def test_the_last_logits_depend_on_every_earlier_token_and_its_place() -> None:
    """Changing or swapping tokens, or skipping one, shows at the end."""
    base = logits(loaded(), row(0, 0, (3, 1, 4, 1, 5)))[-1]
    for other in ((9, 1, 4, 1, 5), (1, 3, 4, 1, 5), (3, 1, 4, 5), (3, 1, 4, 4, 1, 5)):
        assert not np.array_equal(base, logits(loaded(), row(0, 0, other))[-1])


@pytest.mark.parametrize(("slot", "position"), [(0, 2), (0, 4), (1, 3)])
def test_a_wrong_position_or_slot_shows(slot: int, position: int) -> None:
    """What a real engine would compute wrongly, this one does visibly."""
    right, wrong = loaded(), loaded()
    for engine in (right, wrong):
        logits(engine, row(0, 0, (3, 1, 4)), row(1, 0, (2, 7, 1)))
    assert not np.array_equal(logits(right, row(0, 3, (5,))), logits(wrong, row(slot, position, (5,))))


def test_truncate_and_copy() -> None:
    """A truncated or copied prefix continues like one that was computed; what was forgotten is poison."""
    engine = loaded()
    logits(engine, row(0, 0, (3, 1, 4, 1, 5)))
    engine.copy(2, 0, 3)
    engine.truncate(0, 2)
    assert np.array_equal(logits(engine, row(2, 3, (8,))), logits(loaded(), row(0, 0, (3, 1, 4, 8)))[-1:])
    assert np.array_equal(logits(engine, row(0, 2, (8,))), logits(loaded(), row(0, 0, (3, 1, 8)))[-1:])


def test_only_the_last_shard_cuts_outputs() -> None:
    """Inner shards hand on every token; the last one the trailing `n_outputs`."""
    ask = EngineRow(0, 0, 4, np.arange(4, dtype=np.int32), 1)
    assert loaded(0, 4).forward([ask], None).shape == (1, 8)
    assert loaded(0, 3).forward([ask], None).shape == (4, 8)


def test_a_config_that_does_not_fit_is_refused() -> None:
    """Missing sizes and another number of layers, by name."""
    with pytest.raises(CheckpointError, match="vocab_size"):
        loaded(config={"num_hidden_layers": 4, "hidden_size": 8})
    with pytest.raises(UnsupportedModel, match="5"):
        loaded(config={**CONFIG, "num_hidden_layers": 5})


def test_travelled_bytes_are_measured() -> None:
    """A payload of the wrong size is an error, not garbage."""
    engine = loaded()
    hidden = engine.export(engine.forward([row(0, 0, (1, 2))], None), "bfloat16")
    assert to_array(hidden).shape == (2, 8)
    with pytest.raises(ValueError, match="bytes"):
        to_array(type(hidden)(hidden.dtype, (3, 8), hidden.data))
