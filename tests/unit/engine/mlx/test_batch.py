"""Rows of any lengths of several slots in one pass: against the same rows one by one, for every family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exo_node.engine.base import EngineRow
from exo_node.engine.mlx.batch import Batch, BatchLayer
from exo_node.engine.mlx.cache import Pool
from exo_node.engine.mlx.families import FAMILIES as TABLE
from exo_node.engine.mlx.modules import import_model_file
from exo_node.errors import RingBroken
from tests.checkpoints import EXPERTS, FAMILIES, HYBRIDS, MORE_FAMILIES, make_checkpoint
from tests.unit.engine.mlx.ring import LocalRing, Logits, ids_of

mx: Any = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.engine_mlx

TOLERANCE = 2e-5  # relative to the largest logit, float32
# Of a router's probabilities, between the last expert taken and the first one left. Nearer than this, a product over
# another number of rows may take the other one, and nothing could be said of the token's logits; no row here comes near
# it (the least is 2e-4).
ROUTER_TOLERANCE = 1e-5
CUTS = {"whole": (0, 7), "three": (0, 3, 5, 7), "head without layers": (0, 0, 4, 7)}


class Router:
    """In place of a layer's router: notes the least by which an expert was taken before another."""

    def __init__(self, gate: Any, experts: int) -> None:
        self._gate, self._experts = gate, experts
        self.margin = np.inf

    def __call__(self, x: Any) -> Any:
        out = self._gate(x)
        ordered = np.sort(np.array(mx.softmax(out, axis=-1)), axis=-1)
        least = (ordered[..., -self._experts] - ordered[..., -self._experts - 1]).min()
        self.margin = min(self.margin, float(least))
        return out


class Twins:
    """The same steps on a ring that batches and, row by row, on one that does not."""

    def __init__(self, path: Path, cut: Sequence[int], **options: Any) -> None:
        self.batched = LocalRing(path, cut, slots=5, **options)
        self.alone = LocalRing(path, cut, slots=5, **options)
        self.routers = []
        for engine in self.alone.engines:
            shard = engine._state().plan.shard
            for layer in engine._state().stage._model.layers[shard.start_layer : shard.end_layer]:
                if hasattr(getattr(layer, "mlp", None), "switch_mlp"):
                    layer.mlp.gate = Router(layer.mlp.gate, layer.mlp.top_k)
                    self.routers.append(layer.mlp.gate)

    def step(self, *rows: tuple[int, Sequence[int], int]) -> Logits:
        got = self.batched.step(*rows)
        wanted = np.concatenate([self.alone.step(row) for row in rows])
        assert got.shape == wanted.shape
        assert all(router.margin > ROUTER_TOLERANCE for router in self.routers)
        if not len(got):
            return got
        assert np.abs(got - wanted).max() <= TOLERANCE * np.abs(wanted).max()
        first, second = np.sort(wanted, axis=1)[:, -1], np.sort(wanted, axis=1)[:, -2]
        clear = first - second > 2 * TOLERANCE * np.abs(wanted).max()
        assert np.array_equal(got.argmax(axis=1)[clear], wanted.argmax(axis=1)[clear])
        return got

    def both(self, call: str, *arguments: int) -> None:
        for ring in (self.batched, self.alone):
            getattr(ring, call)(*arguments)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("family", FAMILIES + MORE_FAMILIES + HYBRIDS + EXPERTS)
