# SPDX-License-Identifier: Apache-2.0
"""An Ascend NPU emulated on the CPU, for vllm-ascend 0.23.0.post1 to run on unmodified.

What vllm-ascend finds in its place: the module ``torch_npu`` and the operators of it that a
Qwen3-Next or Qwen3.5 takes, the operators of vllm-ascend's own C++ extension
(``torch.ops._C_ascend``), and its Triton kernels. Each is a plain PyTorch function that checks its
arguments as the real one's host code does. Nothing else is there: an operator that is not emulated
raises.

It changes foreign modules, which what we ship never does, and so it belongs to the tests alone.

What it cannot find: races of streams and events, faults of pinned memory and alignment. Copying
from the "device" to the host and back makes no copy at all here, which can hide a mistake.
"""
