# SPDX-License-Identifier: Apache-2.0
"""What ``--additional-config`` may have for us, and what is said of the rest."""

from __future__ import annotations

import pytest

from ascend_gdn.runner.checks.additional_options import (
    additional_option,
    refused_options,
    unread_options,
)

from .test_refusals import config


@pytest.mark.parametrize(
    ("additional_config", "expected"),
    [
        ({}, "host"),
        ({"another_plug_ins": 1}, "host"),
        ({"gdn_table_fill": "host"}, "host"),
        ({"gdn_table_fill": "triton"}, "triton"),
    ],
)
def test_who_fills_the_tables(additional_config, expected):
    checked = config(additional_config=additional_config)
    assert refused_options(checked) == []
    assert additional_option(checked, "gdn_table_fill") == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "auto"),
        ("auto", "auto"),
        ("ascend_gdn", "ascend_gdn"),
        ("triton", "triton"),
        (" FlashInfer", "flashinfer"),
    ],
)
def test_the_prefills_backend_is_read_as_vllm_reads_it(given, expected):
    options = {} if given is None else {"gdn_prefill_backend": given}
    checked = config(additional_config=options)
    assert refused_options(checked) == []
    assert additional_option(checked, "gdn_prefill_backend") == expected


@pytest.mark.parametrize("value", ["tritn", "", "flash_infer", None, True, ["triton"], 1])
def test_a_value_that_is_none_of_the_options(value):
    (refusal,) = refused_options(config(additional_config={"gdn_prefill_backend": value}))
    expected = "expected 'auto', 'ascend_gdn', 'triton', 'flashinfer' or 'cutedsl'"
    assert refusal.startswith(f"got gdn_prefill_backend={value!r}, {expected}")
    (refusal,) = refused_options(config(additional_config={"gdn_table_fill": value}))
    assert refusal.startswith(f"got gdn_table_fill={value!r}, expected 'host' or 'triton'")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gdn_table_fil", "gdn_table_fill"),
        ("gnd_table_fill", "gdn_table_fill"),
        ("gdn-table-fill", "gdn_table_fill"),
        ("GDN_TABLE_FILL", "gdn_table_fill"),
        ("prefill_backend", "gdn_prefill_backend"),
        ("gdn_prefil_backend", "gdn_prefill_backend"),
        ("gdn_pools", None),
    ],
)
def test_a_name_that_must_be_meant_for_us(name, meant):
    (refusal,) = refused_options(
        config(additional_config={name: "triton", "gdn_table_fill": "host"})
    )
    assert refusal.startswith(
        f"got {name!r} in --additional-config, expected 'gdn_table_fill' or 'gdn_prefill_backend'"
    )
    assert (f"did you mean {meant!r}?" in refusal) == (meant is not None)


def test_names_of_others_are_left_to_them_but_can_be_told():
    others = {"enable_cpu_binding": False, "weight_prefetch_config": {}, "mla_prefill_backend": 1}
    checked = config(additional_config=others | {"gdn_table_fill": "host"})
    assert refused_options(checked) == []
    assert unread_options(checked) == list(others)


def test_a_name_that_is_no_string():
    assert refused_options(config(additional_config={1: 2})) == []


def test_options_that_cannot_be_read_are_refused():
    with pytest.raises(ValueError, match="additional_config of type object, expected a dict"):
        refused_options(config(additional_config=object()))
