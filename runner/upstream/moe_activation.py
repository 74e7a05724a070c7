# SPDX-License-Identifier: Apache-2.0
"""An activation that a mixture of experts can make in its forward, on CPU.

Fault: where vLLM has no grouped matrix product for the experts (without AVX-512, or float32 with
AMX), each forward makes a ``SiluAndMul`` for every expert (``_CPU_MOE_ACT_FN`` in
model_executor/layers/fused_moe/cpu_fused_moe.py), whose constructor asks for the current
configuration, which there is only while a model is made. No such model starts
(vllm-project/vllm#45447).
Versions: vLLM 0.23.0; 0.30.0 makes no layer there. Delete with 0.23.0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from vllm.model_executor.layers.activation import SiluAndMul


class ContextFreeSiluAndMul(SiluAndMul):
    """vLLM's ``SiluAndMul`` for CPU, made without a configuration."""

    def dispatch_forward(self, compile_native: bool) -> Callable[[torch.Tensor], torch.Tensor]:
        # What SiluAndMul chooses on CPU whatever the configuration says (activation.py, 0.23.0).
        return self.forward_native
