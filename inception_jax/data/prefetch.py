"""Ordered results of a thread pool, computed ahead."""

import collections
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch_map(
    submit: Callable[[ThreadPoolExecutor, Item], Callable[[], Result]], items: Iterable[Item], threads: int, ahead: int
) -> Generator[Result, None, None]:
    """Ordered results of a thread pool, with up to `ahead` items in flight.

    The threads end, with the items that they are working on, when the generator is closed or garbage-collected.

    Args:
      submit: Submits an item's work to a pool of `threads`; returns a function that waits for the result.
      items: Consumed one by one, up to `ahead` items early.
      threads: Number of threads.
      ahead: Number of results in flight or ready while the newest is used; the memory needed is one more.
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
