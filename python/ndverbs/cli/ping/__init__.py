# SPDX-License-Identifier: Apache-2.0
"""`ndverbs ping`: round trips of messages, and connections set up, one after the other."""
