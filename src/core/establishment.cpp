// SPDX-License-Identifier: Apache-2.0
// The table of a connection's life.
#include "core/establishment.hpp"

namespace ndv::core {
namespace {

struct Row {
    ConnectorState state;
    Input input;
    ConnectorState next;
    Effects effects;
    End why = End::none;
};

using Do = Effects;

using enum ConnectorState;
using enum Effect;

// What ends an attempt: NDK leaves connector and queue pair as they were.
constexpr Effects kFailedAttempt = Do(finish, clear, give_back, let_go, count_failure);
// What ends an accept whose answer is out.
constexpr Effects kFailedAccept = Do(finish, clear, forget, flush, let_go, count_failure);

constexpr Row kRows[] = {
    {idle, Input::connect, connecting, Do()},
    {idle, Input::close, disconnected, Do(let_go)},

    {connecting, Input::answered, accepted, Do(finish, clear)},
    {connecting, Input::failed, idle, kFailedAttempt},
    {connecting, Input::deadline, idle, kFailedAttempt},
    {connecting, Input::abandon, idle, kFailedAttempt},
    {connecting, Input::close, disconnected, kFailedAttempt},

    {accepted, Input::complete, connected, Do(enter, count_connect)},
    {accepted, Input::failed, disconnected, Do(flush, let_go, count_failure), End::not_made},
    {accepted, Input::reject, disconnected, Do(give_back, let_go)},
    {accepted, Input::flushed, disconnected, Do(goodbye, give_back, let_go)},
    {accepted, Input::queue_pair_closed, disconnected, Do(goodbye, give_back, let_go)},
    {accepted, Input::broken, disconnected, Do(flush, goodbye, let_go), End::lost},
    {accepted, Input::close, disconnected, Do(goodbye, give_back, let_go)},

    {incoming, Input::withdrawn, incoming, Do(let_go, count_failure)},
    {incoming, Input::accept, completing, Do()},
    {incoming, Input::failed, disconnected, Do(clear, give_back, let_go)},
    {incoming, Input::reject, disconnected, Do(let_go)},
    {incoming, Input::close, disconnected, Do(goodbye, let_go)},

    {completing, Input::established, connected, Do(finish, clear, enter, count_accept)},
    {completing, Input::failed, disconnected, kFailedAccept, End::not_made},
    {completing, Input::gave_up, disconnected, kFailedAccept, End::not_made},
    {completing, Input::broken, disconnected, kFailedAccept, End::not_made},
    {completing, Input::deadline, disconnected, kFailedAccept, End::timed_out},
    {completing, Input::flushed, disconnected, Do(finish, clear, forget, goodbye)},
    {completing, Input::queue_pair_closed, disconnected, Do(finish, clear, forget, goodbye)},
    {completing, Input::abandon, disconnected, Do(finish, clear, forget, flush, let_go),
     End::closed},
    {completing, Input::close, disconnected, Do(finish, clear, forget, flush, goodbye, let_go),
     End::closed},

    {connected, Input::failed, disconnected, Do(forget, flush, leave, count_failure),
     End::not_made},
    {connected, Input::peer_closed, connected, Do(notify)},
    {connected, Input::peer_closed_unheard, disconnected, Do(flush, leave, goodbye),
     End::peer_closed},
    {connected, Input::broken, disconnected, Do(notify, flush, leave, goodbye, count_error),
     End::lost},
    {connected, Input::flushed, disconnected, Do(notify, leave, goodbye)},
    {connected, Input::queue_pair_closed, disconnected, Do(forget, leave, goodbye)},
    {connected, Input::disconnect, disconnecting, Do(forget)},
    {connected, Input::close, disconnected, Do(forget, flush, leave, goodbye, let_go), End::closed},

    {disconnecting, Input::both_closed, disconnected, Do(finish, clear, flush, leave),
     End::disconnected},
    {disconnecting, Input::failed, disconnected, Do(finish, clear, flush, leave, count_failure),
     End::not_made},
    {disconnecting, Input::deadline, disconnected, Do(finish, flush, leave, goodbye),
     End::disconnected},
    {disconnecting, Input::broken, disconnected,
     Do(finish, clear, flush, leave, goodbye, count_error), End::disconnected},
    {disconnecting, Input::flushed, disconnected, Do(finish, clear, leave, goodbye)},
    {disconnecting, Input::queue_pair_closed, disconnected, Do(finish, clear, leave, goodbye)},
    {disconnecting, Input::abandon, disconnecting, Do(finish)},
    {disconnecting, Input::close, disconnected, Do(finish, clear, flush, leave, goodbye, let_go),
     End::closed},

    {disconnected, Input::close, disconnected, Do(let_go)},
};

}  // namespace

std::optional<Step> step(ConnectorState state, Input input) {
    for (const Row& row : kRows) {
        if (row.state == state && row.input == input) return Step{row.next, row.effects, row.why};
    }
    return std::nullopt;
}

const char* connector_state_name(ConnectorState state) {
#define NDV_TEXT(name) #name,
    constexpr const char* kNames[] = {NDV_CONNECTOR_STATE_LIST(NDV_TEXT)};
#undef NDV_TEXT
    return kNames[static_cast<std::size_t>(state)];
}

}  // namespace ndv::core
