# SPDX-License-Identifier: Apache-2.0
"""What is read of ``--additional-config``, a dict that vLLM shares with every plug-in."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from vllm.config import VllmConfig

from ascend_gdn.attention.table_fill import TABLE_FILLS

_OPTIONS: dict[str, tuple[str, ...]] = {
    "gdn_table_fill": TABLE_FILLS,
    "gdn_prefill_backend": ("auto", "ascend_gdn", "triton", "flashinfer", "cutedsl"),
}
"""What the options can be, the default first. The second is vLLM's, the only one that it reads
itself (``_resolve_gdn_prefill_backend`` in model_executor/layers/mamba/gdn/qwen_gdn_linear_attn.py,
0.23.0, where all that it does not know means Triton); ``--gdn-prefill-backend`` is put there, which
does not know ours."""


def _options(vllm_config: VllmConfig) -> dict[object, object]:
    options = vllm_config.additional_config
    if not isinstance(options, dict):  # vLLM takes any object that can be hashed (config/vllm.py)
        raise ValueError(
            f"ascend-gdn: got additional_config of type {type(options).__name__}, expected a dict: "
            f"{' and '.join(_OPTIONS)} are read from it; give --additional-config as JSON"
        )
    return options


def additional_option(vllm_config: VllmConfig, name: str) -> str:
    """What ``--additional-config`` has under ``name``, as vLLM reads it: case does not count.

    Raises ``ValueError`` if that is not a dict.
    """
    return str(_options(vllm_config).get(name, _OPTIONS[name][0])).strip().lower()


def refused_options(vllm_config: VllmConfig) -> list[str]:
    """What is wrong with the options, each with what to do: values, and names meant for us.

    Any other name may be that of another plug-in, which alone can tell.
    """
    refusals = []
    for key, value in _options(vllm_config).items():
        name = str(key)
        values = _OPTIONS.get(name)
        if values is None:
            # 0.85: some letters wrong or missing, but not such an option with another subject.
            close = get_close_matches(name.lower().replace("-", "_"), _OPTIONS, n=1, cutoff=0.85)
            if close or name.lower().startswith("gdn"):
                meant = f"did you mean {close[0]!r}?" if close else "leave it out"
                refusals.append(
                    f"got {name!r} in --additional-config, expected {_one_of(_OPTIONS)}; {meant}"
                )
        elif additional_option(vllm_config, name) not in values:
            refusals.append(
                f"got {name}={value!r}, expected {_one_of(values)}; correct --additional-config, "
                f"or leave {name} out of it for {values[0]!r}"
            )
    return refusals


def unread_options(vllm_config: VllmConfig) -> list[str]:
    """Names that neither we nor vLLM 0.23.0 itself reads."""
    return [str(name) for name in _options(vllm_config) if name not in _OPTIONS]


def _one_of(values: Iterable[str]) -> str:
    quoted = [repr(value) for value in values]
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}"
