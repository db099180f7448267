// SPDX-License-Identifier: Apache-2.0
// Checks of fast_register, bind and invalidate before they are posted, the sentences for those
// that fail, and what a provider without them answers.
#include "core/mapping.hpp"

#include <unistd.h>

#include <string>

#include "core/adapter.hpp"
#include "core/buffers.hpp"
#include "core/queue_pair.hpp"

namespace ndv::core {
namespace {

constexpr std::uint32_t kFastRegisterFlags = flag::kCommon | flag::kAllowRemoteRead |
                                             flag::kAllowLocalWrite | flag::kAllowRemoteWrite |
                                             flag::kRdmaReadSink | flag::kAllowRemoteAtomic;
constexpr std::uint32_t kBindRights =
    flag::kAllowRemoteRead | flag::kAllowRemoteWrite | flag::kAllowRemoteAtomic;
constexpr std::uint32_t kBindFlags = flag::kCommon | kBindRights;

// Of ALLOW_REMOTE_WRITE the bit of its own, without the local write that it contains.
constexpr std::uint32_t kRemoteWriteOnly = flag::kAllowRemoteWrite & ~flag::kAllowLocalWrite;

bool can_grant(std::uint32_t flags, const AdapterInfo& info) {
    return (flags & flag::kAllowRemoteAtomic) == 0 || (info.extensions & extension::kAtomics) != 0;
}

}  // namespace

Error common_error(Status status, const std::string& name, const QueuePair& qp) {
    Error error{status, {}, {}, 0};
    if (status == Status::file_forced_closed) {
        error.what = name + ": the queue pair, or what the request is about, is closed";
    } else if (status == Status::connection_invalid) {
        error = qp.not_connected(name);
    } else if (status == Status::no_more_entries) {
        error.what = name + ": the initiator queue is full (" +
                     std::to_string(qp.limits().initiator_queue_depth) + " requests outstanding)";
        error.hint = "poll completions first, or create_qp(initiator_queue_depth=...)";
    } else if (status == Status::not_supported) {
        error.what = name + ": the adapter cannot do it";
        error.hint = "adapter.info.features and .extensions tell what it can";
    } else if (status == Status::insufficient_resources) {
        error.what = name + ": the adapter's table of regions is full";
        error.hint = "close regions that are no longer used";
    } else {
        error.what = name + ": " + std::string(status_meaning(status));
    }
    return error;
}

std::uint64_t page_size() {
    static const auto size = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    return size;
}

std::uint32_t rights_of_flags(std::uint32_t flags) {
    std::uint32_t rights = access::kLocalRead;
    if ((flags & flag::kAllowLocalWrite) != 0) rights |= access::kLocalWrite;
    if ((flags & flag::kAllowRemoteRead) != 0) rights |= access::kRemoteRead;
    if ((flags & kRemoteWriteOnly) != 0) rights |= access::kRemoteWrite | access::kRdmaReadSink;
    if ((flags & flag::kRdmaReadSink) != 0) rights |= access::kRdmaReadSink;
    if ((flags & flag::kAllowRemoteAtomic) != 0) rights |= access::kRemoteAtomic;
    return rights;
}

// ---- what a provider need not have ----------------------------------------------------------

Expected<std::shared_ptr<LogicalAddressMapping>> Adapter::build_lam(BufferHold* hold) {
    if (is_closed()) {
        hold->release();
        return closed("build_lam", "adapter");
    }
    if (hold->size() > info().max_registration_size) {
        hold->release();
        return fail(Status::invalid_parameter,
                    "build_lam: the buffer exceeds max_registration_size " +
                        std::to_string(info().max_registration_size));
    }
    return adopted(do_build_lam(hold));
}

Expected<std::shared_ptr<LogicalAddressMapping>> Adapter::do_build_lam(BufferHold* hold) {
    hold->release();
    return absent("build_lam");
}

Expected<std::shared_ptr<FastRegisterMemoryRegion>> ProtectionDomain::create_fast_register_mr(
    std::uint32_t max_pages, bool remote_access) {
    if (is_closed()) return closed("create_fast_register_mr", "protection domain");
    if (max_pages == 0) {
        return fail(Status::invalid_parameter, "create_fast_register_mr: max_pages is 0");
    }
    return adopted(do_create_fast_register_mr(max_pages, remote_access));
}

Expected<std::shared_ptr<MemoryWindow>> ProtectionDomain::create_mw() {
    if (is_closed()) return closed("create_mw", "protection domain");
    return adopted(do_create_mw());
}

Expected<std::uint32_t> ProtectionDomain::privileged_token() {
    if (is_closed()) return closed("privileged_token", "protection domain");
    return do_privileged_token();
}

Status QueuePair::do_fast_register(const FastRegisterRequest&) { return Status::not_supported; }
Status QueuePair::do_bind(const BindRequest&) { return Status::not_supported; }
Status QueuePair::do_invalidate(const InvalidateRequest&) { return Status::not_supported; }

// ---- checks ---------------------------------------------------------------------------------

Status QueuePair::fast_register(const FastRegisterRequest& request) {
    const FastRegisterMemoryRegion& region = *request.region;
    if (is_closed() || region.is_closed()) return Status::file_forced_closed;
    const std::uint64_t page = page_size();
    const std::uint64_t room = request.pages.size() * page;
    // NDK: the address is k pages plus the offset of the first byte.
    const bool is_sound = (request.flags & ~kFastRegisterFlags) == 0 && region.pd() == pd_ &&
                          !request.pages.empty() && request.pages.size() <= region.max_pages() &&
                          request.first_byte_offset < page && request.length > 0 &&
                          request.length <= room - request.first_byte_offset &&
                          request.base_address % page == request.first_byte_offset &&
                          request.base_address + (request.length - 1) >= request.base_address &&
                          request.length <= pd_->info().max_registration_size;
    if (!is_sound || (request.flags & flag::kAllowRemoteWrite) == kRemoteWriteOnly) {
        return Status::invalid_parameter;
    }
    if ((rights_of_flags(request.flags) & access::kRemote) != 0 && !region.allows_remote()) {
        return Status::access_violation;
    }
    if (!can_grant(request.flags, pd_->info())) return Status::not_supported;
    if (state() != QueuePairState::connected) return Status::connection_invalid;
    return initiate([&] { return do_fast_register(request); });
}

Status QueuePair::bind(const BindRequest& request) {
    if (is_closed() || request.window->is_closed() || request.region->is_closed()) {
        return Status::file_forced_closed;
    }
    const std::uint32_t rights = request.flags & kBindRights;
    // Of the two write bits both or none; and a window that allows nothing is a mistake.
    const std::uint32_t writes = rights & flag::kAllowRemoteWrite;
    if ((request.flags & ~kBindFlags) != 0 || rights == 0 ||
        (writes != 0 && writes != flag::kAllowRemoteWrite) || request.length == 0 ||
        request.length > pd_->info().max_window_size || request.window->pd() != pd_ ||
        request.region->pd() != pd_) {
        return Status::invalid_parameter;
    }
    if (!request.region->is_registered()) return Status::invalid_device_request;
    const std::uint64_t begin = request.region->address();
    const std::uint64_t size = request.region->size();
    if (request.address < begin || request.length > size ||
        request.address - begin > size - request.length ||
        (rights != flag::kAllowRemoteRead &&
         (request.region->rights() & access::kLocalWrite) == 0)) {
        return Status::access_violation;
    }
    if (!can_grant(request.flags, pd_->info())) return Status::not_supported;
    if (state() != QueuePairState::connected) return Status::connection_invalid;
    return initiate([&] { return do_bind(request); });
}

Status QueuePair::invalidate(const InvalidateRequest& request) {
    const Object& about =
        request.region != nullptr ? static_cast<const Object&>(*request.region) : *request.window;
    const auto& domain = request.region != nullptr ? request.region->pd() : request.window->pd();
    if (is_closed() || about.is_closed()) return Status::file_forced_closed;
    if ((request.flags & ~flag::kCommon) != 0 || domain != pd_) return Status::invalid_parameter;
    if (state() != QueuePairState::connected) return Status::connection_invalid;
    return initiate([&] { return do_invalidate(request); });
}

// ---- sentences ------------------------------------------------------------------------------

Error QueuePair::explain(Status status, const FastRegisterRequest& request) const {
    Error error = common_error(status, "fast_register", *this);
    if (status == Status::not_supported) {
        error.what =
            "fast_register: this adapter takes pages of private memory only as they follow each "
            "other there";
        error.hint =
            "without \"fast_register_any_pages\" in adapter.info.features, keep their order, or "
            "map shared memory: mmap, multiprocessing.shared_memory";
    } else if (status == Status::invalid_parameter) {
        error.what = "fast_register: flags " + std::to_string(request.flags) + ", " +
                     std::to_string(request.pages.size()) + " pages of a region made for " +
                     std::to_string(request.region->max_pages()) + ", first_byte_offset " +
                     std::to_string(request.first_byte_offset) + ", length " +
                     std::to_string(request.length) + " and base_address " +
                     std::to_string(request.base_address) +
                     " do not go together, or the region is of another protection domain";
        error.hint =
            "the range must lie in the pages, and base_address be a multiple of the page size "
            "plus first_byte_offset";
    } else if (status == Status::access_violation) {
        if (!request.region->allows_remote()) {
            error.what = "fast_register: the region was created without remote access";
            error.hint = "create_fast_register_mr(..., remote_access=True)";
        } else {
            error.what =
                "fast_register: a page is of no mapping that is built, has bytes in the range "
                "that are not of its buffer, or is of a read-only buffer that is to be written";
            error.hint = "use pages of a LogicalAddressMapping; inner pages must be whole";
        }
    }
    return error;
}

Error QueuePair::explain(Status status, const BindRequest& request) const {
    Error error = common_error(status, "bind", *this);
    if (status == Status::invalid_parameter) {
        error.what = "bind: flags " + std::to_string(request.flags) + " or length " +
                     std::to_string(request.length) +
                     " cannot be, or window and region are of another protection domain";
        error.hint = "a window grants one or more of the rights ALLOW_REMOTE_...";
    } else if (status == Status::access_violation) {
        error.what =
            "bind: the range is not inside the region, or the window would grant "
            "writing to a region without Access.LOCAL_WRITE";
    } else if (status == Status::invalid_device_request) {
        error.what = "bind: the memory region is not registered";
    }
    return error;
}

Error QueuePair::explain(Status status, const InvalidateRequest& request) const {
    Error error = common_error(status, "invalidate", *this);
    if (status == Status::invalid_parameter) {
        error.what = "invalidate: flags " + std::to_string(request.flags) +
                     " contain a bit that it does not take, or the object is of another "
                     "protection domain";
    }
    return error;
}

}  // namespace ndv::core
