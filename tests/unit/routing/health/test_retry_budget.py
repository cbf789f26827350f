"""The retry budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exo_node.routing.health.retry_budget import RetryBudget


def test_a_quiet_node_may_repeat_ten_times_a_second() -> None:
    """Without any request 100 repeats in 10 s are there, and no more."""
    budget = RetryBudget()
    assert sum(budget.withdraw(0.0) for _ in range(150)) == 100
    assert not budget.withdraw(5.0)
    assert budget.withdraw(11.5)


def test_first_tries_pay_for_repeats() -> None:
    """Every five first tries allow one repeat more, for 10 s."""
    budget = RetryBudget(min_per_s=0)
    for _ in range(50):
        budget.deposit(100.0)
    assert sum(budget.withdraw(101.0) for _ in range(50)) == 10
    for _ in range(50):
        budget.deposit(102.0)
    assert budget.balance(102.0) == 10
    assert budget.balance(120.0) == 0


@given(st.lists(st.tuples(st.floats(0, 2), st.booleans()), max_size=300))
def test_repeats_never_exceed_the_budget(steps: list[tuple[float, bool]]) -> None:
    """In any run, repeats of the last 10 s stay within 20 % of the first tries of 11 s plus the reserve."""
    budget = RetryBudget(min_per_s=1)
    now, deposits, repeats = 0.0, [], []
    for wait, first in steps:
        now += wait
        if first:
            budget.deposit(now)
            deposits.append(now)
        elif budget.withdraw(now):
            repeats.append(now)
        lately = sum(1 for t in repeats if t > now - 10)
        assert lately <= 10 + 0.2 * sum(1 for t in deposits if t > now - 12) + 1e-9
