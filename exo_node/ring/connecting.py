"""Joins loaded shards to a ring: what each runner is told of its neighbours, and how hidden states travel."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from exo_node.ring.keeping import kept_message
from exo_node.ring.members import ClusterView
from exo_node.ring.messages import Kept
from exo_node.transport.client import SILENCE_S
from exo_node.transport.generated.exo.v1 import node_pb2, ring_pb2
from exo_node.transport.ring_client import RingClient
from exo_node.types import Dtype, Instance

CONFIGURE_TIMEOUT_S = 10.0
# 1 Gbit/s. A chunk of 256 rows of 4096 bfloat16 takes 17 ms on it, a decoding row 65 microseconds; as int8 the chunk
# takes half, for 2 ms of packing and unpacking (scripts/bench/wire.py).
SLOW_BYTES_PER_S = 125_000_000
SPARE_STAGE = 1 << 16  # a runner that waits to take the place of stage s is loaded as stage SPARE_STAGE + s
# Longest prefill chunk. A chunk of 256 rows keeps a decode step waiting for one chunk at most, and its activations
# (256 x hidden x 4 bytes = 2 MiB at hidden 2048) below what a gRPC hop buffers.
MAX_CHUNK = 256


@dataclasses.dataclass(frozen=True, slots=True)
class Outliving:
    """What outlives an epoch (ConfigureRequest): sequences that the stages from `first` on hold."""

    sequences: tuple[Kept, ...] = ()
    first: int = 0
    next_sequence: int = 0


NOTHING = Outliving()


async def connect(
    cluster: ClusterView,
    instance: Instance,
    dtypes: Sequence[Dtype],
    ready: Mapping[int, node_pb2.ShardReady],
    outliving: Outliving = NOTHING,
    *,
    silence_s: float = SILENCE_S,
) -> Instance:
    """Tell every runner its epoch and its next hop: followers first, so that all listen before the head sends.

    `dtypes`, `ready`: what each stage computes in, and what its node said when its shard was loaded. `silence_s`: how
    long a neighbour may say nothing (`--peer-timeout`). Returns the instance as it is now. Raises `ExoError`.
    """
    here = cluster.node_id
    in_ring = [ready[stage] for stage in range(len(instance.assignments))]
    node_ids = [one.node_id for one in instance.assignments]

    def address(seen_from: str, stage: int) -> str:
        # A host has other addresses for its neighbours than for itself (loopback, IPv6 scopes).
        return join_host_port(cluster.address(seen_from, node_ids[stage]), ready[stage].port)

    addresses = tuple(address(here, stage) for stage in range(len(node_ids)))
    bounded = [shard for shard in in_ring if shard.rollback_depth >= 0]
    stages = len(addresses)
    for stage in reversed(range(stages)):
        client = RingClient(addresses[stage], instance.token, cluster.tls, instance.instance_id, silence_s)
        try:
            await client.configure(
                ring_pb2.ConfigureRequest(
                    instance_id=instance.instance_id,
                    epoch=ring_pb2.Epoch(counter=instance.epoch, coordinator=cluster.node_id),
                    stage=stage,
                    n_stages=stages,
                    next_address=address(node_ids[stage], (stage + 1) % stages),
                    wire_dtype=widest(dtypes),
                    slots=instance.slots,
                    context=instance.context,
                    kv_tokens=instance.kv_tokens,
                    max_chunk=MAX_CHUNK,
                    silence_ms=round(silence_s * 1000),
                    rollback_depth=min((shard.rollback_depth for shard in bounded), default=-1),
                    whole_tokens=min((shard.whole_tokens for shard in bounded), default=0),
                    int8_rows=packs_prompts(
                        [shard.wire_int8 for shard in in_ring],
                        stage,
                        cluster.bytes_per_s(node_ids[stage], node_ids[(stage + 1) % stages]),
                    ),
                    kept=map(kept_message, outliving.sequences),
                    kept_from=outliving.first,
                    next_sequence=outliving.next_sequence,
                ),
                timeout=CONFIGURE_TIMEOUT_S,
            )
        finally:
            await client.close()
    return dataclasses.replace(instance, addresses=addresses, state="ready")


def widest(dtypes: Sequence[Dtype]) -> Dtype:
    """The dtype in which hidden states travel so that no stage loses precision; bf16 and fp16 meet in float32."""
    kinds = set(dtypes)
    return next(iter(kinds)) if len(kinds) == 1 else "float32"


def packs_prompts(wanted: Sequence[str], stage: int, bytes_per_s: int) -> bool:
    """Whether a stage sends rows of prompts as int8 over a link of `bytes_per_s` (0 = not measured) to the next one.

    `wanted`: what each node of the ring says, `off`, `auto` or `on`; an older node says nothing. All must take part.
    The last stage sends what the logits are made of, and little of it: never packed.
    """
    if stage == len(wanted) - 1 or not {*wanted} <= {"auto", "on"}:
        return False
    return wanted[stage] == "on" or 0 < bytes_per_s < SLOW_BYTES_PER_S


def join_host_port(host: str, port: int) -> str:
    """`host:port`, with brackets round an IPv6 literal.

    >>> join_host_port("fe80::1%eth0", 9)
    '[fe80::1%eth0]:9'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
