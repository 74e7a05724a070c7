# SPDX-License-Identifier: Apache-2.0
"""The comparison's command line."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from command_line import positive_int
from serving.dummy_model import PUBLIC_SIZES
from serving.loads import BURSTS, burst

LAYERS, EXPERTS = 24, 32
"""Of a named model: four of them fit a card of 80 GB, and start within minutes."""


def parse(arguments: list[str], description: str | None = None) -> argparse.Namespace:
    """What was asked for; ends with a message if it cannot be done."""
    parser = _parser(description)
    ours, engine_args = arguments, []
    if "--" in arguments:
        at = arguments.index("--")
        ours, engine_args = arguments[:at], arguments[at + 1 :]
    options = parser.parse_args(ours)
    if options.engine_args:
        parser.error(f"engine arguments come after --: {' '.join(options.engine_args)}")
    options.engine_args = engine_args
    if any(argument.replace("_", "-").startswith("--worker-cls") for argument in engine_args):
        parser.error("--worker-cls is for our side alone: give it before --")
    if options.rounds < 2:
        parser.error("--rounds: give at least 2, since the first is dropped")
    options.named_model = options.model in PUBLIC_SIZES
    if not options.named_model and not Path(options.model, "config.json").is_file():
        parser.error(f"--model: there is no {options.model}/config.json")
    if not options.named_model and (options.layers or options.experts or options.interval):
        parser.error("--layers, --experts, --full-attention-interval are of a named model: "
                     f"--model {' or '.join(PUBLIC_SIZES)}")  # fmt: skip
    options.layers, options.experts = options.layers or LAYERS, options.experts or EXPERTS
    if options.captures is None:
        options.captures = [] if options.protocol else [512, 2048]
    if options.attention_backend is None:
        options.attention_backend = "FLASH_ATTN" if options.named_model else "auto"
    if options.gdn_stock is None:
        options.gdn_stock = "triton" if options.named_model else "auto"
    if options.seed_flags and not options.spec:
        options.spec = 3
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out: got {options.out}, which is no folder")
    module = options.worker_cls.rpartition(".")[0]
    try:
        found = bool(module) and find_spec(module) is not None
    except ImportError:
        found = False
    if not found:
        parser.error(f"--worker-cls: got {options.worker_cls!r}, expected module.Class that can be "
                     "imported here")  # fmt: skip
    return options


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="a folder for results.json, results.png and logs")
    add("--worker-cls", default="ascend_gdn.runner.GPUWorker",
        help="of our side: ascend_gdn.runner.{GPU,NPU,CPU}Worker")  # fmt: skip
    add("engine_args", nargs="*", metavar="ENGINE_ARG", help="for all arms, after --")

    add = parser.add_argument_group("the model").add_argument
    add("--model", default="qwen3_next",
        help="qwen3_next, qwen3_5: of their sizes, with random weights; or a folder")  # fmt: skip
    add("--layers", type=positive_int, help=f"of a named model; default {LAYERS}")
    add("--experts", type=positive_int, help=f"default {EXPERTS}")
    add("--full-attention-interval", type=positive_int, dest="interval",
        help="every so many layers one has full attention; default 4. As many as --layers: vLLM "
        "makes a KV cache group of each GDN layer")  # fmt: skip

    add = parser.add_argument_group("the arms").add_argument
    add("--captures", type=positive_int, nargs="*",
        help="stock and ours with CUDA graphs of 1, 2, 4, ... to so many tokens, an arm for each; "
        "default 512 2048; none given, and with --protocol: what vLLM takes")  # fmt: skip
    add("--attention-backend", help="or auto; default FLASH_ATTN, of a folder auto")
    backends = ("auto", "triton", "flashinfer")
    add("--gdn-stock", choices=backends,
        help="GDN prefill backend of stock; default triton, of a folder auto")  # fmt: skip
    add("--gdn-ours", choices=backends, default="auto", help="the same of ours")
    add("--spec", type=int, default=0, help="tokens that MTP drafts")
    add("--servers", choices=("together", "turns"), default="together",
        help="all arms up at once, or one after the other")  # fmt: skip
    add("--starting", type=positive_int,
        help="how many start at a time; default: all of a named model, since their memory is "
        "fixed, else 1")  # fmt: skip
    add("--starts", type=positive_int, default=1, help="how often each arm is started")
    add("--start-timeout", type=float, default=900, help="seconds")

    add = parser.add_argument_group("the load").add_argument
    add("--loads", type=burst, nargs="+", default=[burst(name) for name in BURSTS],
        metavar="PROMPTSxTOKENS[+GENERATED]",
        help=f"prompts sent at once, tokens of each; default {' '.join(BURSTS)}")  # fmt: skip
    add("--rounds", type=positive_int, default=5, help="of each load; the first is dropped")
    add("--runs", type=positive_int, default=4, help="of a load in a round of an arm")
    add("--profile", choices=("none", "ours", "all"), default="ours",
        help="whose costs are taken by torch's profiler, at the end")  # fmt: skip

    add = parser.add_argument_group("the protocol of vLLM-Ascend PR #7756").add_argument
    add("--protocol", action="store_true", help="servers and vLLM's client, instead of the loads")
    add("--seed-flags", action="store_true", help="async scheduling, full decode graphs, MTP of 3")
    add("--input-len", type=positive_int, default=1500)
    add("--output-len", type=positive_int, default=1500)
    add("--num-prompts", type=positive_int, default=64)
    add("--max-concurrency", type=positive_int, default=16)
    return parser
