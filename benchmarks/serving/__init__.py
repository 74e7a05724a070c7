# SPDX-License-Identifier: Apache-2.0
"""Two servers under the same load: vLLM's own worker and ours. ``python -m serving --help``."""
