# SPDX-License-Identifier: Apache-2.0
"""What is read of ``--additional-config``, a dict that vLLM shares with every plug-in.

vllm-ascend 0.30.0rc2 takes no name there that is not its own (``init_ascend_config`` in
ascend_config.py): what is ours can be in the environment instead.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from vllm.config import VllmConfig

OURS = "ascend_gdn"
"""The name in ``--additional-config`` under which all is set that is ours alone."""
VARIABLE = "ASCEND_GDN_OPTIONS"
"""The same in the environment, as JSON."""


class GDNOptions(BaseModel):
    """What can be set: ``--additional-config '{"ascend_gdn": {"verify": true}}'``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    table_fill: Literal["host", "triton"] = "host"
    """Who makes the chunk tables. Also read as ``gdn_table_fill``, beside ``ascend_gdn``."""
    verify: bool = False
    """Compare every step's tables on the device with a plan made slowly: for days of doubt."""
    verify_dumps: str = Field(default_factory=gettempdir)
    """The folder for the record of a step that verify mode finds wrong."""


_BESIDE: dict[str, tuple[str, ...]] = {
    "gdn_table_fill": ("host", "triton"),
    "gdn_prefill_backend": ("auto", "ascend_gdn", "triton", "flashinfer", "cutedsl"),
}
"""What is read beside it, the default first. The second is vLLM's, the only one that it reads
itself (``_resolve_gdn_prefill_backend`` in model_executor/layers/mamba/gdn/qwen_gdn_linear_attn.py,
0.23.0, where all that it does not know means Triton); ``--gdn-prefill-backend`` is put there, which
does not know ours."""


def _additional(vllm_config: VllmConfig) -> dict[object, Any]:
    options = vllm_config.additional_config
    if not isinstance(options, dict):  # vLLM takes any object that can be hashed (config/vllm.py)
        raise ValueError(
            f"ascend-gdn: got additional_config of type {type(options).__name__}, expected a dict: "
            f"{_one_of([OURS, *_BESIDE])} are read from it; give --additional-config as JSON"
        )
    if VARIABLE not in os.environ:
        return options
    if OURS in options:
        raise ValueError(
            f"ascend-gdn: got {OURS!r} in --additional-config and {VARIABLE}, expected one of "
            "them; leave one out"
        )
    return options | {OURS: _from_environment(os.environ[VARIABLE])}


def given_in() -> str:
    """Where ``ascend_gdn`` is set, if it is."""
    return VARIABLE if VARIABLE in os.environ else "--additional-config"


def _from_environment(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # which is refused, as it is no object


def additional_option(vllm_config: VllmConfig, name: str) -> str:
    """What ``--additional-config`` has under ``name``, as vLLM reads it: case does not count.

    Raises ``ValueError`` if that is not a dict.
    """
    return str(_additional(vllm_config).get(name, _BESIDE[name][0])).strip().lower()


def gdn_options(vllm_config: VllmConfig) -> GDNOptions:
    """What is set; raises ``ValueError`` if that is not what ``refused_options`` lets pass."""
    options = _additional(vllm_config)
    ours = options.get(OURS, {})
    if "gdn_table_fill" in options:
        ours = {"table_fill": additional_option(vllm_config, "gdn_table_fill")} | ours
    return GDNOptions(**ours)


def refused_options(vllm_config: VllmConfig) -> list[str]:
    """What is wrong with the options, each with what to do: values, and names meant for us.

    Any other name may be that of another plug-in, which alone can tell.
    """
    refusals = []
    for key, value in _additional(vllm_config).items():
        name = str(key)
        if name == OURS:
            refusals += _refused_of_ours(value)
        elif name in _BESIDE:
            values = _BESIDE[name]
            if additional_option(vllm_config, name) not in values:
                refusals.append(
                    f"got {name}={value!r}, expected {_one_of(values)}; correct "
                    f"--additional-config, or leave {name} out of it for {values[0]!r}"
                )
        else:
            meant = _meant(name, [OURS, *_BESIDE])
            if meant or name.lower().startswith("gdn"):
                refusals.append(
                    f"got {name!r} in --additional-config, expected {_one_of([*_BESIDE, OURS])}; "
                    f"{meant or 'leave it out'}"
                )
    return refusals


def _refused_of_ours(value: object) -> list[str]:
    if not isinstance(value, dict):
        return [
            f"got {OURS}={value!r} in {given_in()}, expected an object with "
            f"{_one_of(GDNOptions.model_fields)}; correct it, or leave it out"
        ]
    try:
        options = GDNOptions(**{str(name): own for name, own in value.items()})
    except ValidationError as error:
        return [_refusal(each["loc"][0], each["input"], each) for each in error.errors()]
    folder = Path(options.verify_dumps)
    if options.verify and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        return [
            f"got {OURS}.verify_dumps={options.verify_dumps!r}, expected a folder that can be "
            f"written, for the record of a wrong step; make it, or correct {given_in()}"
        ]
    return []


def _refusal(name: object, value: object, error: Any) -> str:
    if error["type"] == "extra_forbidden":
        names = list(GDNOptions.model_fields)
        return (
            f"got {OURS}.{name} in {given_in()}, expected {_one_of(names)}; "
            f"{_meant(str(name), names) or 'leave it out'}"
        )
    expected = {"bool_type": "true or false", "string_type": "a string"}
    return (
        f"got {OURS}.{name}={value!r}, expected "
        f"{expected.get(error['type']) or error['ctx']['expected']}; correct {given_in()}, or "
        f"leave {name} out of it"
    )


def _meant(name: str, names: Iterable[str]) -> str:
    # 0.85: some letters wrong or missing, but not such an option with another subject.
    close = get_close_matches(name.lower().replace("-", "_"), names, n=1, cutoff=0.85)
    return f"did you mean {close[0]!r}?" if close else ""


def unread_options(vllm_config: VllmConfig) -> list[str]:
    """Names that neither we nor vLLM 0.23.0 itself reads."""
    return [str(name) for name in _additional(vllm_config) if name not in (OURS, *_BESIDE)]


def _one_of(values: Iterable[str]) -> str:
    quoted = [repr(value) for value in values]
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}"
