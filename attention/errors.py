# SPDX-License-Identifier: Apache-2.0
"""The error of a broken contract."""

from __future__ import annotations

FOREIGN_BUILDER = (
    "the step's metadata was not built by StepGDNAttentionMetadataBuilder; start vLLM with "
    "--worker-cls ascend_gdn.runner.<NPU|GPU|CPU>Worker and no other GDN backend"
)
"""A cause of broken contracts."""


class GDNContractError(RuntimeError):
    """What reached a consumer is not what the contract of the GDN path promises.

    Args:
        layer: Name of the layer (or builder) that noticed.
        field: The field or call that is wrong.
        found: What was there.
        expected: What the contract promises.
        cause: The likely cause, and what to do about it.
    """

    def __init__(self, *, layer: str, field: str, found: object, expected: object, cause: str):
        self.layer = layer
        self.field = field
        self.found = found
        self.expected = expected
        self.cause = cause
        super().__init__(
            f"GDN prefill contract broken at {layer}: {field}: found {found}, expected {expected}. "
            f"Likely cause: {cause}"
        )
