# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse

import pytest

from serving.loads import BURSTS, Load, burst, protocol_load


def test_loads_by_name():
    assert burst("16x500") == Load("16x500", 500, 1, 16, 16)
    assert burst("1x64+65") == Load("1x64+65", 64, 65, 1, 1)
    assert not burst("16x500").decodes
    assert burst("1x64+65").decodes
    assert [burst(name).name for name in BURSTS] == [*BURSTS]


@pytest.mark.parametrize("name", ["", "16", "x500", "0x500", "16x0", "16x500+0", "16x500 "])
def test_other_names_are_refused(name):
    with pytest.raises(argparse.ArgumentTypeError, match="expected PROMPTSxTOKENS"):
        burst(name)


def test_a_warm_up_is_short():
    load = protocol_load(1500, 1500, 64, 16)
    assert load.warm_up() == Load(f"{load.name}, warm-up", 1500, 32, 16, 16)
