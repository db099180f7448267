# SPDX-License-Identifier: Apache-2.0
"""The folder's own: property tests draw the same examples in every run and have no deadline."""

from hypothesis import settings

settings.register_profile("ndverbs", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("ndverbs")
