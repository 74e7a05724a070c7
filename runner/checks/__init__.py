# SPDX-License-Identifier: Apache-2.0
"""What is checked before anything is loaded: versions and seams, then what is not served."""
