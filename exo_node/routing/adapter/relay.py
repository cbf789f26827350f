"""A stream from its first content to its end: opened with what came before held back, relayed as it comes, continued on
another backend when it breaks."""

from __future__ import annotations

import asyncio
import time
from asyncio import current_task
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from exo_node.errors import DeadlineExceeded
from exo_node.routing.adapter.attempts import Attempts, Tried
from exo_node.routing.adapter.continuation import Continuer, Delivered, refusal, total_usage
from exo_node.routing.adapter.report import Report
from exo_node.routing.adapter.watch import Watch
from exo_node.routing.call import Attempt, Batch, Call, Outlet, Said, Upstream, UpstreamError
from exo_node.routing.frames import frame, usage_event
from exo_node.routing.upstream.transcript import Transcript
from exo_node.routing.upstream.wire_stream import WireStream
from exo_node.types import Usage

LATE = DeadlineExceeded.code  # code of a call whose own time is over
LINGER_S = 5.0  # after the last finish_reason, for the usage report and [DONE], which come at once or never


@dataclass(slots=True)
class Live:
    """An opened stream. `held`: its batches up to the first content, each with whether it is a special one."""

    tried: Tried
    attempt: Attempt
    batches: AsyncGenerator[Batch, None]
    transcript: Transcript
    watch: Watch
    held: list[tuple[Batch, bool]] = field(default_factory=list)

    async def next(self) -> Batch | None:
        """The next batch, read into the transcript; None at the stream's end. Raises `UpstreamError`."""
        watch = self.watch
        watch.waits += 1
        watch.task = current_task()
        try:
            batch = await self.batches.__anext__()
        except StopAsyncIteration:
            return None
        except asyncio.CancelledError:
            self.cancelled()
            raise
        watch.task = None
        self.transcript.take(batch)
        return batch

    async def flow(self, outlet: Outlet) -> Batch | None:
        """Let batches go out as they come. The first special one, which the transcript has; None when something else
        came, which the next pull finds. Raises `UpstreamError`."""
        batches, watch, transcript, write = self.batches, self.watch, self.transcript, outlet.write
        assert isinstance(batches, WireStream)
        assert write is not None
        special: Batch | None = None
        error: UpstreamError | None = None
        congested = False
        ended = asyncio.get_running_loop().create_future()

        def each(batch: Batch) -> bool:
            nonlocal special, error, congested
            watch.waits += 1
            try:
                transcript.take(batch)
            except UpstreamError as e:
                error = e
                return False
            if transcript.special:
                special = batch
                return False
            congested = not write(batch.raw)
            return not congested

        def stopped() -> None:
            if not ended.done():
                ended.set_result(None)

        watch.waits += 1
        watch.task = current_task()
        try:
            if batches.flow(each, stopped):
                await ended
        except asyncio.CancelledError:
            self.cancelled()
            raise
        finally:
            batches.halt()
        watch.task = None
        if error is not None:
            raise error
        if congested and outlet.drain is not None:
            await outlet.drain()
        return special

    def cancelled(self) -> None:
        """A wait was cancelled: raises `UpstreamError` where the watch did it."""
        if self.watch.expired():
            raise self._late() from None

    def count(self) -> None:
        """Tell the attempt what came so far."""
        self.tried.characters, self.tried.pieces = self.transcript.characters, self.transcript.pieces

    async def close(self) -> None:
        self.watch.stop()
        await self.batches.aclose()

    def _late(self) -> UpstreamError:
        backend = self.tried.candidate.backend
        silence = self.attempt.idle_s if self.watch.left > 0 else None
        if self.transcript.content and silence is None:
            what = "the answer was not complete in time"
        elif self.transcript.content:
            what = f"went silent for {silence:g} s in its answer"
        else:
            waited = self.attempt.timeout_s if self.attempt.first_s is None else self.attempt.first_s
            what = f"no answer within {waited:g} s"
        return UpstreamError(f"{backend}: {what}", "timeout", code=code_of_lateness(self.attempt.call))


def code_of_lateness(call: Call) -> str | None:
    """Whether it is the call's own time that is over, or only the attempt's."""
    return LATE if time.monotonic() >= call.deadline - 0.01 else None


