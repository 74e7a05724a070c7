# SPDX-License-Identifier: Apache-2.0
"""CPU kernels of this package against vLLM's own, both sides in one run.

    benchmarks/bench_cpu_kernels.py [--threads 2] [--rounds 15] [--cpu-time]

Prefill: causal convolution, then the chunk rule. Decode: convolution of one token, then the
recurrence. The sides take turns within each round; a figure is the median over rounds. On a machine
shared with others threads wait for each other, and wall time says little: ``--threads 1
--cpu-time`` counts the work instead.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from vllm import _custom_ops as ops
from vllm.model_executor.layers.mamba.ops.cpu.causal_conv1d import (
    causal_conv1d_torch,
    causal_conv1d_update_torch,
)

import harness_path  # noqa: F401
from ascend_gdn.fla.cpu.causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from ascend_gdn.fla.cpu.chunk import CPUChunkGatedDeltaRule
from ascend_gdn.fla.cpu.fused_sigmoid_gating import select_decode_kernel
from both_sides.workloads import Ours, prefills
from command_line import positive_int

HEAD_DIM = 128
WIDTH = 4
PREFILL_SHAPES = (
    (2, 4, 2, 1024),
    (2, 4, 1, 2048),
    (2, 4, 4, 64),
    (2, 4, 1, 40),
    (2, 4, 1, 300),
    (2, 4, 16, 100),
    (2, 4, 32, 64),
    (16, 32, 2, 1024),
    (16, 32, 1, 256),
)
DECODE_SHAPES = ((2, 4, 16), (2, 4, 1), (16, 32, 16))


Clock = Callable[[], float]


def medians(sides: dict[str, Callable[[], object]], rounds: int, clock: Clock) -> dict[str, float]:
    """Return the median milliseconds of each side, run in turn after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        run()
    for _ in range(rounds):
        for name, run in sides.items():
            start = clock()
            run()
            times[name].append((clock() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def prefill_sides(
    key_heads: int, value_heads: int, num_seqs: int, length: int
) -> dict[str, Callable[[], object]]:
    tokens, dim = num_seqs * length, (2 * key_heads + value_heads) * HEAD_DIM
    bf16 = torch.bfloat16
    x = torch.randn(tokens, dim).to(bf16)
    weight = torch.randn(dim, WIDTH).mul_(0.3).to(bf16)
    conv_states = torch.zeros(num_seqs, WIDTH - 1, dim, dtype=bf16).transpose(1, 2)
    q = torch.randn(1, tokens, key_heads, HEAD_DIM).to(bf16)
    k = torch.randn(1, tokens, key_heads, HEAD_DIM).to(bf16)
    v = torch.randn(1, tokens, value_heads, HEAD_DIM).to(bf16)
    g = -torch.rand(1, tokens, value_heads)
    beta = torch.rand(1, tokens, value_heads)
    beta_bf16 = beta.to(bf16)
    state = torch.zeros(num_seqs, value_heads, HEAD_DIM, HEAD_DIM)
    indices = torch.arange(num_seqs, dtype=torch.int32)
    fresh = torch.zeros(num_seqs, dtype=torch.bool)
    builders = Ours(prefills("uniform", [length] * num_seqs))
    step = builders.step(builders.batch.common_metadata())[0]
    chunk = step.non_spec_prefill_fallback_meta.chunk
    layout, cu_seqlens = chunk.layout, chunk.cu_seqlens
    rule, qk, out = (
        CPUChunkGatedDeltaRule(HEAD_DIM**-0.5),
        torch.cat((q, k)),
        torch.empty_like(v[0]),
    )

    def our_conv() -> object:
        return causal_conv1d_fn(x, weight, None, "silu", conv_states, indices, fresh, layout)

    def stock_conv() -> object:
        out = causal_conv1d_torch(
            x.transpose(0, 1), weight, None, conv_states, cu_seqlens, indices, fresh, "silu"
        )
        return out.transpose(0, 1)

    def our_chunk() -> object:
        return rule(qk, v[0], g[0], beta[0], state, out, chunk)

    def stock_chunk() -> object:
        return ops.chunk_gated_delta_rule_cpu(
            q, k, v, g, beta_bf16, state, True, cu_seqlens, False, True
        )

    return {
        "our conv": our_conv,
        "stock conv": stock_conv,
        "our rule": our_chunk,
        "stock rule": stock_chunk,
    }


def decode_sides(key_heads: int, value_heads: int, batch: int) -> dict[str, Callable[[], object]]:
    dim, bf16 = (2 * key_heads + value_heads) * HEAD_DIM, torch.bfloat16
    blocks = 2 * batch
    x = torch.randn(batch, dim).to(bf16)
    weight = torch.randn(dim, WIDTH).mul_(0.3).to(bf16)
    conv_states = torch.zeros(blocks, WIDTH - 1, dim, dtype=bf16).transpose(1, 2)
    q = torch.randn(1, batch, key_heads, HEAD_DIM).to(bf16)
    k = torch.randn(1, batch, key_heads, HEAD_DIM).to(bf16)
    v = torch.randn(1, batch, value_heads, HEAD_DIM).to(bf16)
    A_log, dt_bias = torch.rand(value_heads), torch.rand(value_heads).to(bf16)
    a, b = torch.randn(batch, value_heads).to(bf16), torch.randn(batch, value_heads).to(bf16)
    state = torch.zeros(blocks, value_heads, HEAD_DIM, HEAD_DIM)
    indices = torch.randperm(blocks)[:batch].to(torch.int32)
    cu_seqlens = torch.arange(batch + 1, dtype=torch.int32)
    dtypes = {"activations": bf16, "state": torch.float32}
    kernel = select_decode_kernel(**dtypes, A_log=A_log.dtype, dt_bias=dt_bias.dtype)

    def stock_conv() -> object:
        # As cpu_gdn_attention_core does it: copy the states out, update, copy them back.
        own = conv_states[indices].contiguous()
        out = causal_conv1d_update_torch(x.unsqueeze(-1), own, weight, None, "silu").squeeze(-1)
        conv_states[indices] = own
        return out

    return {
        "our conv": lambda: causal_conv1d_update(x, conv_states, weight, None, "silu", indices),
        "stock conv": stock_conv,
        "our rule": lambda: kernel(A_log, dt_bias, q, k, v, a, b, state, indices, cu_seqlens),
        "stock rule": lambda: ops.fused_sigmoid_gating_delta_rule_update_cpu(
            A_log, dt_bias, q, k, v, a, b, state, indices, cu_seqlens, True
        ),
    }


def row(name: str, sides: dict[str, Callable[[], object]], rounds: int, clock: Clock) -> None:
    ms = medians(sides, rounds, clock)
    ours, stock = ms["our conv"] + ms["our rule"], ms["stock conv"] + ms["stock rule"]
    cells = "".join(f"{ms[side]:12.3f}" for side in sides)
    print(f"{name:>28}{cells}{ours:12.3f}{stock:12.3f}{stock / ours:8.2f}x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=positive_int, default=2)
    parser.add_argument("--rounds", type=positive_int, default=15)
    parser.add_argument("--cpu-time", action="store_true", help="count CPU time, not wall time")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    columns = ("our conv", "stock conv", "our rule", "stock rule", "ours", "stock")
    kind = "CPU" if options.cpu_time else "wall"
    print(f"bf16, {options.threads} threads, medians of {options.rounds} rounds, {kind} ms")
    print(f"{'Hk Hv, prompts x tokens':>28}" + "".join(f"{c:>12}" for c in columns) + "   ratio")
    for key_heads, value_heads, num_seqs, length in PREFILL_SHAPES:
        name = f"{key_heads} {value_heads}, {num_seqs} x {length}"
        row(name, prefill_sides(key_heads, value_heads, num_seqs, length), options.rounds, clock)
    for key_heads, value_heads, batch in DECODE_SHAPES:
        name = f"{key_heads} {value_heads}, decode B={batch}"
        row(name, decode_sides(key_heads, value_heads, batch), 4 * options.rounds, clock)


if __name__ == "__main__":
    main()
