# SPDX-License-Identifier: Apache-2.0
"""``--additional-config`` is vllm-ascend's as well: none of its options passes for ours."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import vllm_ascend

from ascend_gdn.runner.checks.additional_options import refused_options


def test_no_option_of_vllm_ascend_is_refused():
    sources = Path(vllm_ascend.__file__).parent.rglob("*.py")
    read = r'additional_config(?:\.get\(|\[|,)\s*"(\w+)"'
    names = {name for path in sources for name in re.findall(read, path.read_text())}
    assert {"xlite_graph_config", "refresh"} < names  # of 0.23.0 and 0.30.0rc2
    options = dict.fromkeys(names)
    assert refused_options(SimpleNamespace(additional_config=options)) == []