async def open_stream(upstream: Upstream, attempt: Attempt, tried: Tried) -> Live:
    """Ask, and wait for the first content. Raises `ExoError`; nothing is left running then."""
    loop = asyncio.get_running_loop()
    first = attempt.timeout_s if attempt.first_s is None else min(attempt.first_s, attempt.timeout_s)
    end = loop.time() + attempt.timeout_s
    watch = Watch(loop.time() + first)
    transcript = Transcript(attempt.call, tried.candidate.backend)
    live = Live(tried, attempt, upstream.stream(attempt), transcript, watch)
    try:
        while not live.transcript.content:
            batch = await live.next()
            if batch is None:
                raise broke_off(tried)
            live.held.append((batch, live.transcript.special))
    except BaseException:
        await live.close()
        raise
    watch.restart(end, attempt.idle_s)
    return live


class Owner(Protocol):
    """The call that a relayed stream belongs to (serving.Serving)."""

    call: Call
    attempts: Attempts
    report: Report

    def broke(self, live: Live, error: UpstreamError) -> None:
        """The backend failed after its first content."""
        ...

    async def go_on(self, delivered: Delivered, error: UpstreamError) -> Live | None:
        """Another backend, opened to go on; None when nothing is left to say. Raises `ExoError`."""
        ...


async def relay(owner: Owner, live: Live, outlet: Outlet, story: Story | None = None) -> AsyncGenerator[bytes, None]:
    """The frames of the answer. The first item is empty: whoever made the generator takes it, so that closing it always
    comes here (a generator that has not begun is closed without a trace). What is not special takes the `outlet`.
    `story`: of an answer that has begun elsewhere."""
    story = story or Story(owner)
    try:
        yield b""
        while True:
            error: UpstreamError | None = None
            plain = story.continuer is None
            story.live = live
            transcript, watch = live.transcript, live.watch
            held = [batch.raw if plain and not special else story.piece(live, batch) for batch, special in live.held]
            live.held.clear()
            if piece := b"".join(held):
                yield piece
            try:
                if transcript.complete:
                    story.linger(live)
                take, step = transcript.take, live.batches.__anext__
                flows = plain and isinstance(live.batches, WireStream)
                while True:  # `live.next` without its own frame: this is where a stream's time goes
                    if flows and outlet.write is not None and (special_one := await live.flow(outlet)) is not None:
                        if piece := story.piece(live, special_one):
                            yield piece
                        if transcript.complete:
                            story.linger(live)
                        continue
                    watch.waits += 1
                    watch.task = current_task()
                    try:
                        one = await step()
                    except StopAsyncIteration:
                        break
                    except asyncio.CancelledError:
                        live.cancelled()
                        raise
                    watch.task = None
                    take(one)
                    if plain and not transcript.special:
                        yield one.raw
                        continue
                    if piece := story.piece(live, one):
                        yield piece
                    if transcript.complete:
                        story.linger(live)
            except UpstreamError as e:
                error = e
            watch.task = None
            live.count()
            if error is None and isinstance(live.batches, WireStream) and live.batches.done:
                transcript.over()
            if transcript.complete:
                break
            error = error or broke_off(live.tried)
            owner.broke(live, error)
            await live.close()
            found = await story.go_on(live, error)
            if found is None:
                break
            live = found
        if piece := story.end(live):
            yield piece
        story.answered(live)
    except (GeneratorExit, asyncio.CancelledError):
        live.count()
        owner.attempts.dropped(live.tried)
        owner.report.gone(live.tried, story.text(live))
        raise
    except BaseException as e:
        owner.attempts.dropped(live.tried)
        owner.report.failed(e, story.text(live))
        raise
    finally:
        await live.close()


