// SPDX-License-Identifier: Apache-2.0
// The registered ranges of a protection domain, found by address: the innermost one that contains
// bytes and grants rights. Ranges may overlap, nest and repeat in any way; adding, removing and
// finding one take logarithmic time. The caller locks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

namespace ndv::core {

struct Range {
    std::uint64_t address = 0;
    std::uint64_t size = 0;
    std::uint32_t rights = 0;
    std::uint32_t token = 0;

    [[nodiscard]] std::uint64_t end() const { return address + size; }
};

class Ranges {
public:
    Ranges() = default;
    Ranges(const Ranges&) = delete;
    Ranges& operator=(const Ranges&) = delete;

    // No two ranges have one token.
    void add(const Range& range);
    void remove(const Range& range);

    // No other range that contains the bytes and grants the rights lies inside the one found.
    [[nodiscard]] const Range* find(std::uint64_t address, std::uint64_t length,
                                    std::uint32_t rights) const;
    // The one that begins nearest to the address; null when there is none at all.
    [[nodiscard]] const Range* nearest(std::uint64_t address) const;
    // The longest way from a root to a leaf: what adding, removing and finding cost at most.
    [[nodiscard]] std::size_t height() const;

private:
    struct Node;
    using Tree = std::unique_ptr<Node>;
    // A treap in the order of `Place`, each node with the furthest end of its subtree.
    struct Node {
        Range range;
        std::uint64_t priority = 0;
        std::uint64_t furthest = 0;
        Tree left;
        Tree right;
    };
    // By beginning, the longer first: of those that contain some bytes, the last is innermost.
    using Place = std::tuple<std::uint64_t, std::uint64_t, std::uint32_t>;

    [[nodiscard]] static Place place(const Range& range);
    static void update(Node& node);
    [[nodiscard]] static std::size_t height_of(const Node* node);
    [[nodiscard]] static Tree merge(Tree left, Tree right);
    // `from` becomes what is before the place; returns the rest.
    [[nodiscard]] static Tree split(Tree& from, const Place& at);
    [[nodiscard]] static const Range* last_containing(const Node* node, std::uint64_t address,
                                                      std::uint64_t end);

    // Few: one for each set of rights that is in use.
    std::map<std::uint32_t, Tree> trees_;
};

}  // namespace ndv::core
