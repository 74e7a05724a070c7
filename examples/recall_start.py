# SPDX-License-Identifier: Apache-2.0
"""Weights to start training from: random, but near enough to recall to learn it in minutes."""

import torch
from transformers import Qwen3NextForCausalLM

from mtp_module import MTP


@torch.no_grad()
def head_start(model: Qwen3NextForCausalLM) -> None:
    """Change random weights so that the delta rule recalls something from the first step on.

    The GDN layers' queries start as their keys; the convolution shifts keys by two tokens and
    values by one, so that a full stop finds both; and the state starts out hardly fading.
    """
    config = model.config
    heads, dim = config.linear_num_key_heads, config.linear_key_head_dim
    model.lm_head.weight.mul_(0.25)
    for layer in model.model.layers:
        if layer.block_type != "linear_attention":
            continue
        gdn = layer.linear_attn
        rows = gdn.in_proj_qkvz.weight.view(heads, -1, config.hidden_size)
        rows[:, dim : 2 * dim] = rows[:, :dim]
        taps = gdn.conv1d.weight[:, 0].mul_(0.2)
        queries, keys, values = taps.split([heads * dim, heads * dim, gdn.value_dim])
        queries[:, 3] += 1
        keys[:, 1] += 1
        values[:, 2] += 1
        gdn.A_log.zero_()
        gdn.dt_bias.copy_(torch.linspace(-8, -5, len(gdn.dt_bias)))


@torch.no_grad()
def mtp_head_start(mtp: MTP, model: Qwen3NextForCausalLM, text: torch.Tensor) -> None:
    """Let the MTP layer's attention start by comparing token t+1 with earlier tokens t.

    Half of its width holds the next token's embedding. The other half holds, in the same random
    projection, the embedding of the token itself, as far as a linear fit over ``text`` [batch,
    length] recovers it from the main model's hidden state. Queries read the one, keys the other.
    """
    hidden = mtp.pre_fc_norm_hidden(model.model(text, use_cache=False).last_hidden_state)
    embedding = mtp.pre_fc_norm_embedding(model.model.embed_tokens(text))
    hidden, embedding = hidden.flatten(0, 1), embedding.flatten(0, 1)
    width = hidden.shape[1]
    half = width // 2
    recover = torch.linalg.solve(hidden.T @ hidden + torch.eye(width), hidden.T @ embedding).T
    project = torch.randn(half, width) / width**0.5
    mtp.fc.weight.zero_()
    mtp.fc.weight[:half, :width] = project
    mtp.fc.weight[half:, width:] = project @ recover
    attention = mtp.layers[0].self_attn
    dim = attention.head_dim
    match = torch.randn(mtp.config.num_key_value_heads, 1, dim, half) / half**0.5
    # [key heads, query heads of each, query or gate, head_dim, width]
    queries = attention.q_proj.weight.view(len(match), -1, 2, dim, width)[:, :, 0]
    keys = attention.k_proj.weight.view(len(match), 1, dim, width)
    queries.mul_(0.1)
    keys.mul_(0.1)
    queries[..., :half] += match
    keys[..., half:] += match
    attention.v_proj.weight[:, half:] *= 0.1
