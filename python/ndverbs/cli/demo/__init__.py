# SPDX-License-Identifier: Apache-2.0
"""`ndverbs demo`: a real file by RDMA and by TCP, compared."""
