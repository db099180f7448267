# SPDX-License-Identifier: Apache-2.0
"""Socket options of streams, under the name that programs import; see `ndverbs.socket.options`."""

from ndverbs.socket.options import *  # noqa: F403
