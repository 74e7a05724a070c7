# SPDX-License-Identifier: Apache-2.0
"""Upstream's builders and layers beside ours, on the same batches, with no engine around them."""
