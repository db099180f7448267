// SPDX-License-Identifier: Apache-2.0
// What tests ask of the double, beside what programs know: faults, delays, removal, counts.
#include <cstring>

#include "cm.hpp"
#include "transport.hpp"

using namespace ndv::doubles;

namespace {

Device* find(const char* name) {
    for (const auto& device : world().devices) {
        if (std::strcmp(device->name, name) == 0) return device.get();
    }
    return nullptr;
}

// "call 3, call 1", in the caller's memory.
void show(const std::map<std::string, int>& counts, char* out, std::size_t size) {
    std::string text;
    for (const auto& [name, count] : counts) {
        if (count != 0) text += (text.empty() ? "" : " ") + name + " " + std::to_string(count);
    }
    std::strncpy(out, text.c_str(), size - 1);
    out[size - 1] = '\0';
}

}  // namespace

extern "C" {

// `call` "*": each. `count` -1: always. `os_error` 0: it only takes its time.
void double_add_fault(const char* call, int os_error, int skip, int count, int delay_ms) {
    world().add_fault({call, os_error, skip, count, delay_ms});
}

// Faults, delays, removals and claims are over; what exists stays.
void double_reset() {
    world().forget_faults();
    const Lock lock(world().mutex);
    for (const auto& device : world().devices) {
        device->is_removed = device->has_host_addresses = device->is_holding = false;
        device->late_initiator = device->late_receive = std::chrono::microseconds(0);
        for (CompletionQueue* const cq : device->queues) let_go(*cq);
    }
}

void double_show_calls(char* out, std::size_t size) { show(world().calls(), out, size); }

void double_show_live(char* out, std::size_t size) {
    const Lock lock(world().mutex);
    show(world().live, out, size);
}

// Those of the first port that is in use.
void double_show_addresses(const char* name, char* out, std::size_t size) {
    const Lock lock(world().mutex);
    std::string text;
    const Device* const device = find(name);
    for (const Port& port : device == nullptr ? std::vector<Port>{} : device->profile.ports) {
        if (!text.empty()) break;
        for (const auto& address : port.addresses) text += std::string(address) + " ";
    }
    std::strncpy(out, text.c_str(), size - 1);
    out[size - 1] = '\0';
}

int double_claim_host_addresses(const char* name) {
    const Lock lock(world().mutex);
    Device* const device = find(name);
    if (device != nullptr) device->has_host_addresses = true;
    return device != nullptr;
}

// Completions come so much later than what they are about, per kind of queue.
int double_set_late(const char* name, int initiator_us, int receive_us) {
    const Lock lock(world().mutex);
    Device* const device = find(name);
    if (device == nullptr) return 0;
    device->late_initiator = std::chrono::microseconds(initiator_us);
    device->late_receive = std::chrono::microseconds(receive_us);
    return 1;
}

// No completion comes until the device lets them go.
int double_hold(const char* name, int is_holding) {
    const Lock lock(world().mutex);
    Device* const device = find(name);
    if (device == nullptr) return 0;
    device->is_holding = is_holding != 0;
    if (is_holding == 0) {
        for (CompletionQueue* const cq : device->queues) let_go(*cq);
    }
    return 1;
}

// The device goes, as when its driver is unbound (Linux, core/uverbs_main.c,
// ib_uverbs_free_hw_resources; core/cma.c, cma_process_remove): an event to each context and each
// id, descriptors at their end, and EIO for every call from then on, destruction included.
int double_remove(const char* name) {
    const Lock lock(world().mutex);
    Device* const device = find(name);
    if (device == nullptr) return 0;
    device->is_removed = true;
    for (Context* const context : device->contexts) {
        report(*context, IBV_EVENT_DEVICE_FATAL);
        context->events.shut();
        for (Channel* const channel : context->channels) channel->events.shut();
    }
    remove_ids(*device);
    return 1;
}

// An asynchronous event about every queue pair of the device, or about the device.
int double_report(const char* name, int type, int is_about_queue_pairs) {
    const Lock lock(world().mutex);
    Device* const device = find(name);
    if (device == nullptr) return 0;
    if (is_about_queue_pairs == 0) {
        for (Context* const context : device->contexts) {
            report(*context, static_cast<ibv_event_type>(type));
        }
        return 1;
    }
    for (const auto& [number, qp] : world().queue_pairs) {
        if (qp->device != device) continue;
        report(context_of(qp->context), static_cast<ibv_event_type>(type), qp);
    }
    return 1;
}

}  // extern "C"
