# SPDX-License-Identifier: Apache-2.0
"""The errors of a start that is refused; needs no vLLM."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Refusal: TypeAlias = tuple[bool, str]
"""Whether something is refused, and "got …, expected …; what to do"."""


class IncompatibleStackError(RuntimeError):
    """The installed vLLM or vLLM-Ascend is none that ascend-gdn is built and tested against."""


class UnsupportedError(ValueError):
    """Options that the worker does not serve, each with what to do."""

    def __init__(self, *refusals: str) -> None:
        super().__init__(*refusals)  # as they are, since an error crosses processes by its args
        self.refusals = refusals
        """"got …, expected …; what to do", one for each."""

    def __str__(self) -> str:
        return "ascend-gdn does not support this configuration: " + "; ".join(self.refusals) + "."


def raise_if_refused(*checks: Refusal) -> None:
    """Raise :class:`UnsupportedError` with the messages of all checks that refuse."""
    refusals = [message for refused, message in checks if refused]
    if refusals:
        raise UnsupportedError(*refusals)


def refuse_together(*checks: Callable[[], None]) -> None:
    """Run all, and raise one :class:`UnsupportedError` with what any of them refuses."""
    refusals = [refusal for check in checks for refusal in _refusals_of(check)]
    if refusals:
        raise UnsupportedError(*refusals)


def _refusals_of(check: Callable[[], None]) -> tuple[str, ...]:
    try:
        check()
    except UnsupportedError as error:
        return error.refusals
    return ()
