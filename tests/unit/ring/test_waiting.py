"""Whose turn it is."""

from __future__ import annotations

from collections import Counter

from exo_node.ring.sequences import Generation, Job, Priority
from exo_node.ring.waiting import OVERTAKE, WaitingQueue


def generation(ticket: int, client: str = "", priority: Priority = "normal") -> Generation:
    job = Job(request_id=str(ticket), prompt=(1,), max_tokens=4, client=client, priority=priority)
    return Generation.start(ticket, job, 0.0)


def serve(queue: WaitingQueue, turns: int, tokens: float = 10.0) -> list[Generation]:
    """One after the other, each served so many tokens."""
    served = []
    for _ in range(turns):
        one = next(queue.turns(), None)
        assert one is not None
        queue.start(one)
        queue.charge(one, tokens)
        queue.stop(one)
        served.append(one)
    return served


def test_one_caller_is_served_in_order_of_arrival() -> None:
    """And one that gave its place up comes before those that never had one."""
    queue = WaitingQueue()
    for ticket in (1, 2, 3):
        queue.add(generation(ticket))
    (first,) = serve(queue, 1)
    queue.add(first, first=True)
    assert [one.ticket for one in serve(queue, 3)] == [1, 2, 3]
    assert (len(queue), next(queue.turns(), None)) == (0, None)


def test_callers_take_turns_whatever_they_have_waiting() -> None:
    """Ten requests of one do not stand before the two of another."""
    queue = WaitingQueue()
    for ticket in range(10):
        queue.add(generation(ticket, "busy"))
    for ticket in (20, 21):
        queue.add(generation(ticket, "quiet"))
    assert Counter(one.job.client for one in serve(queue, 4)) == {"busy": 2, "quiet": 2}


def test_a_priority_is_a_share() -> None:
    """A low priority gets a small part of what a normal one gets, and always something."""
    queue = WaitingQueue()
    for ticket in range(200):
        queue.add(generation(ticket, "a", "normal"))
        queue.add(generation(1000 + ticket, "a", "low"))
    served = Counter(one.job.priority for one in serve(queue, 100))
    assert 2 <= served["low"] <= 12


def test_idling_saves_nothing_up() -> None:
    """Who was away while others were served does not get all turns when it comes."""
    queue = WaitingQueue()
    for ticket in range(20):
        queue.add(generation(ticket, "steady"))
    serve(queue, 10)
    for ticket in range(30, 40):
        queue.add(generation(ticket, "back"))
    assert Counter(one.job.client for one in serve(queue, 6)) == {"steady": 3, "back": 3}


def test_a_moment_without_requests_forgives_nothing() -> None:
    """Who sends one long request after the other, each when the last has ended, is served as many tokens as one whose
    short requests always wait, not as many requests."""
    queue = WaitingQueue()
    for ticket in range(200):
        queue.add(generation(ticket, "short"))
    queue.add(generation(1000, "long"))
    tokens: Counter[str] = Counter()
    for turn in range(100):
        one = next(queue.turns())
        queue.start(one)
        size = 300 if one.job.client == "long" else 10
        queue.charge(one, size)
        tokens[one.job.client] += size
        queue.stop(one)
        if one.job.client == "long":
            queue.add(generation(1001 + turn, "long"))
    assert abs(tokens["long"] - tokens["short"]) <= 300


def test_none_waiting_saves_nothing_up_either() -> None:
    """Whose one request runs while others are served has no right to all that they had when it sends more."""
    queue = WaitingQueue()
    running = generation(1, "one")
    queue.add(running)
    queue.start(running)
    for ticket in range(10, 60):
        queue.add(generation(ticket, "many"))
    serve(queue, 30)
    for ticket in range(100, 120):
        queue.add(generation(ticket, "one"))
    assert Counter(one.job.client for one in serve(queue, 6)) == {"many": 3, "one": 3}


def test_nobody_who_waits_is_the_measure_where_nobody_waits() -> None:
    """While there are slots for all, nobody is served at another's expense: then those who come are equal."""
    queue = WaitingQueue()
    first, second = generation(1, "first"), generation(2, "second")
    for one, tokens in ((first, 5.0), (second, 1000.0)):
        queue.add(one)
        queue.start(one)
        queue.charge(one, tokens)
    for ticket in range(10, 20):
        queue.add(generation(ticket, "first"))
        queue.add(generation(ticket + 10, "second"))
    assert Counter(one.job.client for one in serve(queue, 6)) == {"first": 3, "second": 3}


def test_who_waits_no_longer_is_forgotten() -> None:
    """A cancelled one leaves nothing behind; one that was served more than its share is known until the others have
    had as much, or have all gone."""
    queue = WaitingQueue()
    one, served, other = generation(1, "a"), generation(2, "b"), generation(3, "c")
    queue.add(one)
    assert list(queue) == [one]
    queue.remove(one)
    assert not queue._flows
    for ticket in (10, 11, 12, 13):
        queue.add(generation(ticket, "a"))
    queue.add(served)
    queue.start(served)
    queue.charge(served, 15.0)
    queue.stop(served)
    assert ("b", "normal") in queue._flows
    serve(queue, 1)
    assert ("b", "normal") in queue._flows
    serve(queue, 1)
    assert list(queue._flows) == [("a", "normal")]
    queue.add(other)
    serve(queue, 3)
    assert not queue._flows


def test_the_more_urgent_may_go_before_one_that_finds_no_place_but_not_for_ever() -> None:
    """Of those behind it only a higher priority may, and only until it has had so much more."""
    queue = WaitingQueue()
    low, high = generation(1, "1", "low"), generation(3, "3", "high")
    for one in (low, generation(4, "4", "low"), generation(2, "2", "normal"), high):
        queue.add(one)
    assert [one.ticket for one in queue.turns()] == [1, 2, 3]
    queue.start(high)
    queue.charge(high, 8 * OVERTAKE)
    queue.add(generation(5, "3", "high"))
    assert [one.ticket for one in queue.turns()] == [1, 2, 5]
    queue.charge(high, 8.0)
    assert [one.ticket for one in queue.turns()] == [1, 2]


def test_the_order_before_a_new_one_is_foretold() -> None:
    """Callers in turn, by what each is served; whoever comes after the new one's turn is not among them."""
    queue = WaitingQueue()
    for ticket, client in enumerate("aaaab", 1):
        queue.add(generation(ticket, client))
    assert queue.of("a") == 4

    def order(client: str) -> list[int]:
        return [one.ticket for one in queue.before(client, "normal", lambda one: 10.0, ())]

    assert order("a") == [1, 5, 2, 3, 4]
    assert order("b") == [1, 5, 2]
    assert order("c") == [1, 5]
    one = next(queue.turns())
    queue.start(one)
    # What runs is yet to be served ten tokens: the others' turn.
    assert [two.ticket for two in queue.before("a", "normal", lambda one: 10.0, (one,))] == [5, 2, 3, 4]
