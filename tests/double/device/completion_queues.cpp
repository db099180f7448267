// SPDX-License-Identifier: Apache-2.0
// Calls about completion queues and their interrupts.
#include <bit>
#include <cerrno>

#include "calls.hpp"
#include "objects.hpp"

using namespace ndv::doubles;

namespace {

// Takes away the events about what is destroyed.
template <typename Queue, typename About>
void forget(Queue& queue, const About& is_about_it) {
    std::erase_if(queue, is_about_it);
}

int entries_of(const Profile& profile, int wanted) {
    const auto asked = static_cast<unsigned>(wanted);
    return static_cast<int>(profile.rounds_up ? std::bit_ceil(asked + 1) - 1 : asked);
}

}  // namespace

extern "C" {

ibv_comp_channel* ibv_create_comp_channel(ibv_context* context) {
    if (const int failed = world().refusal("ibv_create_comp_channel"); failed != 0) {
        errno = failed;
        return nullptr;
    }
    const Lock lock(world().mutex);
    if (context_of(context).owner.is_removed) {
        errno = EIO;
        return nullptr;
    }
    auto* const made = new Channel{};
    made->context = context;
    made->fd = made->events.fd();
    context_of(context).channels.insert(made);
    ++world().live["comp_channel"];
    return made;
}

int ibv_destroy_comp_channel(ibv_comp_channel* channel) {
    if (const int failed = world().refusal("ibv_destroy_comp_channel"); failed != 0) return failed;
    const Lock lock(world().mutex);
    auto* const gone = static_cast<Channel*>(channel);
    if (gone->refcnt > 0) return EBUSY;
    context_of(channel->context).channels.erase(gone);
    --world().live["comp_channel"];
    delete gone;
    return 0;
}

ibv_cq* ibv_create_cq(ibv_context* context, int depth, void* owner, ibv_comp_channel* channel,
                      int vector) {
    if (const int failed = world().refusal("ibv_create_cq"); failed != 0) {
        errno = failed;
        return nullptr;
    }
    const Lock lock(world().mutex);
    Device& device = context_of(context).owner;
    const bool is_possible = depth >= 1 && vector < context->num_comp_vectors &&
                             depth <= static_cast<int>(device.profile.max_cq_entries);
    if (device.is_removed || !is_possible) {
        errno = device.is_removed ? EIO : EINVAL;
        return nullptr;
    }
    auto* const made = new CompletionQueue{};
    made->context = context;
    made->channel = channel;
    made->cq_context = owner;
    made->cqe = entries_of(device.profile, depth);
    made->device = &device;
    if (channel != nullptr) ++channel->refcnt;
    device.queues.insert(made);
    ++world().live["cq"];
    return made;
}

int ibv_destroy_cq(ibv_cq* cq) {
    if (const int failed = world().refusal("ibv_destroy_cq"); failed != 0) return failed;
    Lock lock(world().mutex);
    auto* const gone = static_cast<CompletionQueue*>(cq);
    if (gone->users > 0) return EBUSY;
    Context& context = context_of(cq->context);
    forget(context.events.queued, [gone](const ibv_async_event& event) {
        return event.event_type == IBV_EVENT_CQ_ERR && event.element.cq == gone;
    });
    if (cq->channel != nullptr) {
        forget(static_cast<Channel&>(*cq->channel).events.queued,
               [gone](const CompletionQueue* about) { return about == gone; });
        --cq->channel->refcnt;
    }
    gone->device->queues.erase(gone);
    --world().live["cq"];
    if (gone->device->is_removed) {
        world().abandoned.emplace_back(gone);
        return EIO;
    }
    wait_for(lock, gone->events);
    wait_for(lock, gone->interrupts);
    // Late completions of the wire's.
    gone->is_gone = true;
    if (gone->timers == 0) delete gone;
    return 0;
}

int ibv_resize_cq(ibv_cq* cq, int depth) {
    if (const int failed = world().refusal("ibv_resize_cq"); failed != 0) return failed;
    const Lock lock(world().mutex);
    auto& queue = static_cast<CompletionQueue&>(*cq);
    if (queue.device->is_removed) return EIO;
    const Profile& profile = queue.device->profile;
    if (!profile.resizes_queues) return EOPNOTSUPP;
    if (depth < 1 || depth > static_cast<int>(profile.max_cq_entries)) return EINVAL;
    queue.cqe = entries_of(profile, depth);
    return 0;
}

int ibv_get_cq_event(ibv_comp_channel* channel, ibv_cq** cq, void** owner) {
    CompletionQueue* taken = nullptr;
    if (!static_cast<Channel&>(*channel).events.take(
            taken, [](CompletionQueue* about) { ++about->interrupts.taken; })) {
        return -1;
    }
    *cq = taken;
    *owner = taken->cq_context;
    return 0;
}

void ibv_ack_cq_events(ibv_cq* cq, unsigned count) {
    const Lock lock(world().mutex);
    static_cast<CompletionQueue&>(*cq).interrupts.acknowledged += count;
    world().acknowledged.notify_all();
}

}  // extern "C"

namespace ndv::doubles {

int poll_cq(ibv_cq* cq, int most, ibv_wc* out) {
    const Lock lock(world().mutex);
    auto& queue = static_cast<CompletionQueue&>(*cq);
    int count = 0;
    for (; count < most && !queue.ready.empty(); ++count) {
        out[count] = queue.ready.front().wc;
        queue.ready.pop_front();
    }
    return count;
}

int req_notify_cq(ibv_cq* cq, int solicited_only) {
    const Lock lock(world().mutex);
    auto& queue = static_cast<CompletionQueue&>(*cq);
    using Armed = CompletionQueue::Armed;
    // The stronger request stays (InfiniBand architecture, 11.4.2.2).
    if (solicited_only == 0) {
        queue.armed = Armed::any;
    } else if (queue.armed == Armed::no) {
        queue.armed = Armed::solicited;
    }
    return 0;
}

}  // namespace ndv::doubles
