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

template <typename... Each>
constexpr Effects do_(Each... each) {
    return Effects(each...);
}

using enum ConnectorState;
using enum Effect;

// What ends an attempt: NDK leaves connector and queue pair as they were.
constexpr Effects kFailedAttempt = do_(finish, clear, give_back, let_go, count_failure);
// What ends an accept whose answer is out.
constexpr Effects kFailedAccept = do_(finish, clear, forget, flush, let_go, count_failure);

constexpr Row kRows[] = {
    {idle, Input::connect, connecting, do_()},
    {idle, Input::close, disconnected, do_(let_go)},

    {connecting, Input::answered, accepted, do_(finish, clear)},
    {connecting, Input::failed, idle, kFailedAttempt},
    {connecting, Input::deadline, idle, kFailedAttempt},
    {connecting, Input::abandon, idle, kFailedAttempt},
    {connecting, Input::close, disconnected, kFailedAttempt},

    {accepted, Input::complete, connected, do_(enter, count_connect)},
    {accepted, Input::failed, disconnected, do_(flush, let_go, count_failure), End::not_made},
    {accepted, Input::reject, disconnected, do_(give_back, let_go)},
    {accepted, Input::flushed, disconnected, do_(goodbye, give_back, let_go)},
    {accepted, Input::queue_pair_closed, disconnected, do_(goodbye, give_back, let_go)},
    {accepted, Input::broken, disconnected, do_(flush, goodbye, let_go), End::lost},
    {accepted, Input::close, disconnected, do_(goodbye, give_back, let_go)},

    {incoming, Input::withdrawn, incoming, do_(let_go, count_failure)},
    {incoming, Input::accept, completing, do_()},
    {incoming, Input::failed, disconnected, do_(clear, give_back, let_go)},
    {incoming, Input::reject, disconnected, do_(let_go)},
    {incoming, Input::close, disconnected, do_(goodbye, let_go)},

    {completing, Input::established, connected, do_(finish, clear, enter, count_accept)},
    {completing, Input::failed, disconnected, kFailedAccept, End::not_made},
    {completing, Input::gave_up, disconnected, kFailedAccept, End::not_made},
    {completing, Input::broken, disconnected, kFailedAccept, End::not_made},
    {completing, Input::deadline, disconnected, kFailedAccept, End::timed_out},
    {completing, Input::flushed, disconnected, do_(finish, clear, forget, goodbye)},
    {completing, Input::queue_pair_closed, disconnected, do_(finish, clear, forget, goodbye)},
    {completing, Input::abandon, disconnected, do_(finish, clear, forget, flush, let_go),
     End::closed},
    {completing, Input::close, disconnected, do_(finish, clear, forget, flush, goodbye, let_go),
     End::closed},

    {connected, Input::failed, disconnected, do_(forget, flush, leave, count_failure),
     End::not_made},
    {connected, Input::peer_closed, connected, do_(notify)},
    {connected, Input::peer_closed_unheard, disconnected, do_(flush, leave, goodbye),
     End::peer_closed},
    {connected, Input::broken, disconnected, do_(notify, flush, leave, goodbye, count_error),
     End::lost},
    {connected, Input::flushed, disconnected, do_(notify, leave, goodbye)},
    {connected, Input::queue_pair_closed, disconnected, do_(forget, leave, goodbye)},
    {connected, Input::disconnect, disconnecting, do_(forget)},
    {connected, Input::close, disconnected, do_(forget, flush, leave, goodbye, let_go),
     End::closed},

    {disconnecting, Input::both_closed, disconnected, do_(finish, clear, flush, leave),
     End::disconnected},
    {disconnecting, Input::failed, disconnected, do_(finish, clear, flush, leave, count_failure),
     End::not_made},
    {disconnecting, Input::deadline, disconnected, do_(finish, flush, leave, goodbye),
     End::disconnected},
    {disconnecting, Input::broken, disconnected,
     do_(finish, clear, flush, leave, goodbye, count_error), End::disconnected},
    {disconnecting, Input::flushed, disconnected, do_(finish, clear, leave, goodbye)},
    {disconnecting, Input::queue_pair_closed, disconnected, do_(finish, clear, leave, goodbye)},
    {disconnecting, Input::abandon, disconnecting, do_(finish)},
    {disconnecting, Input::close, disconnected, do_(finish, clear, flush, leave, goodbye, let_go),
     End::closed},

    {disconnected, Input::close, disconnected, do_(let_go)},
};

}  // namespace

std::optional<Step> step(ConnectorState state, Input input) {
    for (const Row& row : kRows) {
        if (row.state == state && row.input == input) return Step{row.next, row.effects, row.why};
    }
    return std::nullopt;
}

const char* connector_state_name(ConnectorState state) {
    switch (state) {
#define NDV_TEXT(name)         \
    case ConnectorState::name: \
        return #name;
        NDV_CONNECTOR_STATE_LIST(NDV_TEXT)
#undef NDV_TEXT
    }
    return "unknown";
}

}  // namespace ndv::core
