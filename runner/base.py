# SPDX-License-Identifier: Apache-2.0
"""What a mixin of ours is put before."""

from typing import Any

Base: Any = object
"""In place of the class of vLLM's that comes next in the bases: to mypy it has any attribute."""
