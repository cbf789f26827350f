"""What a Configure asks of a runner: whether that can be, and what its head is set up with. Pure."""

from __future__ import annotations

from exo_node.errors import InvalidRequest
from exo_node.ring.head_data import RingSetup
from exo_node.ring.keeping import read_kept
from exo_node.ring.runner_config import RunnerConfig
from exo_node.ring.wire import read_epoch
from exo_node.transport.codec import parse_dtype
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.types import DTYPE_BYTES


def check_configure(config: RunnerConfig, request: ring_pb2.ConfigureRequest) -> None:
    """Raise `InvalidRequest` that names the field for what the runner of `config` cannot be."""
    parse_dtype(request.wire_dtype)
    kept = read_kept(request.kept)
    if not request.stage < request.n_stages:
        raise InvalidRequest(f"stage {request.stage} of {request.n_stages} does not exist", param="stage")
    if kept and not max(one.lost_from for one in kept) <= request.kept_from <= request.n_stages:
        raise InvalidRequest(
            f"sequences are kept from stage {request.kept_from} of {request.n_stages} on, and before another",
            param="kept_from",
        )
    if kept and config.is_head and request.next_sequence <= kept[-1].sequence:
        raise InvalidRequest("next_sequence must be larger than every id that is kept", param="next_sequence")
    if (request.stage == 0) != config.is_head:
        raise InvalidRequest("stage 0 and only stage 0 is the head", param="stage")
    if request.n_stages > 1 and not request.next_address:
        raise InvalidRequest("a ring of several stages needs next_address", param="next_address")
    if request.int8_rows and (config.reproducible or request.stage == request.n_stages - 1):
        raise InvalidRequest("a reproducible stage and the last one pack nothing", param="int8_rows")
    for name in ("slots", "context", "max_chunk"):
        wanted, held = getattr(request, name), getattr(config, name)
        if config.is_head and not 0 < wanted <= held:
            raise InvalidRequest(f"{name} is {wanted}; this shard was loaded for 1 to {held}", param=name)


def ring_setup(
    config: RunnerConfig, request: ring_pb2.ConfigureRequest, vocab_size: int, hidden_size: int
) -> RingSetup:
    """What the head goes by; `request` was checked."""
    return RingSetup(
        epoch=read_epoch(request.epoch),
        n_stages=request.n_stages,
        slots=request.slots,
        context=request.context,
        max_chunk=request.max_chunk,
        vocab_size=vocab_size,
        vector_bytes=hidden_size * DTYPE_BYTES[parse_dtype(request.wire_dtype)],
        kv_tokens=request.kv_tokens,
        rollback_depth=None if request.rollback_depth < 0 else request.rollback_depth,
        whole_tokens=request.whole_tokens,
        max_waiting=config.max_waiting,
        prefix_cache=config.prefix_cache,
        speculation=config.speculation,
        reproducible=config.reproducible,
        kept=read_kept(request.kept),
        kept_from=request.kept_from if request.kept else 0,
        next_sequence=request.next_sequence or 1,
    )
