# SPDX-License-Identifier: Apache-2.0
"""The start-up check of versions and signatures."""

from __future__ import annotations

import pytest

from ascend_gdn.runner.compat import (
    IncompatibleStackError,
    Seam,
    check_seams,
    check_version,
    vllm_seams,
)


def test_the_installed_stack_passes():
    check_version()
    check_seams(vllm_seams())


@pytest.mark.parametrize("version", ["0.23.0", "0.23.0+cpu"])
def test_the_pinned_version_passes(version):
    check_version(version)


@pytest.mark.parametrize("version", ["0.22.0", "0.22.1", "0.23.1", "0.24.0", "0.24.0rc1+cpu"])
def test_another_version_is_refused_with_what_to_do(version):
    with pytest.raises(IncompatibleStackError) as caught:
        check_version(version)
    for part in (f"got vLLM {version}", "expected 0.23.0", "pip install 'vllm==0.23.0'"):
        assert part in str(caught.value)


def test_a_changed_signature_is_named():
    def build(self, batch, extra):
        """Stand in for a function of another vLLM."""

    check_seams([Seam(build, ("self", "batch"))])  # more parameters do no harm
    with pytest.raises(IncompatibleStackError) as caught:
        check_seams([Seam(build, ("self", "common_prefix_len"))])
    assert "build: got parameters ('self', 'batch', 'extra')" in str(caught.value)
    assert "('self', 'common_prefix_len')" in str(caught.value)