class Story:
    """One answer over all the backends that make it: what goes out for each special batch, and at the end.

    `begun`: what went out of it from another node, and the backend that goes on here.
    """

    def __init__(self, owner: Owner, begun: tuple[Delivered, Live] | None = None) -> None:
        options = owner.call.body.get("stream_options")
        self._wants_usage = isinstance(options, Mapping) and options.get("include_usage") is True
        self._owner = owner
        self._said_usage = False
        self._lingers = False
        self._delivered = Delivered()
        self.continuer: Continuer | None = None
        self.live: Live | None = None
        if begun is not None:
            self._delivered, self.live = begun
            self.continuer = Continuer(self._delivered, self.live.tried.candidate)
        self._over = False  # the limit was reached just where the backend broke

    def piece(self, live: Live, batch: Batch) -> bytes:
        if self.continuer is not None:
            return self.continuer.rewrite(batch)
        return self._ending(live, batch)

    def _ending(self, live: Live, batch: Batch) -> bytes:
        """The first backend's own ending: usage only for who asked, with what we add to it."""
        if batch.texts is not None:
            ending = self._ending(live, Batch(batch.raw[batch.cut :], batch.last)) if batch.last else b""
            return batch.raw[: batch.cut] + ending
        if not any(event.get("usage") for event in batch.events):
            return batch.raw
        blocks = batch.raw[:-2].split(b"\n\n")  # one for each event: data is JSON on one line, mostly
        if len(blocks) != len(batch.events):
            blocks = [frame(event)[:-2] for event in batch.events]
        kept: list[bytes] = []
        last = max(i for i, event in enumerate(batch.events) if event.get("usage"))
        for i, (event, block) in enumerate(zip(batch.events, blocks, strict=True)):
            if i == last and self._wants_usage and live.transcript.complete and not self._said_usage:
                self._said_usage = True
                live.count()
                usage = live.transcript.usage or self._estimate(live)
                exo = self._owner.report.exo(live.tried, usage, live.transcript.usage is None)
                kept.append(frame({**event, "exo": exo})[:-2])
            elif not event.get("usage") or self._wants_usage or event.get("choices"):
                kept.append(block)  # else: a report that only we asked for, to know the cost
        return b"\n\n".join([*kept, b""]) if kept else b""

    def linger(self, live: Live) -> None:
        if not self._lingers:
            self._lingers = True
            live.tried.last = self._owner.attempts.clock()
            loop = asyncio.get_running_loop()
            live.watch.restart(loop.time() + min(LINGER_S, live.watch.left), None)

    async def go_on(self, live: Live, error: UpstreamError) -> Live | None:
        text = live.transcript.text if self.continuer is None else self.continuer.text
        self._delivered.add(live.tried.candidate, live.transcript, text, live.tried.completion_tokens)
        if not error.fails_over or error.code == LATE:
            raise error
        if why := refusal(self._owner.call, self._delivered, live.transcript):
            raise _not_continued(error, why)
        found = await self._owner.go_on(self._delivered, error)
        self._owner.report.continued |= found is not None
        self.continuer = Continuer(self._delivered, (found or live).tried.candidate)
        self._over = found is None
        return found

    def end(self, live: Live) -> bytes:
        """What is still to be said when all backends have spoken."""
        usage, estimated = self._total(live)
        exo = self._owner.report.exo(live.tried, live.transcript.usage or self._estimate(live), estimated)
        said = b""
        if self.continuer is not None:
            said = self.continuer.end(None if self._wants_usage else exo)
        if self._wants_usage and not self._said_usage:
            said += frame(usage_event(self._delivered.head or live.transcript.head, usage, exo))
        return said

    def answered(self, live: Live) -> None:
        usage, estimated = self._total(live)
        if not live.tried.ended:
            self._owner.attempts.answered(live.tried, live.transcript.usage)
        self._owner.report.answered(live.tried, usage, estimated, self.text(live))

    def said(self) -> Said:
        """See `Reply.said`."""
        assert self.live is not None
        candidate, ids = self.live.tried.candidate, self.live.transcript.ids
        return self._delivered.with_more(candidate, ids)

    def text(self, live: Live) -> str:
        if self.continuer is None:
            return live.transcript.text
        return self._delivered.text + ("" if self._over else self.continuer.text)

    def _estimate(self, live: Live) -> Usage:
        return Usage(live.tried.prompt_tokens, live.tried.completion_tokens)

    def _total(self, live: Live) -> tuple[Usage, bool]:
        used = live.transcript.usage
        if self.continuer is None:
            return used or self._estimate(live), used is None
        if self._over:
            return Usage(live.tried.prompt_tokens, self._delivered.tokens), True
        return total_usage(self._delivered, used, self._estimate(live), live.tried.candidate)


def broke_off(tried: Tried) -> UpstreamError:
    return UpstreamError(f"{tried.candidate.backend}: its stream ended without a finish_reason", "eof")


def _not_continued(error: UpstreamError, why: str) -> UpstreamError:
    made = UpstreamError(
        f"{error.message}; the answer cannot be continued elsewhere because {why}",
        error.cause,
        status=error.status,
        code=error.code,
        retry_after=error.retry_after,
        upstream_status=error.upstream_status,
    )
    made.__cause__ = error
    return made
