# SPDX-License-Identifier: Apache-2.0
"""`ndverbs capture`: runs a program with capture on."""
