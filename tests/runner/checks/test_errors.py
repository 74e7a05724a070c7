# SPDX-License-Identifier: Apache-2.0
"""What several checks refuse is said at once."""

from __future__ import annotations

import pickle

import pytest

from ascend_gdn.runner.checks.errors import UnsupportedError, raise_if_refused, refuse_together


def refuse(*messages: str):
    return lambda: raise_if_refused(*((True, message) for message in messages))


def test_all_refusals_are_in_one_error():
    passed = []
    with pytest.raises(UnsupportedError) as caught:
        refuse_together(refuse("a", "b"), lambda: passed.append(1), refuse("c"))
    assert caught.value.refusals == ("a", "b", "c")
    assert str(caught.value) == "ascend-gdn does not support this configuration: a; b; c."
    assert passed == [1]


def test_it_is_the_same_in_another_process():
    error = UnsupportedError("a", "b")
    again = pickle.loads(pickle.dumps(error))
    assert (again.refusals, str(again)) == (error.refusals, str(error))


def test_nothing_refused_raises_nothing():
    refuse_together(lambda: raise_if_refused((False, "a")))


def test_other_errors_are_raised_at_once():
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        refuse_together(fail, refuse("a"))
