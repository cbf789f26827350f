"""The corpus of the `demo` model: chats made from `demo_topics` by a seeded generator, nothing else.

A chat is a list of (role, text) turns; the role `plain` stands for text outside any chat. Each question is drawn from a topic's patterns, put into a frame, and then roughened
(prefixes, suffixes, letter case, missing punctuation, typing errors, dropped small words, stray words), so that the model
learns what a question is about rather than its exact words. Every topic has one right answer: greedy text has wide margins.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from demo_heldout import HELD_OUT
from demo_patterns import ABOUT_FRAMES, DO_FRAMES, PREFIXES, SUFFIXES, SUM_ASK, SYSTEM, UNKNOWN_ASK
from demo_topics import STORIES, STORY_ASK, TOPICS, UNKNOWN, Topic

Chat = list[tuple[str, str]]

UNITS = """
zero one two three four five six seven eight nine ten
eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty
""".split()

SMALL_WORDS = frozenset(
    """
    the a an do does is are can to of please me my i you it in on for that what how exactly so would could
    """.split()
)


def normalise(question: str) -> str:
    """Lower case; letters, digits and operators only; single spaces. Questions with one result count as the same."""
    return " ".join(re.sub(r"[^a-z0-9+\-*/ ]+", " ", question.lower()).split())


FORBIDDEN = frozenset(normalise(question) for question, _ in HELD_OUT)


def expand(pattern: str, rng: random.Random) -> str:
    """Replace each `(a|b)`, innermost first, by one alternative drawn with `rng`."""
    while match := re.search(r"\(([^()]*)\)", pattern):
        pattern = pattern[: match.start()] + rng.choice(match[1].split("|")) + pattern[match.end() :]
    return " ".join(pattern.split())


def junk(rng: random.Random) -> str:
    """A made-up word that the model cannot know."""
    return "".join(
        rng.choice("bcdfghklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.randint(1, 3))
    ) + rng.choice(("", "", "n", "s", "r", "x"))


def roughen(text: str, rng: random.Random, *, keep_words: bool) -> str:
    """`text` as people might type it; with `keep_words` only case, punctuation and what stands around it change."""
    words = text.split()
    if not keep_words and len(words) > 3 and rng.random() < 0.25:
        small = [i for i, word in enumerate(words) if word in SMALL_WORDS]
        for i in sorted(rng.sample(small, min(len(small), rng.randint(1, 2))), reverse=True):
            del words[i]
    if not keep_words and len(words) > 2 and rng.random() < 0.06:
        words.insert(rng.randrange(len(words) + 1), junk(rng))
    if not keep_words and rng.random() < 0.12:
        i = rng.randrange(len(words))
        word = words[i]
        if len(word) > 4 and word.isalpha():
            j = rng.randrange(1, len(word) - 2)
            words[i] = rng.choice(
                (
                    word[:j] + word[j + 1] + word[j] + word[j + 2 :],
                    word[:j] + word[j + 1 :],
                    word[:j] + word[j] + word[j:],
                )
            )
    text = " ".join(words)
    if rng.random() < 0.3:
        text = f"{expand(rng.choice(PREFIXES), rng)} {text}"
    if rng.random() < 0.18:
        text = f"{text}{rng.choice((' ', ', '))}{expand(rng.choice(SUFFIXES), rng)}"
    case = rng.random()
    if case < 0.55:
        text = text[:1].upper() + text[1:]
        for plain, proper in (
            ("openai", "OpenAI"),
            ("mlx", "MLX"),
            ("mdns", "mDNS"),
            ("grpc", "gRPC"),
            ("nvidia", "NVIDIA"),
            (" api", " API"),
            ("apple", "Apple"),
            ("hugging face", "Hugging Face"),
            ("python", "Python"),
            (" i ", " I "),
            ("macbook", "MacBook"),
            ("llama", "Llama"),
            ("qwen", "Qwen"),
            ("gemma", "Gemma"),
            ("linux", "Linux"),
            (" url", " URL"),
            (" ram", " RAM"),
            ("http ", "HTTP "),
        ):
            text = text.replace(plain, proper)
        if rng.random() < 0.1:
            text = text.replace(" exo", " Exo")
    elif case < 0.58:
        text = text.upper()
    return text + rng.choice(("?", "?", "?", "", "", ".", "!", " ?", "??", "..."))


def topic_question(topic: Topic, rng: random.Random) -> str:
    """One way to ask for `topic`, before roughening; each kind of pattern gets its share of the draws."""
    shares = [("ask", min(len(topic.ask), 6)), ("about", 5 if topic.about else 0), ("do", 6 if topic.do else 0)]
    kind = rng.choices([name for name, _ in shares], [share for _, share in shares])[0]
    pattern = rng.choice(getattr(topic, kind))
    if kind == "about":
        pattern = rng.choice(ABOUT_FRAMES).replace("{}", pattern)
    elif kind == "do":
        pattern = rng.choice(DO_FRAMES).replace("{}", pattern)
    question = expand(pattern, rng)
    question = re.sub(r"##", lambda _: str(rng.randint(100, 9999)), question)
    return re.sub(r"#", lambda _: str(rng.randint(0, 99)), question)


def sum_answer(a: int, op: str, b: int) -> str:
    return f"{a} {op} {b} = {a + b if op == '+' else a - b}."


def sum_turn(rng: random.Random) -> tuple[str, str]:
    op = rng.choice("+-")
    top = rng.choice((10, 20, 20, 99))
    a, b = rng.randint(0, top), rng.randint(0, top)
    if op == "-" and a < b and rng.random() < 0.7:
        a, b = b, a
    in_words = max(a, b) <= 20 and rng.random() < 0.15
    question = expand(rng.choice(SUM_ASK[op]), rng)
    question = re.sub(
        r"\b[AB]\b",
        lambda match: (UNITS if in_words else [str(n) for n in range(100)])[a if match[0] == "A" else b],
        question,
    )
    return roughen(question, rng, keep_words=True), sum_answer(a, op, b)


def story_turn(rng: random.Random) -> tuple[str, str]:
    question = expand(rng.choice(STORY_ASK), rng)
    subject = next(iter(STORIES))
    if rng.random() < 0.6:
        subject = rng.choice(list(STORIES))
        about = (
            rng.choice(("about", "about", "with", "on", "of"))
            + " "
            + rng.choice(("a", "the", "a little", "a small", "an old", "a big", "my", "one"))
        )
        question += f" {about} {rng.choice(STORIES[subject][0].split('|'))}"
    return roughen(question, rng, keep_words=rng.random() < 0.7), STORIES[subject][1]


def turn(rng: random.Random) -> tuple[str, str]:
    """One question and its right answer; never a held-out question."""
    while True:
        kind = rng.random()
        if kind < 0.36:
            question, answer = sum_turn(rng)
        elif kind < 0.42:
            question, answer = story_turn(rng)
        elif kind < 0.49:
            question = re.sub("JUNK", lambda _: junk(rng), expand(rng.choice(UNKNOWN_ASK), rng))
            question, answer = roughen(question, rng, keep_words=True), UNKNOWN
        else:
            topic = rng.choices(TOPICS, [topic.weight for topic in TOPICS])[0]
            raw = topic_question(topic, rng)
            question, answer = (
                roughen(raw, rng, keep_words=topic.name == "arithmetic" or len(raw.split()) < 3),
                topic.answer,
            )
        if normalise(question) not in FORBIDDEN:
            return question, answer


def make_corpus(chats: int, seed: int) -> Iterator[Chat]:
    """`chats` chats of 1 to 12 turns, the same for the same seed; 1 in 50 is plain text for `/v1/completions` instead."""
    rng = random.Random(seed)
    plain = [*(story for _, story in STORIES.values()), *(topic.answer for topic in TOPICS)]
    for _ in range(chats):
        if rng.random() < 0.02:
            yield [("plain", rng.choice(plain))]
            continue
        chat: Chat = [("system", rng.choice(SYSTEM))] if rng.random() < 0.12 else []
        turns = rng.choice((1, 1, 1, 1, 1, 1, 2, 2, 3, 4)) if rng.random() < 0.96 else rng.randint(5, 12)
        for _ in range(turns):
            question, answer = turn(rng)
            chat += [("user", question), ("assistant", answer)]
        yield chat


def right_answer(right: str) -> str:
    """The one right answer to a held-out question, from its second column (see `demo_heldout`)."""
    if right == "unknown":
        return UNKNOWN
    if right.startswith("story:"):
        return STORIES[right.removeprefix("story:")][1]
    if match := re.fullmatch(r"(\d+) ([+-]) (\d+)", right):
        return sum_answer(int(match[1]), match[2], int(match[3]))
    return next(topic.answer for topic in TOPICS if topic.name == right)
