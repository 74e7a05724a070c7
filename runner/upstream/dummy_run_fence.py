# SPDX-License-Identifier: Apache-2.0
"""Dummy batches under asynchronous scheduling on NPU: steps keep the lengths that they were given.

The fault: ``_dummy_run`` of vllm-ascend 0.23.0 and 0.23.0.post1 (worker/model_runner_v1.py:3506)
writes ``optimistic_seq_lens_cpu`` and copies it to the device without waiting for the step before,
whose copy from the same pinned buffer may be under way, and records no event for the next step to
wait for. A data-parallel rank runs one whenever it has no request. vLLM's own runner does both
(``synchronize_input_prep`` in ``_dummy_run``, v1/worker/gpu_model_runner.py:5772, 0.23.0;
vllm-project/vllm#34866).

Delete when vllm-ascend's does.
"""

from __future__ import annotations

from typing import Any

from ascend_gdn.runner.base import Base


class DummyRunFenceMixin(Base):
    """Put it before vLLM-Ascend's model runner in the bases."""

    def _dummy_run(self, *args: Any, **kwargs: Any) -> Any:
        with self.synchronize_input_prep():
            return super()._dummy_run(*args, **kwargs)
