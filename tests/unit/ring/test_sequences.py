"""One generation's state."""

from __future__ import annotations

from exo_node.ring.sequences import Generation, Job, TokenChoice


def test_a_resumed_generation_prefills_what_it_had() -> None:
    """Prompt and delivered tokens are the prefill; the delivered ones count as generated."""
    generation = Generation.start(1, Job(request_id="r", prompt=(1, 2), generated=(3,), max_tokens=4), 0.0)
    assert (generation.tokens, generation.prefill, generation.n_generated) == ([1, 2, 3], 3, 1)


def test_a_stop_id_counts_before_the_length() -> None:
    """When both hold, the reason is "stop"; the end of a grammar is one too."""
    generation = Generation.start(1, Job(request_id="r", prompt=(1,), max_tokens=1, stop_ids=frozenset({9})), 0.0)
    generation.tokens.append(9)
    generation.n_generated = 1
    assert generation.finish_after(TokenChoice(9), 100) == "stop"
    assert generation.finish_after(TokenChoice(8), 100) == "length"
    assert generation.finish_after(TokenChoice(8, ended=True), 100) == "stop"
