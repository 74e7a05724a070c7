# SPDX-License-Identifier: Apache-2.0
"""A worker on the emulated NPU whose drafts are partly right, for models that draft badly."""

from __future__ import annotations

from oracle import Oracle  # of tests/engine

from ascend_gdn.runner.versions import ascend_version
from emulated_npu.our_worker import OurWorker


class OracleRunner(ascend_version().StepNPUModelRunner):
    """Drafts what the oracle says. Under async scheduling only the device knows how far a request
    is."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.oracle = Oracle()

    def propose_draft_token_ids(self, sampled_token_ids, *args, **kwargs):
        drafts = super().propose_draft_token_ids(sampled_token_ids, *args, **kwargs)
        for row, req_id in enumerate(self.input_batch.req_ids):
            prompt = self.requests[req_id].prompt_token_ids
            said = max(int(self.num_computed_tokens[row]) + 1 - len(prompt), 0)
            said += int((sampled_token_ids[row] != -1).sum())
            self.oracle.draft(drafts[row], prompt, said)
        return drafts

    def _prepare_input_ids(self, scheduler_output, num_reqs, num_tokens, *args):
        super()._prepare_input_ids(scheduler_output, num_reqs, num_tokens, *args)
        # vLLM-Ascend's embedding gives zeros for what is no token; CUDA's ends the process.
        tokens = self.input_ids.gpu[:num_tokens]
        assert (tokens >= 0).all(), f"these are no tokens: {tokens.tolist()}"


class OurOracleWorker(OurWorker):
    def make_model_runner(self):
        return OracleRunner(self.vllm_config, self.device)
