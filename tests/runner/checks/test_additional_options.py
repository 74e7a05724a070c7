# SPDX-License-Identifier: Apache-2.0
"""What ``--additional-config`` may have for us, and what is said of the rest."""

from __future__ import annotations

import json
import re
from tempfile import gettempdir

import pytest

from ascend_gdn.runner.checks.additional_options import (
    VARIABLE,
    additional_option,
    gdn_options,
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
        ({"gdn_table_fill": " Triton"}, "triton"),
        ({"ascend_gdn": {"table_fill": "triton"}}, "triton"),
        ({"ascend_gdn": {"verify": True}, "gdn_table_fill": "triton"}, "triton"),
        ({"ascend_gdn": {"table_fill": "host"}, "gdn_table_fill": "triton"}, "host"),
    ],
)
def test_who_fills_the_tables(additional_config, expected):
    checked = config(additional_config=additional_config)
    assert refused_options(checked) == []
    assert gdn_options(checked).table_fill == expected


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
        f"got {name!r} in --additional-config, expected 'gdn_table_fill', 'gdn_prefill_backend' "
        "or 'ascend_gdn'"
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


def test_what_can_be_set_and_the_defaults(tmp_path):
    options = gdn_options(config())
    assert (options.table_fill, options.verify, options.verify_dumps) == (
        "host",
        False,
        gettempdir(),
    )
    given = {"table_fill": "triton", "verify": True, "verify_dumps": str(tmp_path)}
    checked = config(additional_config={"ascend_gdn": given})
    assert refused_options(checked) == []
    assert gdn_options(checked).model_dump() == given
    assert unread_options(checked) == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"verfy": True}, "got ascend_gdn.verfy in --additional-config, expected 'table_fill', "
                          "'verify' or 'verify_dumps'; did you mean 'verify'?"),
        ({"pools": 2}, "got ascend_gdn.pools in --additional-config, .*; leave it out"),
        ({"verify": "yes"}, "got ascend_gdn.verify='yes', expected true or false; correct"),
        ({"verify": 1}, "got ascend_gdn.verify=1, expected true or false"),
        ({"table_fill": "gpu"}, "got ascend_gdn.table_fill='gpu', expected 'host' or 'triton'"),
        ({"verify_dumps": 3}, "got ascend_gdn.verify_dumps=3, expected a string"),
        ({"verify": True, "verify_dumps": "/no/such"}, "got ascend_gdn.verify_dumps='/no/such', "
                                                       "expected a folder that can be written"),
        (True, "got ascend_gdn=True in --additional-config, expected an object with 'table_fill'"),
    ],
)  # fmt: skip
def test_what_cannot_be_set(given, expected):
    (refusal,) = refused_options(config(additional_config={"ascend_gdn": given}))
    assert re.match(expected, refusal)


def test_what_is_in_the_environment(monkeypatch, tmp_path):
    given = {"table_fill": "triton", "verify": True, "verify_dumps": str(tmp_path)}
    monkeypatch.setenv(VARIABLE, json.dumps(given))
    others = config(additional_config={"enable_cpu_binding": False})
    assert refused_options(others) == []
    assert gdn_options(others).model_dump() == given
    assert unread_options(others) == ["enable_cpu_binding"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "got ascend_gdn='' in ASCEND_GDN_OPTIONS, expected an object with 'table_fill'"),
        ("{'verify': true}", 'got ascend_gdn="{.*}" in ASCEND_GDN_OPTIONS, expected an object'),
        ("true", "got ascend_gdn=True in ASCEND_GDN_OPTIONS, expected an object"),
        ('{"verfy": true}', "got ascend_gdn.verfy in ASCEND_GDN_OPTIONS, .* mean 'verify'"),
        ('{"verify": 1}', "got ascend_gdn.verify=1, expected true .*; correct ASCEND_GDN_OPTIONS"),
    ],
)
def test_what_cannot_be_in_the_environment(given, expected, monkeypatch):
    monkeypatch.setenv(VARIABLE, given)
    (refusal,) = refused_options(config())
    assert re.match(expected, refusal)


def test_options_in_two_places_are_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "{}")
    expected = "'ascend_gdn' in --additional-config and ASCEND_GDN_OPTIONS, expected one of them"
    with pytest.raises(ValueError, match=expected):
        refused_options(config(additional_config={"ascend_gdn": {}}))


def test_all_that_is_wrong_is_told_at_once():
    wrong = {"ascend_gdn": {"verfy": 1, "table_fill": 2}, "gdn_table_fill": "x", "gdn_pool": 1}
    assert len(refused_options(config(additional_config=wrong))) == 4
