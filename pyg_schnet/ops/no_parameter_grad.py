"""Saying that nobody is going to ask for gradients by weights, which are many, where one asks for forces."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class _State(threading.local):
    fixed = False


_state = _State()


@contextlib.contextmanager
def no_parameter_grad(fixed: bool = True) -> Iterator[None]:
    """Results computed inside may leave out how they depend on weights, in this thread.

    Args:
        fixed: Whether it is so; ``False`` changes nothing.

    Example:
        >>> with no_parameter_grad():
        ...     parameter_grads_are_off()
        True
    """
    before = _state.fixed
    _state.fixed = before or fixed
    try:
        yield
    finally:
        _state.fixed = before


def parameter_grads_are_off() -> bool:
    """Whether gradients by weights may be left out."""
    return _state.fixed
