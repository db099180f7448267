// SPDX-License-Identifier: Apache-2.0
// Variables of a thread.
#pragma once

// There from the thread's start, and reached without a call. Others of a library that is loaded at
// run time get their memory at first use, and where there is none the C library ends the process.
#define NDV_THREAD_LOCAL [[gnu::tls_model("initial-exec")]] constinit thread_local
