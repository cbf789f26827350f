"""MLXShardEngine against transformers, and the promises of ShardEngine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exo_node.engine.base import EngineRow, Hidden
from exo_node.engine.windows import SLACK
from exo_node.errors import RingBroken
from tests.checkpoints import (
    EXPERTS,
    FAMILIES,
    HYBRIDS,
    MORE_FAMILIES,
    make_checkpoint,
    reference_logits,
    reference_states,
)
from tests.unit.engine.mlx.ring import LocalRing, Logits, ids_of

pytest.importorskip("mlx.core")
pytestmark = pytest.mark.engine_mlx

REPOSITORY = Path(__file__).parents[4]
STORIES = REPOSITORY.parent / "shared" / "models" / "stories260K"
TOLERANCE = 2e-5  # of float32 logits, batched against alone, relative to the largest
CUTS = {"whole": (0, 7), "three": (0, 3, 5, 7), "head without layers": (0, 0, 4, 7)}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("family", FAMILIES + MORE_FAMILIES + HYBRIDS + EXPERTS)
def test_logits_equal_transformers(family: str, cut: str, checkpoints: Path) -> None:
    """Every family, whole and cut: transformers' float32 logits, over two chunks past the window, then decode;
    the same read off a prompt in one product, and its hidden states behind the final norm."""
    path = make_checkpoint(family, checkpoints)
    ids = ids_of(46)
    ring = LocalRing(path, CUTS[cut])
    got = ring.run(0, ids, (23, 17))
    wanted = reference_logits(path, ids)
    assert np.abs(got - wanted).max() <= 5e-4
    ring.step((1, ids, 46))
    head = ring.engines[0]
    assert np.abs(head.scores(ring.home, range(3, 46)) - wanted[3:]).max() <= 5e-4
    assert np.abs(head.states(ring.home, range(3, 46)) - reference_states(path, ids)[3:]).max() <= 5e-4
    some, all_of_them = head.logits(ring.home, [5, 2]), head.logits(ring.home)
    assert np.abs(some - all_of_them[[5, 2]]).max() <= TOLERANCE * np.abs(all_of_them).max()


@pytest.mark.parametrize("cut", ((0, 7), (0, 1, 7)))
def test_gemma3_embedding_scale_is_not_rounded(cut: tuple[int, ...], checkpoints: Path) -> None:
    """sqrt(hidden_size) that bfloat16 cannot hold (mlx-lm rounds it) is exact in float32."""
    path = make_checkpoint("gemma3_text", checkpoints, hidden_size=92)
    ids = ids_of(20)
    assert np.abs(LocalRing(path, cut).run(0, ids, (13,)) - reference_logits(path, ids)).max() <= 5e-4


def test_longrope_beyond_the_original_context(checkpoints: Path) -> None:
    """A context longer than the original one takes the long factors, as transformers does for a prompt that long."""
    path = make_checkpoint("phi3_longrope", checkpoints)
    ids = ids_of(140)
    ring = LocalRing(path, (0, 7), context=160)
    got = ring.run(0, ids, (64, 64, 10))
    assert np.abs(got - reference_logits(path, ids)).max() <= 5e-4


@pytest.mark.parametrize("rope", [{"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}])
@pytest.mark.parametrize("family", ("llama", "mistral", "qwen2", "qwen3"))
def test_linear_rope_scaling(family: str, rope: dict[str, object], checkpoints: Path) -> None:
    """Linear rope scaling and another base are right too."""
    path = make_checkpoint(family, checkpoints, rope_parameters=rope)
    ids = ids_of(30)
    assert np.abs(LocalRing(path, (0, 7)).run(0, ids, (20,)) - reference_logits(path, ids)).max() <= 5e-4


@pytest.mark.parametrize("family", ("qwen2", "qwen3", "qwen3_moe"))
def test_qwen_windows_on_the_upper_layers(family: str, checkpoints: Path) -> None:
    """use_sliding_window with max_window_layers gives the upper layers a window, qwen3_moe all of them."""
    path = make_checkpoint(family, checkpoints, use_sliding_window=True, sliding_window=9, max_window_layers=3)
    ids = ids_of(40)
    assert np.abs(LocalRing(path, (0, 4, 7)).run(0, ids, (20, 15)) - reference_logits(path, ids)).max() <= 5e-4


@pytest.mark.parametrize("stored", ("bfloat16", "float16"))
@pytest.mark.parametrize("family", ("llama", "gemma3_text"))
def test_half_checkpoints_compute_in_float32(family: str, stored: str, checkpoints: Path) -> None:
    """bf16 and fp16 weights are cast exactly: float32 logits of transformers on the same weights."""
    path = make_checkpoint(family, checkpoints, dtype=stored)
    ids = ids_of(30)
    assert np.abs(LocalRing(path, (0, 3, 7)).run(0, ids, (20,)) - reference_logits(path, ids)).max() <= 5e-4


@pytest.mark.parametrize(("dtype", "bound"), (("bfloat16", 0.25), ("float16", 0.05)))
@pytest.mark.parametrize("family", ("llama", "mistral", "qwen3", "phi3"))
def test_half_precision_compute(family: str, dtype: str, bound: float, checkpoints: Path) -> None:
    """Computing and travelling in half precision stays near float32 (ENGINES.md 1 gives the usual errors)."""
    path = make_checkpoint(family, checkpoints, dtype=dtype)
    ids = ids_of(24)
    reference = reference_logits(path, ids)
    got = LocalRing(path, (0, 3, 7), dtype=dtype).run(0, ids, (20,))  # type: ignore[arg-type]
    assert got.dtype == np.float32
    assert np.abs(got - reference).max() <= bound * max(1.0, float(reference.std()))


def test_hidden_states_survive_the_wire_bit_for_bit(checkpoints: Path) -> None:
    """A bf16 shard's output through bytes and back is the same array: cut and whole agree bit for bit."""
    path = make_checkpoint("llama", checkpoints, dtype="bfloat16")
    ids = ids_of(20)
    whole = LocalRing(path, (0, 7), dtype="bfloat16").run(0, ids, (11,))
    cut = LocalRing(path, (0, 2, 7), dtype="bfloat16").run(0, ids, (11,))
    assert np.array_equal(whole, cut)


