# SPDX-License-Identifier: Apache-2.0
"""The schedulers' public names, for ``--scheduler-cls``."""

from ascend_gdn.runner.versions import vllm_version

AlignedScheduler = vllm_version().AlignedScheduler
AlignedAsyncScheduler = vllm_version().AlignedAsyncScheduler
