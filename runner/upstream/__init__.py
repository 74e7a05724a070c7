# SPDX-License-Identifier: Apache-2.0
"""Corrections of faults of vLLM's and vLLM-Ascend's: a file each, which says when to delete it."""
