// SPDX-License-Identifier: Apache-2.0
// rdma_cm: ids, and connections between them. Everything here runs with the world's mutex.
#pragma once

#include <cstddef>
#include <string>

#include "objects.hpp"

namespace ndv::doubles {

struct CmEvent : rdma_cm_event {
    Id* about = nullptr;     // counts it; an incoming id's counts for its listener
    Id* incoming = nullptr;  // goes with the event when no program takes it
    std::vector<std::byte> data;
};

struct CmChannel : rdma_event_channel {
    EventPipe<std::unique_ptr<CmEvent>> events;
};

enum class CmState {
    idle,
    bound,
    resolving,
    resolved,
    routed,
    listening,
    asked,     // active: the request has left
    incoming,  // passive: it has come
    answered,  // active: the answer has come
    accepted,  // passive: it has left
    connected,
    leaving,       // has asked for the end
    left_by_peer,  // has been asked for it
    over,
};

struct Id : rdma_cm_id {
    std::uint64_t serial = 0;
    CmState state = CmState::idle;
    Device* device = nullptr;
    Id* peer = nullptr;
    bool is_bound = false;  // has a port
    bool is_shared = false;
    bool has_one_family = false;
    bool is_removed = false;
    std::uint32_t qp_num = 0;
    std::uint8_t inbound = 0;  // as asked for by this side
    std::uint8_t outbound = 0;
    std::uint8_t retries = 7;
    std::uint8_t pauses = 7;
    std::uint8_t tos = 0;
    std::uint8_t ack_timeout = 19;  // rdma_cm's own choice, of minutes
    bool is_taken = true;           // a program has it; false: it is in an event still
    Counted events;

    [[nodiscard]] bool is_iwarp() const { return device->profile.is_iwarp(); }
};

// An address as text, with its port.
[[nodiscard]] std::string text_of(const sockaddr& address);
[[nodiscard]] std::string host_of(const sockaddr& address);
[[nodiscard]] std::uint16_t port_of(const sockaddr& address);
// Null: none; `port` is the device's that has it.
[[nodiscard]] Device* device_at(const sockaddr& address, std::uint8_t& port);

void tell(Id& id, rdma_cm_event_type type, int status = 0);
void tell(Id& id, rdma_cm_event_type type, int status, const rdma_conn_param& asked,
          std::size_t padded_to);
// iWARP: the connection of the id with that serial is over. In order: without an error of its queue
// pairs, whose requests are flushed all the same (hw/cxgb4/ep.c: peer_close).
void end_connection(std::uint64_t serial, bool is_in_order);
// Every id of the device learns of its removal.
void remove_ids(Device& device);

}  // namespace ndv::doubles
