# SPDX-License-Identifier: Apache-2.0
"""What the engines of ``ascend-gdn verify`` are started with."""

from __future__ import annotations

import json
import os

import pytest

from ascend_gdn.cli.engine_run import engine_arguments
from ascend_gdn.runner.checks.additional_options import VARIABLE
from serve import RECALL_MODEL


@pytest.mark.parametrize("given", [{}, {"another": 1}, {"another": 1, "ascend_gdn": {}}])
def test_our_options_are_where_every_stack_takes_them(given, mocker):
    mocker.patch.dict(os.environ, {VARIABLE: "of the user's"})
    flags = ["--model", str(RECALL_MODEL), "--additional-config", json.dumps(given)]
    job = {"flags": flags, "ours": True, "verify": True, "dumps": "folder"}
    others = {name: value for name, value in given.items() if name != "ascend_gdn"}
    assert engine_arguments(job).additional_config == others
    assert json.loads(os.environ[VARIABLE]) == {"verify": True, "verify_dumps": "folder"}
