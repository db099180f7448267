// SPDX-License-Identifier: Apache-2.0
// A link decorator that writes each stream to a pcap file from its first byte, as the TCP segments
// that a packet dissector expects.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "base/expected.hpp"
#include "base/mutex.hpp"
#include "providers/soft/link.hpp"

namespace ndv::soft {

// One pcap file for all streams of an adapter.
class Capture {
public:
    [[nodiscard]] static Expected<std::shared_ptr<Capture>> open(const std::string& path);
    Capture(std::FILE* file, std::string path) : file_(file), path_(std::move(path)) {}
    Capture(const Capture&) = delete;
    Capture& operator=(const Capture&) = delete;
    ~Capture();

    // False: the other end of this very connection is captured already, by the same adapter.
    [[nodiscard]] bool claim(const core::SocketAddress& local, const core::SocketAddress& peer);
    void give_back(const core::SocketAddress& local, const core::SocketAddress& peer);

    // One IP packet with its time; the file is flushed so that a reader may follow. When the file
    // takes no more it ends with the last whole packet, for good, and the log says so once.
    void write(const std::byte* packet, std::size_t size);
    // Packets that are not in the file. relaxed: written under the mutex, which write() has.
    [[nodiscard]] std::uint64_t lost() const { return lost_.load(std::memory_order_relaxed); }

private:
    base::Mutex mutex_;
    std::FILE* const file_ NDV_GUARDED_BY(mutex_);
    const std::string path_;
    std::atomic<std::uint64_t> lost_{0};
    std::set<std::string> claimed_ NDV_GUARDED_BY(mutex_);  // "local peer"
};

// `link` with everything it moves written to `capture`.
[[nodiscard]] std::unique_ptr<Link> captured(std::unique_ptr<Link> link,
                                             std::shared_ptr<Capture> capture);

}  // namespace ndv::soft
