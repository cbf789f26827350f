"""The head's account of KV memory."""

from __future__ import annotations

from exo_node.ring.kv_account import KvAccount, Pool


def test_memory_is_charged_by_whole_blocks_up_to_the_context() -> None:
    """A sequence takes a block with its first token, the next with the one after the block's last."""
    account = KvAccount(Pool(slots=3, context=20, kv_tokens=60, block=8, max_chunk=4))
    account.hold(1, 1)
    assert (account.charged_tokens, account.cached_tokens) == (8, 1)
    assert (account.growth(1, 8), account.growth(1, 9), account.growth(1, 20)) == (0, 8, 12)
    account.hold(1, 20)
    assert account.free_tokens == 40
    assert account.growth(2, 3) == 8


def test_a_rollback_gives_memory_back() -> None:
    """Holding less than before is less to pay for."""
    account = KvAccount(Pool(slots=1, context=64, kv_tokens=64, block=8, max_chunk=4))
    account.hold(1, 17)
    account.hold(1, 9)
    assert (account.charged_tokens, account.cached_tokens) == (16, 9)


def test_what_is_dropped_is_free_again() -> None:
    """Slots and tokens; a reserved slot is not free though no shard holds anything."""
    account = KvAccount(Pool(slots=2, context=64, kv_tokens=128, block=8, max_chunk=4))
    account.hold(1, 10)
    account.reserved += 1
    assert (account.free_slots, account.sequences) == (0, 1)
    account.drop(1)
    assert (account.free_slots, account.free_tokens, account.cached_tokens) == (1, 128, 0)


def test_one_whole_sequence_always_fits() -> None:
    """A pool smaller than the context would never end its longest sequence."""
    assert KvAccount(Pool(slots=2, context=64, kv_tokens=10, max_chunk=4)).kv_tokens == 64
