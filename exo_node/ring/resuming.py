"""The head's deltas of one generation across losses of the ring: each token comes once, in order.

The node that holds the client's connection has all that a generation is made of (ARCHITECTURE 3.10): the prompt, what
was said so far, the seed. When the ring breaks it has it brought back and asks again with what was said; a head counts
tokens from the first, so none is lost or repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from exo_node.errors import KEY_DROPPED, DeadlineExceeded, ExoError, PeerUnavailable, RingBroken, Unauthorized
from exo_node.ring.ports import Instances
from exo_node.ring.recovering import Recovered
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.types import Instance

BARREN = 3  # losses without a token between them: what the request asks for may be what breaks the ring
OURS = frozenset({"replaced", "stale_attempt"})  # a newer attempt of this request goes on, so this one must not
REDIAL_PAUSE_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryRecord:
    """One generation's way over one loss. Milliseconds; `noticed_s` is on the clock that a machine's processes share
    (monotonic). `gap_ms`: from the last token before the loss to the first after it."""

    instance_id: str
    model: str
    request_id: str
    epoch: int
    cause: str
    noticed_s: float
    fence_ms: float
    plan_ms: float
    load_ms: float
    connect_ms: float
    loaded: tuple[int, ...]
    waited_ms: float
    replayed_tokens: int
    known_tokens: int
    gap_ms: float


async def deltas(
    instances: Instances,
    instance: Instance,
    message: ring_pb2.GenerateRequest,
    deadline: float | None,
    record: Callable[[RecoveryRecord], None],
) -> AsyncGenerator[ring_pb2.GenerateDelta, None]:
    """What the head says up to the finish reason. `deadline` is monotonic.

    A call that a rotation of the cluster's key has ended is made again, over a new connection: the ring runs on.
    Raises `RingBroken` or `PeerUnavailable` where no ring can go on with it, and what the head raises else.
    """
    message = _copy(message)
    said, prompt, heard, barren = len(message.generated_ids), len(message.prompt_ids), 0, 0
    after: _Loss | None = None
    last = time.monotonic()
    while True:
        skip, progressed = heard, False
        try:
            # Here, since a head whose node has just gone cannot even be dialled.
            async with contextlib.aclosing(instances.client(instance).generate(_copy(message))) as stream:
                async for delta in stream:
                    if delta.index != said:
                        raise RingBroken(f"the head sent token {delta.index} where {said} was next")
                    if skip and delta.prompt_logprobs:
                        again = min(skip, len(delta.prompt_logprobs))
                        del delta.prompt_logprobs[:again]
                        skip -= again
                    heard += len(delta.prompt_logprobs)
                    said += len(delta.ids)
                    message.generated_ids.extend(delta.ids)
                    message.sequence = delta.sequence or message.sequence
                    progressed = progressed or bool(delta.ids)
                    if after is not None and (delta.ids or delta.finish_reason):  # vectors and scores have no ids
                        record(after.over(delta, prompt + said - len(delta.ids), last))
                        after = None
                    last = time.monotonic()
                    yield delta
                    if delta.finish_reason:
                        return
                raise RingBroken("the head ended the stream without a finish reason")
        except Unauthorized as error:
            barren = 0 if progressed else barren + 1
            if error.code != KEY_DROPPED or barren > BARREN:
                raise
            await asyncio.sleep(barren * REDIAL_PAUSE_S)  # the new key reaches one node before the other
        except (RingBroken, PeerUnavailable) as error:
            barren = 0 if progressed else barren + 1
            if error.code in OURS or barren > BARREN:
                raise
            noticed = time.monotonic()
            found = await _brought_back(instances, instance, error, deadline)
            if prompt + said >= found.instance.context:
                raise RingBroken(
                    f"{error.message}; what is left of the ring holds {found.instance.context} tokens, "
                    f"and this answer has {prompt + said}"
                ) from error
            if found.instance.instance_id != instance.instance_id:
                message.sequence = 0
            instance = found.instance
            after = _Loss(message.request_id, error, noticed, time.monotonic(), found)
        message.instance_id = instance.instance_id
        message.attempt += 1
        if said:
            message.ClearField("prompt_logprobs")  # all of it was told before the first token
        if deadline is not None:
            message.timeout_ms = max(1, int((deadline - time.monotonic()) * 1000))


def _copy(message: ring_pb2.GenerateRequest) -> ring_pb2.GenerateRequest:
    made = ring_pb2.GenerateRequest()
    made.CopyFrom(message)
    return made


async def _brought_back(instances: Instances, instance: Instance, error: ExoError, deadline: float | None) -> Recovered:
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        async with asyncio.timeout(left):
            return await instances.recover(instance)
    except TimeoutError:
        raise DeadlineExceeded(f"{error.message}; the request's time ran out before it was brought back") from error
    except ExoError as why:
        raise RingBroken(f"{error.message}; it cannot be brought back: {why.message}", code="ring_lost") from error


@dataclass(frozen=True, slots=True)
class _Loss:
    """A loss that a generation has not got over yet."""

    request_id: str
    error: ExoError
    noticed: float
    back: float
    found: Recovered

    def over(self, delta: ring_pb2.GenerateDelta, known: int, last: float) -> RecoveryRecord:
        instance, times = self.found.instance, self.found.times
        return RecoveryRecord(
            instance_id=instance.instance_id,
            model=instance.model_id,
            request_id=self.request_id,
            epoch=instance.epoch,
            cause=self.error.message,
            noticed_s=round(self.noticed, 6),
            fence_ms=times.fence_us / 1000,
            plan_ms=times.plan_us / 1000,
            load_ms=times.load_us / 1000,
            connect_ms=times.connect_us / 1000,
            loaded=tuple(times.loaded),
            waited_ms=round((self.back - self.noticed) * 1000, 3),
            replayed_tokens=delta.replayed_tokens,
            known_tokens=known,
            gap_ms=round((time.monotonic() - last) * 1000, 3),
        )
