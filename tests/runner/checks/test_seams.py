# SPDX-License-Identifier: Apache-2.0
"""The start-up check of signatures."""

from __future__ import annotations

import pytest

from ascend_gdn.runner.checks.errors import IncompatibleStackError
from ascend_gdn.runner.checks.seams import check_seams
from ascend_gdn.runner.versions import vllm_version


def test_the_installed_stack_passes():
    check_seams(vllm_version().vllm_seams())


def test_a_changed_signature_is_named():
    def build(self, batch, extra):
        """Stand in for a function of another vLLM."""

    check_seams({build: "self batch"})  # more parameters do no harm
    with pytest.raises(IncompatibleStackError) as caught:
        check_seams({build: "self common_prefix_len"})
    assert "build: got parameters ('self', 'batch', 'extra')" in str(caught.value)
    assert "('self', 'common_prefix_len')" in str(caught.value)
