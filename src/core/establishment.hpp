// SPDX-License-Identifier: Apache-2.0
// The life of one connection as data: what each state makes of each input, and what is to be done
// then. It owns no lock and does nothing; core::Connector carries the effects out, and providers
// report the inputs. Source: NDKPI connector dispatch.
#pragma once

#include <cstdint>
#include <optional>

#include "core/types.hpp"

namespace ndv::core {

#define NDV_CONNECTOR_STATE_LIST(X)                                                      \
    X(idle) /* active: fresh, or an attempt failed */                                    \
    X(connecting)                                                                        \
    X(accepted)   /* active: the peer accepted; CompleteConnect or Reject must follow */ \
    X(incoming)   /* passive: Accept or Reject must follow */                            \
    X(completing) /* passive: accept waits for the peer's first message */               \
    X(connected)                                                                         \
    X(disconnecting)                                                                     \
    X(disconnected)

#define NDV_INPUT_LIST(X)                                                                    \
    /* calls of the program */                                                               \
    X(connect)                                                                               \
    X(complete)                                                                              \
    X(accept)                                                                                \
    X(reject)                                                                                \
    X(disconnect)                                                                            \
    X(abandon)                                                                               \
    X(close)                                                                                 \
    X(deadline)                                                                              \
    /* of the peer, or of the way to it */                                                   \
    X(answered)                                                                              \
    X(failed)              /* refused, unreachable, or nothing to go on with on this side */ \
    X(withdrawn)           /* the peer took its request back */                              \
    X(gave_up)             /* the peer left before the connection was complete */            \
    X(established)         /* the peer's first message */                                    \
    X(peer_closed)         /* in order, and on_disconnect is there to hear of it */          \
    X(peer_closed_unheard) /* in order, and it is not */                                     \
    X(both_closed)         /* in order, and so has this side */                              \
    X(broken)                                                                                \
    /* of the queue pair on this side */                                                     \
    X(flushed)                                                                               \
    X(queue_pair_closed)

#define NDV_EFFECT_LIST(X)                                                            \
    X(finish)    /* the operation under way ends */                                   \
    X(clear)     /* the deadline */                                                   \
    X(give_back) /* the queue pair is as it was */                                    \
    X(flush)     /* the queue pair ends */                                            \
    X(notify)    /* on_disconnect is called */                                        \
    X(forget)    /* on_disconnect is not called any more */                           \
    X(enter)     /* an active connection more */                                      \
    X(leave)     /* an active connection less */                                      \
    X(goodbye)   /* this side says so on the wire */                                  \
    X(let_go)    /* what the provider had for the attempt or connection is dropped */ \
    X(count_connect)                                                                  \
    X(count_accept)                                                                   \
    X(count_failure) /* an attempt that became no connection */                       \
    X(count_error)   /* a connection that broke */

#define NDV_NAME(name) name,
enum class ConnectorState : std::uint8_t { NDV_CONNECTOR_STATE_LIST(NDV_NAME) };
enum class Input : std::uint8_t { NDV_INPUT_LIST(NDV_NAME) };
enum class Effect : std::uint8_t { NDV_EFFECT_LIST(NDV_NAME) };
#undef NDV_NAME

[[nodiscard]] const char* connector_state_name(ConnectorState state);

class Effects {
public:
    constexpr Effects() = default;
    template <typename... Each>
    constexpr explicit Effects(Each... each) : bits_((0U | ... | (1U << unsigned(each)))) {}
    [[nodiscard]] constexpr bool has(Effect effect) const {
        return (bits_ >> unsigned(effect) & 1U) != 0;
    }

private:
    std::uint32_t bits_ = 0;
};

struct Step {
    ConnectorState next;
    Effects effects;
    End why = End::none;  // of flush
};

// None: the state does not know the input. A call is refused then, an event of the past ignored.
[[nodiscard]] std::optional<Step> step(ConnectorState state, Input input);

}  // namespace ndv::core
