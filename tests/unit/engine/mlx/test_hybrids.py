"""Families with recurrent layers: chunks, drafts, copies and what they say of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exo_node.engine.mlx.hybrids import layer_states, slot_bytes
from exo_node.engine.mlx.recurrent import INPUTS, ROLLBACK, STATES
from exo_node.errors import RingBroken
from tests.checkpoints import HYBRIDS, make_checkpoint, reference_logits
from tests.unit.engine.mlx.ring import LocalRing, ids_of

pytest.importorskip("mlx.core")
pytestmark = pytest.mark.engine_mlx

TOLERANCE = 2e-5  # relative to the largest logit, float32


@pytest.mark.parametrize("family", HYBRIDS)
def test_prompts_in_any_chunks(family: str, checkpoints: Path) -> None:
    """A prompt's logits are transformers' whatever its chunks, longer and shorter than what is kept to roll back."""
    path, ids = make_checkpoint(family, checkpoints), ids_of(90)
    wanted = reference_logits(path, ids)
    for chunks in ((64, 26), (33, 2, 1, 31, 23), (90,)):
        got = LocalRing(path, (0, 3, 7)).run(0, ids, chunks)
        assert np.abs(got - wanted).max() <= 5e-4


@pytest.mark.parametrize("family", HYBRIDS)
@pytest.mark.parametrize("cut", ((0, 7), (0, 3, 7)))
def test_rejected_drafts_leave_no_trace(family: str, cut: tuple[int, ...], checkpoints: Path) -> None:
    """After drafts of which none, some or all were right, and a cut as deep as is allowed: what follows is
    transformers' answer to the tokens that stayed."""
    path, ids, wrong = make_checkpoint(family, checkpoints), ids_of(80), ids_of(80, 7)
    wanted = reference_logits(path, ids)
    ring, at = LocalRing(path, cut), 41
    ring.step((0, ids[:at], 1))
    for right in (0, 3, 8, 0, 1):
        drafts = [*ids[at + 1 : at + 1 + right], *wrong[: 8 - right]]
        got = ring.step((0, [ids[at], *drafts], 9))[: right + 1]
        assert np.abs(got - wanted[at : at + right + 1]).max() <= TOLERANCE * np.abs(wanted).max()
        at += 1 + right
        if right < 8:
            ring.truncate(0, at)
    ring.step((0, wrong[:ROLLBACK], 1))
    ring.truncate(0, at)
    assert np.abs(ring.step((0, ids[at : at + 1], 1)) - wanted[at]).max() <= TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize("family", HYBRIDS)
def test_copies_go_on_apart(family: str, checkpoints: Path) -> None:
    """A whole sequence, or all but its end, is copied; source and copy then go on as if they were alone."""
    path, ids, other = make_checkpoint(family, checkpoints), ids_of(60), ids_of(60, 5)
    ring = LocalRing(path, (0, 3, 7))
    ring.step((0, ids[:50], 1), (1, other[:20], 1))
    ring.copy(1, 0, 50)
    ring.copy(2, 0, 45)
    branch = [*ids[:45], *other[:10]]
    got = ring.step((2, other[:10], 10), (0, ids[50:55], 5), (1, ids[50:53], 3))
    wanted = [
        reference_logits(path, branch)[45:],
        reference_logits(path, ids[:55])[50:],
        reference_logits(path, ids[:53])[50:],
    ]
    assert np.abs(got - np.concatenate(wanted)).max() <= 5e-4


@pytest.mark.parametrize("family", HYBRIDS)
def test_what_is_forgotten_is_refused(family: str, checkpoints: Path) -> None:
    """A shard with a recurrent layer says how far back it goes, and refuses more; one without goes back as ever."""
    path = make_checkpoint(family, checkpoints)
    ring = LocalRing(path, (0, 2, 3, 7))
    assert [report.rollback_depth for report in ring.reports] == [ROLLBACK, None, ROLLBACK]
    ring.step((0, ids_of(60), 1))
    with pytest.raises(RingBroken, match="cannot be cut to 20"):
        ring.engines[0].truncate(0, 20)
    with pytest.raises(RingBroken, match="20 cannot be copied"):
        ring.engines[2].copy(1, 0, 20)
    ring.engines[1].truncate(0, 20)


@pytest.mark.parametrize("family", HYBRIDS)
def test_memory_is_what_the_report_says(family: str, checkpoints: Path) -> None:
    """Keys and values of attention layers by token, states and inputs of the others by slot; never more is held."""
    ring = LocalRing(make_checkpoint(family, checkpoints), (0, 7), slots=2, context=512)
    most = 4 * 2 * 512 * 2 * 64 + 2 * 5 * slot_bytes(ring.config, 4)
    assert ring.reports[0].kv_bytes == most
    for n in (64, 30, *[1] * 40, 64, 64):
        ring.step((0, ids_of(n), 1), (1, ids_of(n), 1))
        assert ring.engines[0].kv_bytes() <= most
    ring.truncate(0, 0)
    ring.truncate(1, 0)
    assert ring.engines[0].kv_bytes() == 0


@pytest.mark.parametrize("fields", [{"position_embedding_type": "rope"}, {"layer_types": ["attention"] * 7}])
def test_granite_with_rotation_and_without_states(fields: dict[str, Any], checkpoints: Path) -> None:
    """Its attention rotates where the config says so; a model of attention alone goes back as far as any."""
    path, ids = make_checkpoint("granitemoehybrid", checkpoints, **fields), ids_of(40)
    ring = LocalRing(path, (0, 3, 7))
    assert np.abs(ring.run(0, ids, (33,)) - reference_logits(path, ids)).max() <= 5e-4
    assert (ring.reports[0].rollback_depth is None) == ("layer_types" in fields)


@pytest.mark.parametrize("family", HYBRIDS)
def test_half_precision(family: str, checkpoints: Path) -> None:
    """In bfloat16 a prompt in chunks, then tokens alone, is off by what that is off by, not more at the end."""
    path, ids = make_checkpoint(family, checkpoints, dtype="bfloat16"), ids_of(24)
    wanted = reference_logits(path, ids)
    got = LocalRing(path, (0, 3, 7), dtype="bfloat16").run(0, ids, (20,))
    off = np.abs(got - wanted).mean(axis=1)
    assert off.mean() <= 0.05 * max(1.0, float(wanted.std())) and off[-4:].mean() <= 2 * off.mean()


def test_sizes_of_states() -> None:
    """By the kinds of the layers; a convolution keeps all but one of the inputs that it reaches, a state stays wide."""
    config = {"model_type": "lfm2", "hidden_size": 64, "conv_L_cache": 3, "num_hidden_layers": 2}
    assert layer_states({**config, "layer_types": ["conv", "full_attention"]}) == (1, 0)
    assert layer_states(config) == (0, 0)
    assert slot_bytes(config, 2) == 2 * 64 * (2 * STATES + INPUTS)
    mamba = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 16, "mamba_n_groups": 2, "mamba_d_conv": 4}
    granite = {"model_type": "granitemoehybrid", "hidden_size": 16, **mamba}
    assert slot_bytes(granite, 2) == STATES * (4 * 32 * 16 + 2 * 3 * (32 + 64)) + 2 * INPUTS * 16
