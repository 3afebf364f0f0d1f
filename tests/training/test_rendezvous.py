"""Processes find one another after restarts, in a store where earlier starts left their words."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from torch.distributed import HashStore

from wordbrush.training.rendezvous import agreed_name


def test_each_start_has_a_name_of_its_own() -> None:
    store = HashStore()
    names = []
    for start in range(3):
        order = (2, 0, 1) if start % 2 else (0, 1, 2)
        with ThreadPoolExecutor(3) as threads:
            found = set(threads.map(lambda rank: agreed_name(store, rank, 3), order))
        assert len(found) == 1
        names += found
    assert len(set(names)) == 3


def test_a_start_that_some_never_joined_does_not_confuse_the_next() -> None:
    store = HashStore()
    store.set("wordbrush/ask/1", "a word of a process that is no more")
    with ThreadPoolExecutor(2) as threads:
        assert len(set(threads.map(lambda rank: agreed_name(store, rank, 2), (0, 1)))) == 1


def test_alone_there_is_nobody_to_wait_for() -> None:
    assert agreed_name(HashStore(), 0, 1)