@pytest.mark.parametrize("family", ("llama", "gemma2"))
@pytest.mark.parametrize("cut", ((0, 7), (0, 3, 7)))
def test_rows_of_a_step_equal_rows_alone(family: str, cut: tuple[int, ...], checkpoints: Path) -> None:
    """Reproducible: prefill and decode of several sequences in one step give each the bits that it gets alone."""
    path = make_checkpoint(family, checkpoints)
    together, alone = LocalRing(path, cut, reproducible=True), LocalRing(path, cut)
    a, b, c = ids_of(20, 1), ids_of(9, 2), ids_of(31, 3)
    together.step((0, a[:15], 1))
    rows = [
        together.step((0, a[15:16], 1), (1, b[:7], 0), (2, c[:30], 2)),
        together.step((1, b[7:8], 1), (0, a[16:17], 1), (2, c[30:], 1)),
        together.step((0, a[17:20], 3), (1, b[8:], 1)),
    ]
    x = [alone.step((0, a[:15], 1)), *[alone.step((0, a[i : i + 1], 1)) for i in (15, 16)], alone.step((0, a[17:], 3))]
    y = [alone.step((1, b[:7], 0)), alone.step((1, b[7:8], 1)), alone.step((1, b[8:], 1))]
    z = [alone.step((2, c[:30], 2)), alone.step((2, c[30:], 1))]
    assert np.array_equal(np.concatenate([x[1], z[0]]), rows[0])
    assert np.array_equal(np.concatenate([y[1], x[2], z[1]]), rows[1])
    assert np.array_equal(np.concatenate([x[3], y[2]]), rows[2])


@pytest.mark.parametrize("family", ("llama", "mistral", "gemma2", "gemma3_text", "qwen3_moe"))
def test_rollback_equals_fresh(family: str, checkpoints: Path) -> None:
    """After a slot is cut back, what follows has the bits of a slot that never went further; 0 empties it."""
    path = make_checkpoint(family, checkpoints)
    ring = LocalRing(path, (0, 3, 7))
    ids, other = ids_of(40), ids_of(40, 5)
    fresh = [ring.step((0, ids[:20], 1)), *[ring.step((0, ids[i : i + 1], 1)) for i in range(20, 24)]]
    ring.step((1, ids[:20], 1))
    for i in range(20, 33):
        ring.step((1, other[i : i + 1], 1))
    ring.truncate(1, 20)
    again = [ring.step((1, ids[i : i + 1], 1)) for i in range(20, 24)]
    assert np.array_equal(fresh[1:], again)
    ring.truncate(1, 0)
    assert np.array_equal(fresh[0], ring.step((1, ids[:20], 1)))


