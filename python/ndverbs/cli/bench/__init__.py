# SPDX-License-Identifier: Apache-2.0
"""`ndverbs bench`: writes, reads, sends and streams, timed."""
