# SPDX-License-Identifier: Apache-2.0
"""Where the tests of this folder run: on a CUDA device with vLLM for CUDA, or not at all."""

from __future__ import annotations

import pytest
import torch

CUDA = torch.device("cuda")


def require_cuda() -> None:
    """Skip the calling module where there is no CUDA device."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and vLLM for CUDA", allow_module_level=True)
