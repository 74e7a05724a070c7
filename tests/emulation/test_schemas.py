# SPDX-License-Identifier: Apache-2.0
"""The registered operators have vllm-ascend's schemas; what is not emulated raises and says so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import emulated_npu
from emulated_npu.stacks import installed_stack
from emulated_npu.stacks.common import NOT_EMULATED, name_of

HARNESS = str(Path(emulated_npu.__file__).parents[1])
ALL = (*installed_stack().operators, *NOT_EMULATED)
INSTALLED = """
import sys
sys.path.insert(0, sys.argv[1])
from emulated_npu.install import install
install()
"""


def test_each_is_a_schema_of_its_own():
    parsed = [torch._C.parse_schema(schema) for schema in ALL]
    assert [schema.name for schema in parsed] == [name_of(schema) for schema in ALL]
    assert len({schema.name for schema in parsed}) == len(ALL)


@pytest.fixture(scope="module")
def torch_binding() -> str:
    """vllm-ascend's ``csrc/torch_binding.cpp``, as its source distribution has it."""
    kept = Path(sys.prefix, "torch_binding.cpp")
    assert kept.exists(), (
        f"got no {kept}, which scripts/bootstrap.sh keeps: run make setup-ascend(-next)"
    )
    return kept.read_text()


@pytest.mark.parametrize("schema", ALL, ids=name_of)
def test_equal_to_the_source(torch_binding: str, schema: str):
    name = name_of(schema)
    found = re.search(rf'ops\.def\(\s*(("\s*)?{name}\(.*?)\)\s*;', torch_binding, re.DOTALL)
    assert found is not None, f"vllm-ascend registers no {name}"
    text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', found.group(1)))
    assert str(torch._C.parse_schema(text)) == str(torch._C.parse_schema(schema))


def installed(statement: str) -> subprocess.CompletedProcess[str]:
    """What a statement says in a process with the emulated NPU."""
    return subprocess.run(
        [sys.executable, "-P", "-c", INSTALLED + statement, HARNESS],
        capture_output=True,
        text=True,
        check=False,
    )


def test_installed():
    checked = """
import torch
from emulated_npu.stacks import installed_stack
from emulated_npu.stacks.common import NAMESPACE, NOT_EMULATED, name_of
for schema in (*installed_stack().operators, *NOT_EMULATED):
    name = name_of(schema)
    wanted = str(torch._C.parse_schema(f"{NAMESPACE}::{schema}"))
    assert str(getattr(torch.ops._C_ascend, name).default._schema) == wanted, name

import torch_npu
for module, name in (
    (torch_npu, "npu_moe_distribute_dispatch"), (torch.ops._C_ascend, "npu_hc_pre")
):
    try:
        getattr(module, name)
    except AttributeError as error:
        assert name in str(error), error
    else:
        raise AssertionError(name)
from vllm_ascend.utils import enable_custom_op
assert enable_custom_op()
"""
    process = installed(checked)
    assert process.returncode == 0, process.stderr[-3000:]