def test_a_batch_equals_rows_alone(family: str, cut: str, checkpoints: Path) -> None:
    """Ragged rows, slots out of order, joining and leaving, prompts in slices, drafts, after rollback and copy."""
    twins = Twins(make_checkpoint(family, checkpoints), CUTS[cut])
    a, b, c, d = (ids_of(60, seed) for seed in range(4))
    twins.step((3, a[:31], 1), (0, b[:5], 1))
    twins.step((3, a[31:32], 1), (0, b[5:6], 1))  # one past the windows of these checkpoints, one within
    twins.step((0, b[6:7], 1), (2, c[:20], 0), (3, a[32:33], 1))
    twins.step((2, c[20:21], 1), (4, d[:1], 1), (0, b[7:8], 1), (3, a[33:34], 1))  # a first token joins
    twins.step((4, d[1:2], 1), (2, c[21:22], 0), (0, b[8:9], 1))  # slot 3 pauses, slot 2 wants no output
    twins.both("truncate", 2, 17)
    twins.both("copy", 1, 3, 29)
    twins.step((1, c[30:31], 1), (2, c[40:41], 1), (3, a[34:35], 1), (0, b[9:10], 1))
    twins.both("truncate", 3, 0)
    twins.step((3, d[:1], 1), (1, c[31:32], 1), (0, b[10:12], 2), (2, c[41:42], 1))
    # drafts of one and of eight tokens (over the windows' edge too), slices of two prompts, and a decode row
    twins.step((0, b[12:14], 2), (3, d[1:21], 0), (2, c[42:51], 9), (1, c[32:33], 1), (4, d[2:17], 1))
    twins.both("truncate", 0, 13)  # all but one token of each draft were wrong
    twins.both("truncate", 2, 19)
    twins.both("copy", 4, 3, 18)
    twins.step((2, b[20:23], 3), (4, a[18:38], 20), (0, b[30:31], 1), (3, d[21:40], 1))
    for prompts in (((0, c[:9], 0), (2, c[9:30], 0)), ((2, a[:4], 4), (0, a[4:5], 1))):  # a step without any output
        twins.step(*prompts)
    assert len(twins.routers) == (6 if family in EXPERTS else 0)


@pytest.mark.parametrize("family", FAMILIES + MORE_FAMILIES + HYBRIDS + EXPERTS)
def test_reproducible_rows_have_the_same_bits(family: str, checkpoints: Path) -> None:
    """Under `reproducible` the rows beside a row do not change a bit of it, whatever their lengths."""
    rings = [LocalRing(make_checkpoint(family, checkpoints), (0, 7), reproducible=True) for _ in range(2)]
    a, b, c = (ids_of(40, seed) for seed in range(3))
    for rows in (((0, a[:20], 1), (1, b[:3], 3)), ((1, b[3:4], 1), (2, c[:14], 1), (0, a[20:25], 5))):
        assert np.array_equal(rings[0].step(*rows), np.concatenate([rings[1].step(row) for row in rows]))


@pytest.mark.parametrize("heads", (2, 4))
def test_padded_masks_follow_the_heads(heads: int, checkpoints: Path) -> None:
    """gemma2 with and without heads that share a key."""
    twins = Twins(make_checkpoint("gemma2", checkpoints, num_key_value_heads=heads), (0, 7))
    twins.step((0, ids_of(40), 1), (1, ids_of(3), 1))
    twins.step((0, [5], 1), (1, [6], 1))


def test_longrope_rotates_each_row_by_its_own_position(checkpoints: Path) -> None:
    """Rope scaling with factors of its own takes an array of positions too."""
    twins = Twins(make_checkpoint("phi3_longrope", checkpoints), (0, 7), context=160)
    twins.step((0, ids_of(64), 1), (1, ids_of(3), 1))
    twins.step((0, [5], 1), (1, [6], 1))
    twins.step((0, [7, 8, 9], 3), (1, [6], 1))


def test_rows_grow_over_a_block_at_their_own_time(checkpoints: Path) -> None:
    """One slot of a batch grows its arrays while the other does not."""
    twins = Twins(make_checkpoint("llama", checkpoints, max_position_embeddings=1024), (0, 7), context=300)
    ids = ids_of(254)
    for at in range(0, 254, 64):
        twins.step((0, ids[at : at + 64], 1))
    twins.step((1, ids[:7], 1))
    for i in range(4):
        twins.step((1, [5 + i], 1), (0, [9 + i], 1))
    twins.both("truncate", 0, 250)
    twins.step((1, ids[7:60], 1), (0, ids[:9], 9))


@pytest.mark.parametrize("dtype", ("bfloat16", "float16"))
def test_half_precision(dtype: str, checkpoints: Path) -> None:
    """In half precision a batch stays as near as that precision is."""
    path = make_checkpoint("qwen3", checkpoints, dtype=dtype)
    batched, alone = (LocalRing(path, (0, 3, 7), dtype=dtype, reproducible=flag) for flag in (False, True))  # type: ignore[arg-type]
    for rows in (((0, ids_of(20), 1), (1, ids_of(4), 1)), ((1, [7], 1), (0, [8], 1)), ((0, [9] * 4, 4), (1, [8], 1))):
        got, wanted = batched.step(*rows), alone.step(*rows)
        assert np.abs(got - wanted).max() <= 0.05 * np.abs(wanted).max()


