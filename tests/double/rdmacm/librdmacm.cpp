// SPDX-License-Identifier: Apache-2.0
// A library of its own by name alone: all functions are in the one that it is linked with, where a
// look-up in this one finds them.
