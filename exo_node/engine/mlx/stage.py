"""One generic stage for every family: run a shard's layers inside mlx-lm's whole model.

The list of layers keeps its full length, with stand-ins for the layers of others, so that index arithmetic inside the
model stays true. The model is called with token ids as always; the first owned layer takes the received hidden state
in place of what it is given, the last one's output is kept. MLX is lazy: the embedding on a follower, the final norm
and LM head in a pass over the layers are never evaluated. The head's outputs come from a second pass through a list of
stand-ins only, so that the final norm, the LM head and whatever the family does to logits is the model's own code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from exo_node.engine.mlx.batch import Batch, BatchLayer
from exo_node.engine.mlx.cache import LayerCache, Slot
from exo_node.engine.mlx.recurrent import RecurrentCache, RecurrentRows
from exo_node.types import Shard

_T = TypeVar("_T")
_Recurrent = RecurrentCache | RecurrentRows


class _NoCache:
    """In a cache list, where the layer is not ours."""

    offset = 0

    def make_mask(self, *args: Any, **kwargs: Any) -> None:
        return None


class _Flow:
    """What enters the first layer of a pass (None: what the embedding gives) and what left the last."""

    __slots__ = ("entering", "leaving")

    def __init__(self) -> None:
        self.entering: Any = None
        self.leaving: Any = None


class _StandIn:
    """A layer of another shard: returns its input, answers for attributes that the model asks its layers for."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __call__(self, x: Any, mask: Any = None, cache: Any = None) -> Any:
        return x

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


class _Entry(_StandIn):
    """A stand-in that puts a hidden state in place of what comes."""

    def __init__(self, layer: Any, flow: _Flow) -> None:
        super().__init__(layer)
        self._flow = flow

    def __call__(self, x: Any, mask: Any = None, cache: Any = None) -> Any:
        return self._flow.entering


class _Owned(_StandIn):
    """A layer of this shard, under our mask. `start`: evaluation of what is built so far begins (see `Stage`)."""

    def __init__(self, layer: Any, start: Any) -> None:
        super().__init__(layer)
        self._start = start

    def __call__(self, x: Any, mask: Any = None, cache: LayerCache | BatchLayer | _Recurrent | None = None) -> Any:
        assert cache is not None
        if self._start is not None:
            self._start(x)
        if isinstance(cache, _Recurrent):
            return cache.run(self._layer, x)
        return self._layer(x, cache.mask(x.shape[1]), cache)


class _First(_StandIn):
    """Around the first owned layer (or, of a head without layers, around nothing)."""

    def __init__(self, layer: Any, flow: _Flow, correction: float) -> None:
        super().__init__(layer)
        self._flow, self._correction = flow, correction

    def __call__(self, x: Any, mask: Any = None, cache: Any = None) -> Any:
        if self._flow.entering is not None:
            x = self._flow.entering
        elif self._correction != 1.0:
            x = x * self._correction
        return self._layer(x, mask, cache)


class _Last(_StandIn):
    """Around the last owned layer."""

    def __init__(self, layer: Any, flow: _Flow) -> None:
        super().__init__(layer)
        self._flow = flow

    def __call__(self, x: Any, mask: Any = None, cache: Any = None) -> Any:
        self._flow.leaving = self._layer(x, mask, cache)
        return self._flow.leaving


# Building the graph of a layer costs about 50 us of Python, in which the device would wait. As of every this many
# layers, what is built is handed over at once and computed while Python builds the rest.
_LAYERS_PER_START = 4


class Stage:
    """The layers of `shard` in `model` (an `mlx_lm.models.*.Model` whose owned weights are loaded).

    `correction`: factor on the embedding's output (families.embedding_correction).
    """

    def __init__(self, mx: Any, model: Any, shard: Shard, *, is_head: bool, correction: float) -> None:
        self._mx, self._model, self._body, self._shard = mx, model, model.model, shard
        self._flow = _Flow()
        layers: list[Any] = list(self._body.layers)
        owned = range(shard.start_layer, shard.end_layer)
        self._running: list[Any] = [
            _Owned(layer, self._start_at(i)) if i in owned else _StandIn(layer) for i, layer in enumerate(layers)
        ]
        first, last = shard.start_layer, max(shard.start_layer, shard.end_layer - 1)
        self._running[first] = _First(self._running[first], self._flow, correction)
        self._running[last] = _Last(self._running[last], self._flow)
        # A model whose period of layer kinds is longer than itself asks for the cache of a layer it does not have.
        n_caches = max(len(layers) + 1, getattr(self._body, "sliding_window_pattern", 0) or 0)
        self._no_caches: list[Any] = [_NoCache()] * n_caches
        self._heading: list[Any] = [_Entry(layers[0], self._flow), *(_StandIn(layer) for layer in layers[1:])]
        self._one_id = mx.zeros((1, 1), mx.int32)
        if not is_head:
            # Never evaluated, but random initial values hold the graph that would make them.
            self._heading = []

    def _start_at(self, layer: int) -> Any:
        done = layer - self._shard.start_layer
        # The first layer alone is enough to keep the device busy while Python builds the next ones.
        return self._mx.async_eval if done == 1 or (done and done % _LAYERS_PER_START == 0) else None

    def run(self, slot: Slot | Batch, ids: Any, hidden: Any) -> Any:
        """Run tokens of one sequence, or of a batch, over the owned layers; keys and values go to `slot`.

        `ids` int32 on the head, `hidden` elsewhere, the other None: of one sequence [1, n] and [1, n, hidden_size], of
        a batch [tokens, 1] and [tokens, 1, hidden_size]. Returns lazily the output of the last owned layer, shaped as
        `hidden`.
        """
        caches = list(self._no_caches)
        caches[self._shard.start_layer : self._shard.end_layer] = slot.layers
        if ids is None:
            shape = hidden.shape[:2]
            ids = self._one_id if shape == (1, 1) else self._mx.zeros(shape, self._mx.int32)
        flow = self._flow
        flow.entering = hidden
        self._body.layers = self._running
        try:
            self._body(ids, cache=caches)
            return flow.leaving
        finally:
            flow.entering = flow.leaving = None

    def logits(self, hidden: Any) -> Any:
        """Final norm and LM head on [1, n, hidden_size]: lazily [1, n, vocab]."""
        return self._head(self._model, hidden)

    def states(self, hidden: Any) -> Any:
        """Final norm on [1, n, hidden_size]: lazily the same shape."""
        return self._head(self._body, hidden)

    def _head(self, part: Any, hidden: Any) -> Any:
        self._flow.entering = hidden
        self._body.layers = self._heading
        try:
            return part(self._one_id, cache=self._no_caches)
        finally:
            self._flow.entering = None


def owned(by_layer: Sequence[_T], shard: Shard) -> list[_T]:
    """Of what a model has by layer (windows, ...), the part of the shard."""
    return list(by_layer[shard.start_layer : shard.end_layer])
