"""How the processes that torchrun started find one another, after restarts too."""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store

_ARRIVAL = timedelta(minutes=30)  # within which all have started
_LOOK_AGAIN = 0.02  # seconds


def join(backend: str, patience: timedelta) -> None:
    """Makes the process group where torchrun's agent keeps the processes' store; elsewhere accelerate makes it.

    The agent of torch 2.13 keeps one store over all restarts, in which the addresses of processes that are no more
    still stand: taken for the new ones, processes wait for one another for ever. So each start gets a part of its own.

    `patience`: how long processes wait for one another while they train.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or torch.distributed.is_initialized():
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size, is_master=False, timeout=_ARRIVAL
    )
    own = PrefixStore(agreed_name(store, rank, size), store)
    torch.distributed.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=patience)


def agreed_name(store: Store, rank: int, size: int) -> str:
    """A name that this start's processes agree on, and that no earlier start had, whatever it left in the store.

    Each process but the first asks by a random word; the first answers every word it finds with its own, old words too,
    until each process has said that it heard. How often a node restarted does not matter: nodes count differently.
    """
    word = uuid.uuid4().hex
    if rank:
        store.set(f"wordbrush/ask/{rank}", word)
        name = store.get(f"wordbrush/answer/{word}").decode()
        store.set(f"wordbrush/heard/{name}/{rank}", "1")
        return name
    missing, started = set(range(1, size)), time.monotonic()
    while missing:
        for other in sorted(missing):
            if store.check([f"wordbrush/ask/{other}"]):
                asked = store.get(f"wordbrush/ask/{other}").decode()
                store.set(f"wordbrush/answer/{asked}", word)
            if store.check([f"wordbrush/heard/{word}/{other}"]):
                missing.discard(other)
        if time.monotonic() - started > _ARRIVAL.total_seconds():
            raise TimeoutError(f"processes {sorted(missing)} have not started within {_ARRIVAL}")
        time.sleep(_LOOK_AGAIN)
    return word
