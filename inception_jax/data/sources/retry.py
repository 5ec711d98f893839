"""Retries with growing pauses, for reads over a network."""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds before the second, third, ... attempt."""

_DEADLINE = 60.0
"""Seconds after which there is no further attempt; some packages have retries of their own."""


def with_retries(action: Callable[[], Result], is_transient: Callable[[Exception], bool]) -> Result:
    """Calls `action`, with retries after growing pauses while `is_transient(error)`; returns its result.

    Raises:
      Exception: the error of the last attempt, or the first that is not transient.
    """
    begin = time.monotonic()
    for pause in _PAUSES:
        try:
            return action()
        except Exception as error:
            if not is_transient(error) or time.monotonic() - begin > _DEADLINE:
                raise
        time.sleep(pause)
    return action()
