// SPDX-License-Identifier: Apache-2.0
// A hostile peer of a stream: connection data, then messages, descriptors and local calls as the
// input says. Whatever comes, the engine stays within its own memory and never sends more than it
// was granted.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "stream/engine.hpp"

namespace {

using namespace ndv::stream;

constexpr std::uint32_t kSegmentSize = 512;

class Input {
public:
    explicit Input(std::span<const std::byte> bytes) : bytes_(bytes) {}
    [[nodiscard]] bool is_over() const { return bytes_.empty(); }
    std::uint32_t word() {
        std::uint32_t out = 0;
        const std::size_t size = std::min(bytes_.size(), sizeof out);
        std::memcpy(&out, bytes_.data(), size);
        bytes_ = bytes_.subspan(size);
        return out;
    }
    std::span<const std::byte> take(std::size_t size) {
        const auto out = bytes_.first(std::min(size, bytes_.size()));
        bytes_ = bytes_.subspan(out.size());
        return out;
    }

private:
    std::span<const std::byte> bytes_;
};

void require(bool is_true) {
    if (!is_true) std::abort();
}

void check(const View& view, const std::vector<RemoteRange>& segments) {
    if (view.length == 0) return;
    require(view.segment < segments.size());
    require(view.offset + view.length <= segments[view.segment].length);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input({reinterpret_cast<const std::byte*>(data), size});
    constexpr std::uint32_t kMappings = 2;
    alignas(16) std::array<std::byte, Engine::target_bytes(kMappings)> targets{};
    const std::uint32_t choice = input.word();
    Engine::Config config;
    config.mode = (choice & 1U) != 0 ? Mode::immediate : Mode::message;
    config.credits = static_cast<std::uint16_t>(1 + ((choice >> 1U) & 63U));
    config.waits_for_peer = (choice >> 7U & 1U) != 0;
    config.targets = targets.data();
    config.iomap_entries = kMappings;
    Engine engine(config);
    std::vector<RemoteRange> segments;
    const auto add_segment = [&] {
        segments.push_back({segments.size() * 4096, 7, kSegmentSize});
        engine.add_segment(segments.back());
    };
    add_segment();
    add_segment();
    static_cast<void>(engine.local_data(0, 1));
    auto peer = ConnectionData::parse(input.take(ConnectionData::kSize));
    if (!peer || !engine.start(*peer)) return 0;
    std::vector<View> views;
    while (!input.is_over()) {
        const std::uint32_t next = input.word();
        switch (next & 7U) {
            case 0:
            case 1:
                if (!engine.handle_message(MessageWord::unpack(input.word()))) return 0;
                break;
            case 2: {
                const auto bytes = input.take(Descriptor::kSize);
                const std::size_t at = (next >> 3U & 3U) * Descriptor::kSize;
                std::copy(bytes.begin(), bytes.end(), targets.begin() + at);
                break;
            }
            case 3: {
                const std::uint32_t most = engine.sendable();
                if (most == 0) break;
                const Chunk chunk = engine.take_chunk(std::max(1U, next >> 4U));
                require(chunk.length > 0 && chunk.length <= most);
                break;
            }
            case 4: {
                Control control;
                for (int i = 0; i < 4 && engine.poll_control(control); ++i) {
                }
                if (engine.wants_segment() && segments.size() < 5) add_segment();
                break;
            }
            case 5: {
                const View front = engine.front();
                check(front, segments);
                engine.consume(std::min(front.length, next >> 4U));
                break;
            }
            case 6: {
                const View taken = engine.take(next >> 4U);
                check(taken, segments);
                if (taken.length > 0) views.push_back(taken);
                break;
            }
            case 7:
                if (!views.empty()) {
                    engine.release(views.back());
                    views.pop_back();
                } else if ((next & 16U) != 0) {
                    engine.shut_write();
                } else if ((next & 32U) != 0) {
                    engine.disconnect();
                } else if ((next & 64U) != 0) {
                    if (auto number = engine.add_mapping({next, {0, 7, 100}})) {
                        if ((next & 128U) != 0) engine.remove_mapping(*number);
                    }
                    const RemoteRange found = engine.find_mapping(next);
                    require(engine.find_mapping(next + found.length / 2).length > 0 ||
                            found.length < 2);
                } else {
                    engine.request_keepalive();
                }
                break;
        }
        require(engine.readable() <= std::uint64_t{kSegmentSize} * segments.size());
    }
    return 0;
}
