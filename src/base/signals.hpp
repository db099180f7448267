// SPDX-License-Identifier: Apache-2.0
// Signals belong to Python's threads: a thread of ours starts with them blocked, apart from those
// that its own instructions raise, so that a fault there reaches the program's handler
// (faulthandler's, say) with its traceback.
#pragma once

#include <csignal>

namespace ndv::base {

// Start the thread in this scope: it inherits the mask.
class BlockedSignals {
public:
    BlockedSignals() {
        sigset_t blocked;
        sigfillset(&blocked);
        for (const int raised : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS}) {
            sigdelset(&blocked, raised);
        }
        pthread_sigmask(SIG_BLOCK, &blocked, &before_);
    }
    BlockedSignals(const BlockedSignals&) = delete;
    BlockedSignals& operator=(const BlockedSignals&) = delete;
    ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

private:
    sigset_t before_;
};

}  // namespace ndv::base
