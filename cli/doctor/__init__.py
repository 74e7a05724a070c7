# SPDX-License-Identifier: Apache-2.0
"""``ascend-gdn doctor``: would the worker start here, and what to do where it would not.

``installed`` looks at what is installed, ``platform`` at what vLLM makes of it, ``model`` at a
model and vLLM's flags; ``examination`` runs the checks and ``report`` shows what they found.
"""
