# SPDX-License-Identifier: Apache-2.0
"""The schedulers' public names, for ``--scheduler-cls``."""

from ascend_gdn.runner.upstream.align_scheduler import AlignedAsyncScheduler, AlignedScheduler

__all__ = ["AlignedAsyncScheduler", "AlignedScheduler"]