@pytest.mark.parametrize("family", ("llama", "gemma2", "qwen3_moe"))
def test_copy_equals_fresh(family: str, checkpoints: Path) -> None:
    """A copied prefix continues with the bits of the original, and the two slots then live apart."""
    path = make_checkpoint(family, checkpoints)
    ring = LocalRing(path, (0, 3, 7))
    ids, other = ids_of(40), ids_of(40, 5)
    ring.step((0, ids[:25], 1))
    ring.step((1, other[:30], 1))
    ring.copy(1, 0, 17)
    ring.step((2, ids[:25], 1))
    ring.truncate(2, 17)
    branch = [ring.step((1, other[i : i + 1], 1)) for i in range(5)]
    assert np.array_equal(branch, [ring.step((2, other[i : i + 1], 1)) for i in range(5)])
    onward = ring.step((0, ids[25:26], 1))
    ring.truncate(2, 0)
    ring.step((2, ids[:25], 1))
    assert np.array_equal(onward, ring.step((2, ids[25:26], 1)))


def test_slots_grow_past_a_block_and_stop_at_the_context(checkpoints: Path) -> None:
    """A sequence of several blocks is right, and the token past the context is refused."""
    path = make_checkpoint("llama", checkpoints, max_position_embeddings=1024)
    ids = ids_of(300)
    ring = LocalRing(path, (0, 7), context=300)
    got = ring.run(0, ids, (200, 54))
    assert np.abs(got - reference_logits(path, ids)).max() <= 5e-4
    with pytest.raises(RingBroken, match="context is 300"):
        ring.step((0, [5], 1))


LONG = 700  # tokens: many windows, and twice what a windowed layer keeps of them
WINDOWED: dict[str, dict[str, Any]] = {
    "mistral": {},
    "gemma2": {},
    "gemma3_text": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 3},
}


@pytest.mark.parametrize("family", WINDOWED)
def test_windowed_layers_forget_what_no_token_sees(family: str, checkpoints: Path) -> None:
    """Long past their windows: transformers' logits, in slices of a prompt, in ragged company, after rollbacks within
    the depth and in copies, in no more memory than reported; what was forgotten cannot be cut to."""
    path = make_checkpoint(family, checkpoints, max_position_embeddings=1024, **WINDOWED[family])
    ring = LocalRing(path, (0, 3, 7), context=LONG, max_chunk=64)
    a, b = ids_of(LONG), ids_of(LONG, 1)
    wanted_a, wanted_b = reference_logits(path, a), reference_logits(path, b)

    def near(got: Logits, *wanted: Logits) -> None:
        assert np.abs(got - np.concatenate(wanted)).max() <= 5e-4

    for at in range(0, 576, 64):
        near(ring.step((0, a[at : at + 64], 64)), wanted_a[at : at + 64])
    for i in range(24):  # one decodes while the other's prompt comes in slices
        got = ring.step((0, a[576 + i : 577 + i], 1), (1, b[25 * i : 25 * i + 25], 1))
        near(got, wanted_a[576 + i : 577 + i], wanted_b[25 * i + 24 : 25 * i + 25])
    ring.copy(2, 0, 590)
    near(ring.step((2, a[590:640], 50), (0, a[600:601], 1)), wanted_a[590:640], wanted_a[600:601])
    for slot, most, ids, wanted in ((2, 640, a, wanted_a), (1, 600, b, wanted_b)):
        at = most - SLACK
        ring.truncate(slot, at)
        near(ring.step((slot, ids[at : at + 64], 64)), wanted[at : at + 64])
        near(ring.step((slot, ids[at + 64 : at + 65], 1)), wanted[at + 64 : at + 65])
    for engine, report in zip(ring.engines, ring.reports, strict=True):
        assert engine.kv_bytes() <= report.kv_bytes
    with pytest.raises(RingBroken, match="cannot be cut"):
        ring.engines[1].truncate(0, 100)