def test_reproducible_keeps_rows_alone(checkpoints: Path) -> None:
    """What the load report says: batched, or row by row when that was asked for."""
    path = make_checkpoint("llama", checkpoints)
    assert LocalRing(path, (0, 7)).reports[0].info["decode"] == "batched"
    assert LocalRing(path, (0, 7), reproducible=True).reports[0].info["decode"] == "row by row"


def test_a_row_out_of_place_changes_no_slot(checkpoints: Path) -> None:
    """One row of a batch that does not continue its slot stops all of them before anything is written."""
    ring = LocalRing(make_checkpoint("llama", checkpoints), (0, 7))
    ring.step((0, ids_of(5), 1), (1, ids_of(5), 1))
    rows = [EngineRow(slot, position, 1, np.array([3], np.int32), 1) for slot, position in ((0, 5), (1, 4))]
    with pytest.raises(RingBroken, match="holds 5 tokens"):
        ring.engines[0].forward(rows, None)
    assert ring.step((0, [3], 1), (1, [3], 1)).shape == (2, 160)


def test_a_slot_that_comes_twice_runs_in_order(checkpoints: Path) -> None:
    """Two rows of one slot in a step cannot be one pass; they follow each other."""
    ring, other = (LocalRing(make_checkpoint("llama", checkpoints), (0, 7)) for _ in range(2))
    got = ring.step((0, [5], 1), (0, [6], 1), (1, [7], 1))
    wanted = other.step((0, [5, 6], 2), (1, [7], 1))
    assert np.abs(got - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def test_one_pass_for_rows_of_any_lengths(checkpoints: Path) -> None:
    """A step is one pass where mlx-lm's file lets attention go row by row; else its single tokens are one."""
    for family, wanted in (("llama", [[0, 1, 2, 3]]), ("gemma2", [[0, 2], [1], [3]])):
        ring = LocalRing(make_checkpoint(family, checkpoints), (0, 7), slots=4)
        rows = [EngineRow(slot, 0, n, None, 1) for slot, n in enumerate((1, 9, 1, 3))]
        assert ring.engines[0]._passes(rows) == wanted


def test_the_table_tells_which_file_attends_itself() -> None:
    """All but "padded" need mlx-lm's attention function in the file of the family's attention; that one has none."""
    named = {"glm4": "Glm4Attention", "granitemoehybrid": "GraniteMoeHybridAttention"}
    for name, family in TABLE.items():
        module = import_model_file("llama" if name == "smollm3" else family.module)  # smollm3 uses llama's
        attention = getattr(module, named.get(name, "Attention"))
        found = "scaled_dot_product_attention" in attention.__call__.__globals__
        assert found == (family.decode != "padded"), name


def test_layers_of_a_batch_give_each_row_its_own_keys() -> None:
    """Keys go to the slots named, at their lengths; a window cuts each row's; padding is hidden by the mask."""

    def push(axes: int | None, window: int | None) -> tuple[Any, Any, Any]:
        pool = Pool(mx, 3, 32, [window], False, 32)
        for slot, n in ((2, 5), (0, 2)):
            old = mx.arange(n).astype(mx.float32)[None, None, :, None] + 10 * slot
            pool[slot].layers[0].update_and_fetch(old, old)
            pool[slot].commit(n)
        batch = Batch(mx, [pool[2], pool[0]], [1, 1], axes)
        layer = batch.layers[0]
        assert isinstance(layer, BatchLayer)
        new = mx.array([90.0, 91.0])[:, None, None, None]
        mask = layer.mask(1)
        keys, values = layer.update_and_fetch(new, new)
        assert layer.offset.tolist() == [5, 2]
        batch.commit()
        assert (pool[2].length, pool[1].length, pool[0].length) == (6, 0, 3)
        return keys, values, mask

    keys, _, mask = push(None, 4)
    assert mask is None
    assert [one.flatten().tolist() for one in keys] == [[22, 23, 24, 90], [0, 1, 91]]
    keys, values, mask = push(4, None)
    assert keys.shape == values.shape == (2, 1, 6, 1) and mask.shape == (2, 1, 1, 6)
    assert keys[:, 0, :, 0].tolist() == [[20, 21, 22, 23, 24, 90], [0, 1, 91, 0, 0, 0]]
    assert mask[:, 0, 0].tolist() == [[True] * 6, [True] * 3 + [False] * 3]
