# SPDX-License-Identifier: Apache-2.0
"""`ndverbs serve` and `ndverbs cp`: files by RDMA."""