def test_a_row_must_continue_its_slot(checkpoints: Path) -> None:
    """A gap, a duplicate or an unknown slot is an error, never a silent trim, and changes nothing."""
    ring = LocalRing(make_checkpoint("llama", checkpoints), (0, 7))
    engine = ring.engines[0]
    ring.step((0, ids_of(5), 1))
    for position in (4, 6):
        with pytest.raises(RingBroken, match="holds 5 tokens"):
            engine.forward([EngineRow(0, position, 1, np.array([3], np.int32), 1)], None)
    with pytest.raises(RingBroken, match="no KV slot 3"):
        engine.forward([EngineRow(3, 0, 1, np.array([3], np.int32), 1)], None)
    with pytest.raises(RingBroken, match="vocabulary"):
        engine.forward([EngineRow(0, 5, 1, np.array([160], np.int32), 1)], None)
    with pytest.raises(RingBroken, match="cannot be cut"):
        engine.truncate(0, 6)
    with pytest.raises(RingBroken, match="cannot be copied"):
        engine.copy(1, 0, 6)
    assert ring.step((0, [4], 1)).shape == (1, 160)


def test_wrong_hidden_states_are_refused(checkpoints: Path) -> None:
    """A follower refuses hidden states of another width or count, and rows without any."""
    follower = LocalRing(make_checkpoint("llama", checkpoints), (0, 3, 7)).engines[1]
    row = EngineRow(0, 0, 2, None, 1)
    with pytest.raises(RingBroken, match="width is 64"):
        follower.forward([row], Hidden("float32", (2, 32), bytes(256)))
    with pytest.raises(RingBroken, match="1 hidden states for rows"):
        follower.forward([row], Hidden("float32", (1, 64), bytes(256)))
    with pytest.raises(RingBroken, match="hidden states"):
        follower.forward([row], None)
    with pytest.raises(RingBroken, match="only the head"):
        follower.logits(Hidden("float32", (1, 64), bytes(256)))


def test_report_accounts_for_the_whole_pool(checkpoints: Path) -> None:
    """kv_bytes is slots x context x layers x K and V; any rollback is allowed."""
    report = LocalRing(make_checkpoint("llama", checkpoints), (0, 3, 7), slots=3, context=96).reports[1]
    assert report.kv_bytes == 3 * 96 * 4 * 2 * 2 * 16 * 4
    assert (report.rollback_depth, report.whole_tokens) == (None, 0)
    assert report.info["device"] == "CPU"


def test_report_counts_a_window_once(checkpoints: Path) -> None:
    """Of a layer with a window: window, slack and chunk of each slot; a context that is not longer is kept whole."""
    path = make_checkpoint("gemma3_text", checkpoints, max_position_embeddings=1024)
    most = 11 + SLACK + 64
    ring = LocalRing(path, (0, 5, 7), slots=3, context=LONG, max_chunk=64)
    token = 2 * 2 * 16 * 4
    assert [report.kv_bytes for report in ring.reports] == [15 * most * token, 3 * (LONG + most) * token]
    assert [(report.rollback_depth, report.whole_tokens) for report in ring.reports] == [(SLACK, most)] * 2
    short = LocalRing(path, (0, 7), slots=3, context=most, max_chunk=64).reports[0]
    assert (short.kv_bytes, short.rollback_depth) == (21 * most * token, None)


@pytest.mark.skipif(not STORIES.exists(), reason="../shared/models/stories260K is not there")
@pytest.mark.parametrize("cut", ((0, 5), (0, 2, 3, 5)))
def test_stories_text(cut: tuple[int, ...]) -> None:
    """A trained checkpoint tells its published story: the first greedy ids of EXPECTED.md."""
    text = (STORIES / "EXPECTED.md").read_text()
    found = re.search(r"First ids: ([\d, ]+)", text)
    assert found is not None
    expected = [int(i) for i in found[1].strip(" ,").split(",")]
    ring = LocalRing(STORIES, cut)
    ids = expected[:1]
    while len(ids) < len(expected):
        ids.append(int(ring.step((0, ids[-1:], 1))[0].argmax()))
    assert ids == expected


def test_a_runner_imports_little() -> None:
    """The engine's modules for a llama come without transformers and without mlx_lm's own package code."""
    code = (
        "import sys; from exo_node.engine.mlx.engine import MLXShardEngine; MLXShardEngine();"
        "from exo_node.engine.mlx.modules import import_model_file; import_model_file('llama');"
        "print([m for m in ('transformers', 'mlx_lm.utils', 'mlx_lm.generate', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert out.stdout.strip() == "[]"
