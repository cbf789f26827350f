"""The bundled model's greedy answers, pinned: a clone without ../shared tests real text too."""

from __future__ import annotations

from tests.integration.shared_rings import SharedRing, on_rings

# As torch in float32 gives them. The smallest gap between the two likeliest tokens is 2.2: no engine may differ.
ANSWERS = {
    "What is exo?": "Exo turns your own computers into one cluster that runs AI models. A model that is too big for "
    "one machine is split by layers over several nodes, and you use it through an OpenAI-compatible API.",
    "Hello": "Hello! I am demo, the small model that comes with exo. How can I help you?",
    "What is 7 + 5?": "7 + 5 = 12.",
    "Tell me a short story.": "Once upon a time a little computer wanted to run a big model, but the model was too big "
    "for it. It called its friends, each took some layers, and together they told stories all night. The end.",
    "How does a ring work?": "The layers of a model are split over the nodes of a ring. The head sends hidden states "
    "to the next shard, they travel round the ring and come home to the head, which picks the next token.",
    "12 - 5": "12 - 5 = 7.",
}


@on_rings("mlx", "tinygrad", "tinygrad-mlx")
def test_demo_answers_as_pinned(shared_ring: SharedRing) -> None:
    """Each layout gives the pinned answers to the letter, ends by itself, and streams the same text."""
    shared_ring.place("demo")
    client = shared_ring.cluster[-1].client()
    for prompt, expected in ANSWERS.items():
        answer = client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": prompt}], temperature=0
        )
        assert answer.choices[0].message.content == expected
        assert answer.choices[0].finish_reason == "stop"
    chunks = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "Hello"}], temperature=0, stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == ANSWERS["Hello"]
