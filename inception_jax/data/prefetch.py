"""Making things in threads before they are asked for."""

import collections
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch_map(
    submit: Callable[[ThreadPoolExecutor, Item], Callable[[], Result]], items: Iterable[Item], threads: int, ahead: int
) -> Generator[Result, None, None]:
    """What is made of each item, in the order of the items, while `ahead` more are being made or ready.

    Close the generator or lose the last reference to it, and its threads end with what they are at.

    Args:
      submit: Gives a pool of `threads` the work for an item; returns what waits for its end and gives the result.
      items: Taken one by one, `ahead` before their turn.
      threads: How many work at once.
      ahead: How many are in the making or ready while the newest is used; the memory needed is one more.
    """
    pool = ThreadPoolExecutor(threads, "images")
    pending: collections.deque[Callable[[], Result]] = collections.deque()
    try:
        for item in items:
            pending.append(submit(pool, item))
            if len(pending) > ahead:
                yield pending.popleft()()
        while pending:
            yield pending.popleft()()
    finally:
        pool.shutdown(cancel_futures=True)
