# SPDX-License-Identifier: Apache-2.0
"""Prefix caching under asynchronous scheduling on NPU: the copies go where their step said.

The fault: ``execute_model`` of vllm-ascend 0.23.0 and 0.23.0.post1 (worker/model_runner_v1.py:2319)
sends the addresses of the states to copy between blocks, by ``do_mamba_copy_block``, from pinned
buffers after ``synchronize_input_prep()`` has recorded its event. The next step waits for that
event alone before it writes other addresses into them: a copy that is late takes those, and states
go to wrong blocks. vllm-project/vllm-ascend#13726.

Delete when vllm-ascend sends them before it records the event.
"""

from __future__ import annotations

from typing import Any

from ascend_gdn.runner.base import Base


class StateCopyFenceMixin(Base):
    """Put it before vLLM-Ascend's model runner in the bases."""

    def _model_forward(self, *args: Any, **kwargs: Any) -> Any:
        # execute_model has just sent them, if there were any: the event now stands behind them too.
        bufs, event = self._mamba_bufs, self.prepare_inputs_event
        if event is not None and bufs is not None and bufs.preprocess.offset > 0:
            event.record()
        return super()._model_forward(*args, **kwargs)
