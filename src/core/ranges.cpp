// SPDX-License-Identifier: Apache-2.0
// Treaps of ranges.
#include "core/ranges.hpp"

#include <algorithm>
#include <utility>

namespace ndv::core {
namespace {

// Spreads the bits of a token, which some devices give out in order (splitmix64).
std::uint64_t priority_of(std::uint32_t token) {
    std::uint64_t x = token * 0x9E3779B97F4A7C15ULL;
    x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27U)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31U);
}

}  // namespace

Ranges::Place Ranges::place(const Range& range) {
    return {range.address, ~range.size, range.token};
}

void Ranges::update(Node& node) {
    node.furthest = node.range.end();
    for (const Tree* child : {&node.left, &node.right}) {
        if (*child) node.furthest = std::max(node.furthest, (*child)->furthest);
    }
}

Ranges::Tree Ranges::merge(Tree left, Tree right) {
    if (!left) return right;
    if (!right) return left;
    if (left->priority > right->priority) {
        left->right = merge(std::move(left->right), std::move(right));
        update(*left);
        return left;
    }
    right->left = merge(std::move(left), std::move(right->left));
    update(*right);
    return right;
}

Ranges::Tree Ranges::split(Tree& from, const Place& at) {
    if (!from) return nullptr;
    if (place(from->range) < at) {
        Tree rest = split(from->right, at);
        update(*from);
        return rest;
    }
    Tree rest = std::move(from);
    from = std::move(rest->left);
    rest->left = split(from, at);
    update(*rest);
    return rest;
}

void Ranges::add(const Range& range) {
    auto made = std::make_unique<Node>();
    made->range = range;
    made->priority = priority_of(range.token);
    update(*made);
    Tree& tree = trees_[range.rights];
    Tree rest = split(tree, place(range));
    tree = merge(merge(std::move(tree), std::move(made)), std::move(rest));
}

void Ranges::remove(const Range& range) {
    const auto found = trees_.find(range.rights);
    if (found == trees_.end()) return;
    // Down to the node; above it, ends are found anew on the way back.
    const auto cut = [&range](const auto& self, Tree& tree) -> void {
        if (!tree) return;
        if (place(tree->range) == place(range)) {
            tree = merge(std::move(tree->left), std::move(tree->right));
            return;
        }
        self(self, place(range) < place(tree->range) ? tree->left : tree->right);
        update(*tree);
    };
    cut(cut, found->second);
    if (!found->second) trees_.erase(found);
}

// Left of a node that begins at or before the address, all others do, too: so at most one way down
// is taken in vain.
const Range* Ranges::last_containing(const Node* node, std::uint64_t address, std::uint64_t end) {
    if (node == nullptr || node->furthest < end) return nullptr;
    if (node->range.address > address) return last_containing(node->left.get(), address, end);
    if (const Range* found = last_containing(node->right.get(), address, end)) return found;
    if (node->range.end() >= end) return &node->range;
    return last_containing(node->left.get(), address, end);
}

const Range* Ranges::find(std::uint64_t address, std::uint64_t length, std::uint32_t rights) const {
    if (length > ~address) return nullptr;
    const Range* best = nullptr;
    for (const auto& [granted, tree] : trees_) {
        if ((granted & rights) != rights) continue;
        const Range* found = last_containing(tree.get(), address, address + length);
        if (found != nullptr && (best == nullptr || place(*best) < place(*found))) best = found;
    }
    return best;
}

const Range* Ranges::nearest(std::uint64_t address) const {
    const Range* best = nullptr;
    const auto distance = [address](const Range& range) {
        return address > range.address ? address - range.address : range.address - address;
    };
    for (const auto& [granted, tree] : trees_) {
        for (const Node* node = tree.get(); node != nullptr;) {
            if (best == nullptr || distance(node->range) < distance(*best)) best = &node->range;
            node = (node->range.address > address ? node->left : node->right).get();
        }
    }
    return best;
}

std::size_t Ranges::height_of(const Node* node) {
    return node == nullptr
               ? 0
               : 1 + std::max(height_of(node->left.get()), height_of(node->right.get()));
}

std::size_t Ranges::height() const {
    std::size_t most = 0;
    for (const auto& [granted, tree] : trees_) most = std::max(most, height_of(tree.get()));
    return most;
}

}  // namespace ndv::core
