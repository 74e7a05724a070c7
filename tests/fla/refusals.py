# SPDX-License-Identifier: Apache-2.0
"""Each way to break the contract, and what a layer must have left as it was when it refused."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import pytest
import torch

from ascend_gdn.attention.errors import GDNContractError
from both_sides.lone_layers import Activations
from both_sides.workloads import Side, Workload

STEPS = (
    Workload("prefills", [70, 3], [0, 64]),
    Workload("decodes and prefills", [1, 1, 70, 3], [9, 8, 64, 0]),
    Workload("MTP: drafts first", [4, 4, 70, 3], [9, 8, 64, 0], [3, 3, -1, -1], [2, 4, 1, 1]),
    Workload("MTP: drafts last", [70, 4], [0, 9], [-1, 3], [1, 3]),
)


def missing(side: Side, theirs: Side, metadata):
    metadata = copy(metadata)
    metadata.non_spec_prefill_fallback_meta = None
    return metadata


def recycled(side: Side, theirs: Side, metadata):
    for _ in range(2):  # slots
        side.step(side.batch.common_metadata())
    return metadata


def foreign(side: Side, theirs: Side, metadata):
    return theirs.step(theirs.batch.common_metadata())[0]


def of_another_batch(side: Side, theirs: Side, metadata):
    other = type(side)(Workload("other", [50], [0]))
    metadata = copy(metadata)
    metadata.non_spec_prefill_fallback_meta = other.step(other.batch.common_metadata())[
        0
    ].non_spec_prefill_fallback_meta
    return metadata


def of_a_larger_batch(side: Side, theirs: Side, metadata):
    lengths = [*side.batch.workload.lengths[:-1], 500]
    workload = side.batch.workload
    larger = type(side)(
        Workload("larger", lengths, workload.context_lens, workload.drafts, workload.accepted)
    )
    return larger.step(larger.batch.common_metadata())[0]


BREAKS: dict[str, Callable] = {
    each.__name__: each
    for each in (missing, recycled, foreign, of_another_batch, of_a_larger_batch)
}


def assert_refused_untouched(
    name: str,
    side: Side,
    theirs: Side,
    layer: torch.nn.Module,
    activations: Activations,
    forward: Callable[[torch.nn.Module, object, Activations], None],
) -> None:
    """``forward`` raises over broken metadata before it has written anything; else it writes.

    Args:
        name: Of ``BREAKS``.
        side: Our builders; ``theirs``: the platform's own, of the same batch.
        layer: Its states are not zero.
        activations: Of the step; the output is poisoned.
        forward: Runs the layer over metadata.
    """
    good = side.step(side.batch.common_metadata())[0]
    bad = BREAKS[name](side, theirs, good)
    tensors = [*layer.kv_cache, *activations.arguments()]
    before = [tensor.clone() for tensor in tensors]
    with pytest.raises(GDNContractError):
        forward(layer, bad, activations)
    for was, tensor in zip(before, tensors, strict=True):
        assert torch.equal(was, tensor)
    good = side.step(side.batch.common_metadata())[0]
    forward(layer, good, activations)
    changed = [not torch.equal(was, is_now) for was, is_now in zip(before, tensors, strict=True)]
    assert changed[0] and changed[1] and changed[-1]  # both states and the output
