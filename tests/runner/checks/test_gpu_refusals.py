# SPDX-License-Identifier: Apache-2.0
"""Whose prefill kernels run on which card, beside vLLM's own choice of what ``auto`` means."""

from __future__ import annotations

import pytest
from vllm.model_executor.layers.mamba.gdn import qwen_gdn_linear_attn as upstream
from vllm.platforms.interface import DeviceCapability

from ascend_gdn.runner import gpu, worker
from ascend_gdn.runner.checks import gpu_refusals
from ascend_gdn.runner.checks.gpu_refusals import settle_prefill_backend

from .test_refusals import config

VOLTA, A100, ADA, HOPPER, B200, B300, CONSUMER = (
    (7, 0),
    (8, 0),
    (8, 9),
    (9, 0),
    (10, 0),
    (10, 3),
    (12, 0),
)


@pytest.fixture
def card(mocker):
    """Takes the place of the platform: a card of this capability, CUDA 13, all packages whole."""

    def make(capability: tuple[int, int], flashinfer: bool = True) -> None:
        found = DeviceCapability(*capability)
        platform = mocker.Mock(device_type="cuda")
        platform.is_cuda.return_value = True
        platform.get_device_capability.return_value = found
        platform.get_cuda_runtime_major.return_value = 13
        platform.has_device_capability.side_effect = lambda number: number <= found.to_int()
        platform.is_device_capability.side_effect = lambda number: number == found.to_int()
        platform.is_device_capability_family.side_effect = lambda number: (
            number // 10 == found.major
        )
        for module in (upstream, gpu_refusals, worker):
            mocker.patch.object(module, "current_platform", platform)
        mocker.patch.object(upstream, "_is_libs_cu13_install_intact", return_value=True)
        spec = object() if flashinfer else None
        mocker.patch.object(gpu_refusals, "find_spec", return_value=spec)

    return make


def model(backend: str | None = None, columns: tuple[int, int] = (128, 128)):
    options = {} if backend is None else {"gdn_prefill_backend": backend}
    vllm_config = config(additional_config=options)
    text = vllm_config.model_config.hf_text_config
    text.linear_key_head_dim, text.linear_value_head_dim = columns
    return vllm_config


def chosen(vllm_config) -> str:
    return upstream._resolve_gdn_prefill_backend(vllm_config)[1]


@pytest.mark.parametrize("backend", [None, "auto"])
@pytest.mark.parametrize("capability", [VOLTA, A100, ADA, HOPPER, B200, B300, CONSUMER])
def test_auto_means_our_kernels_from_ampere_on(card, backend, capability, mocker):
    info = mocker.patch.object(gpu_refusals.logger, "info")
    card(capability)
    vllm_config = model(backend)
    if capability in (HOPPER, B200, B300):
        assert chosen(vllm_config) == "flashinfer"  # what we keep it from
    settle_prefill_backend(vllm_config)
    expected = "triton" if capability == VOLTA else "ascend_gdn"
    assert vllm_config.additional_config["gdn_prefill_backend"] == expected
    assert chosen(vllm_config) == "triton"
    told = [call.args[1] for call in info.call_args_list]
    assert ["capability 7.0, expected 8.0" in each for each in told] == [True] * (
        capability == VOLTA
    )


@pytest.mark.parametrize("columns", [(512, 128), (128, 512)])
def test_nor_where_heads_are_too_wide_for_them(card, columns):
    card(HOPPER)
    vllm_config = model(columns=columns)
    settle_prefill_backend(vllm_config)
    assert vllm_config.additional_config["gdn_prefill_backend"] == "triton"
    with pytest.raises(ValueError, match=r"512.*, expected 256 or less; pass .* triton"):
        settle_prefill_backend(model("ascend_gdn", columns))


@pytest.mark.parametrize(
    ("columns", "installed", "expected"),
    [
        ((64, 64), True, "linear_key_head_dim 64 and linear_value_head_dim 64, expected 128"),
        ((128, 256), True, "linear_value_head_dim 256"),
        ((128, 128), False, "no FlashInfer, expected it to be installed"),
    ],
)
def test_flashinfer_where_it_cannot_run_the_model(card, columns, installed, expected):
    card(HOPPER, installed)
    with pytest.raises(ValueError, match=f"{expected}.*; pass --gdn-prefill-backend triton"):
        settle_prefill_backend(model("flashinfer", columns))


def test_to_ask_for_it_elsewhere_is_refused(card):
    card(HOPPER)
    settle_prefill_backend(model("flashinfer"))
    card(B200)
    with pytest.raises(ValueError, match=r"capability 10\.0, expected 9\.0.*flashinfer#3698.*trit"):
        settle_prefill_backend(model(" FlashInfer"))


@pytest.mark.parametrize("backend", ["triton", "cutedsl", "tritn"])
def test_what_is_asked_for_otherwise_is_left_alone(card, backend):
    card(B200)
    vllm_config = model(backend)
    settle_prefill_backend(vllm_config)
    assert vllm_config.additional_config == {"gdn_prefill_backend": backend}


def test_the_worker_settles_it_before_any_layer_is_made(card, mocker):
    card(B200)
    mocker.patch.object(gpu, "check_seams")
    mocker.patch.object(gpu, "gpu_seams")
    mocker.patch.object(gpu.GPUWorker, "gdn_layer_cls")
    mocker.patch.object(worker, "register_out_of_tree")
    seen: list[str] = []
    base = mocker.patch.object(gpu.Worker, "__init__")
    base.side_effect = lambda given: seen.append(chosen(given))
    gpu.GPUWorker(model())
    assert seen == ["triton"]
