# SPDX-License-Identifier: Apache-2.0
"""One end of a connection, scripted by calls whose arguments and results are plain values.

The same class serves a test directly, from a second thread, and in a second process. Memory is
named: ``memory("sink", 100)`` registers an array, and requests name it, whole or as
``("sink", offset, nbytes)``.
"""

import mmap
import select
import threading

import numpy as np

import ndverbs as nd
from conformance import deviations
from conformance.addresses import addresses_of

# How long anything may take before it counts as failed; nothing waits that long on purpose.
LIMIT = 30

ALL = nd.Access.REMOTE_READ | nd.Access.REMOTE_WRITE
ALLOW_ALL = nd.Flag.ALLOW_REMOTE_READ | nd.Flag.ALLOW_REMOTE_WRITE
PAGE = mmap.PAGESIZE


def pattern(nbytes, seed=1):
    """Bytes that repeat after a prime number only, so that a shift shows."""
    period = np.arange(251, dtype=np.uint32) * 7 + seed * 13
    return np.resize(period.astype(np.uint8), nbytes).tobytes()


def status_of(call, *args, **options):
    """Return the status that a call raises, or SUCCESS."""
    try:
        call(*args, **options)
    except nd.RdmaError as error:
        return error.status
    return nd.Status.SUCCESS


class End:
    """An adapter, its objects for one connection, and named memory."""

    def __init__(
        self,
        provider="soft",
        *,
        adapter=None,
        cq_depth=1024,
        is_direct=False,
        direct="auto",
        has_arena=False,
        **qp_options,
    ):
        self.is_direct = is_direct  # it asks for nothing that keeps its connections from memory
        self.has_arena = has_arena  # ... and its memory is where processes map it
        self.owns_adapter = adapter is None
        self.adapter = adapter or nd.Adapter.open(provider, direct=direct)
        self.pd = self.adapter.create_pd()
        self.receive_cq = self.adapter.create_cq(cq_depth)
        self.initiator_cq = self.adapter.create_cq(cq_depth)
        self.qp_options = qp_options
        self.qp = self.create_qp()
        self.listener = None
        self.connector = None
        self.incoming = None
        self.regions = {}
        self.mappings = {}
        self.windows = {}
        self.disconnects = 0
        self._disconnected = threading.Condition()

    def create_qp(self, **options):
        return self.pd.create_qp(
            self.receive_cq, self.initiator_cq, **{**self.qp_options, **options}
        )

    # ---- connecting -------------------------------------------------------------------------

    def listen(self, host=None):
        if self.listener is None:
            self.listener = self.adapter.create_listener()
            self.listener.listen((host or addresses_of(self.adapter.info.name).v4, 0))
        return self.listener.local_address

    def take_request(self):
        """Wait for a connection request; return its private data."""
        self.incoming = self.listener.get_connector(LIMIT)
        return self.incoming.connection_data.private_data

    def reject(self, private_data=b""):
        """Reject the request that was taken."""
        incoming, self.incoming = self.incoming, None
        incoming.reject(private_data)
        incoming.close()

    def answer(self, *, handler=True, **options):
        """Accept the request that was taken."""
        self.connector, self.incoming = self.incoming, None
        if handler:
            options["on_disconnect"] = self._on_disconnect
        self.connector.accept(self.qp, **self._possible({"timeout": LIMIT, **options}))

    def accept(self, **options):
        self.take_request()
        self.answer(**options)

    def connect(self, address, *, handler=True, local=None, **options):
        """Connect and complete the connection."""
        self.connector = self.adapter.create_connector()
        by_frames = {"peer_to_peer": not self.is_direct}
        options = self._possible({"timeout": LIMIT, **by_frames, **options})
        self.connector.connect(self.qp, local, address, **options)
        self.connector.complete_connect(self._on_disconnect if handler else None)

    def _possible(self, options):
        """Ask for CRC only where it can be asked for; test_connect.py has the refusal."""
        if not self.promises_crc():
            options.pop("crc", None)
        return options

    def promises_crc(self):
        info = self.adapter.info
        return "crc" in info.features or info.rdma_technology != "iWARP"

    def begin_connect(self, address, **options):
        """Connect without completing: return while the peer still waits for the third message."""
        self.connector = self.adapter.create_connector()
        self.connector._start_connect(self.qp, None, address, timeout=LIMIT, **options)

    def transport(self):
        return self.connector.transport

    def disconnect(self, timeout=LIMIT):
        self.connector.disconnect(timeout)

    def _on_disconnect(self):
        if not vars(self):
            return  # closed meanwhile, on an adapter that others use
        with self._disconnected:
            self.disconnects += 1
            self._disconnected.notify_all()

    def wait_for_disconnect(self):
        """Wait until `on_disconnect` was called; return how often it was."""
        with self._disconnected:
            assert self._disconnected.wait_for(lambda: self.disconnects, LIMIT)
            return self.disconnects

    def disconnect_count(self):
        return self.disconnects

    def close_connector(self):
        self.connector.close()

    def close_qp(self):
        self.qp.close()

    # ---- memory -----------------------------------------------------------------------------

    def memory(self, name, nbytes, access=ALL, *, seed=0):
        """Register an array under a name; return how a peer addresses it, if it may."""
        if self.has_arena:
            array = self.adapter.alloc_array(nbytes, np.uint8)
            if seed:
                array[:] = np.frombuffer(pattern(nbytes, seed), np.uint8)
        else:
            array = np.frombuffer(bytearray(pattern(nbytes, seed) if seed else nbytes), np.uint8)
        region = self.pd.register(array, access)
        self.regions[name] = region
        return region.remote() if region.remote_token else None

    def inner(self, outer, name, offset, nbytes, access):
        """Register a part of named memory under another name."""
        array = self.regions[outer].array[offset : offset + nbytes]
        self.regions[name] = self.pd.register(array, access)
        return self.regions[name].remote()

    def foreign_memory(self, name, nbytes, access=ALL):
        """Register memory in another protection domain."""
        with self.adapter.create_pd() as other:
            self.regions[name] = other.register(np.zeros(nbytes, np.uint8), access)
        return self.regions[name].remote()

    def remote_token(self, name):
        return self.regions[name].remote_token

    def local_token(self, name):
        return self.regions[name].local_token

    # ---- memory that requests map -----------------------------------------------------------

    def map_pages(self, name, count, *, seed=0, skip=0, cut=0):
        """Map whole pages, less `skip` bytes in front and `cut` behind."""
        array = np.frombuffer(mmap.mmap(-1, count * PAGE), np.uint8)
        if seed:
            array[:] = np.frombuffer(pattern(count * PAGE, seed), np.uint8)
        self.mappings[name] = self.adapter.build_lam(array[skip : count * PAGE - cut])

    def mapped_content(self, name):
        return self.mappings[name].array.tobytes()

    def close_mapping(self, name):
        self.mappings.pop(name).release()

    def create_fast_register_mr(self, name, max_pages=64, *, remote_access=True):
        self.regions[name] = self.pd.create_fast_register_mr(max_pages, remote_access=remote_access)

    def fast_register(self, name, mapping, order=None, *, flags=ALLOW_ALL, **options):
        """Fill a region with the pages of a mapping, in some order; return its remote pair."""
        mapping = self.mappings[mapping]
        pages = mapping if order is None else mapping.pages[list(order)]
        self.qp.fast_register(self.regions[name], pages, flags=flags, **options)
        return self.fast_registered(name)

    def fast_registered(self, name):
        region = self.regions[name]
        return region.address, region.remote_token

    def create_mw(self, name):
        self.windows[name] = self.pd.create_mw()

    def bind(self, name, region, offset=0, nbytes=None, *, flags=ALLOW_ALL, **options):
        """Bind a window over a part of a region; return its remote pair."""
        region = self.regions[region]
        address = region.address + offset
        self.qp.bind(self.windows[name], region, address, nbytes, flags=flags, **options)
        return self.windows[name].address, self.windows[name].remote_token

    def window_token(self, name):
        return self.windows[name].remote_token

    def invalidate(self, name, **options):
        self.qp.invalidate(self.regions.get(name) or self.windows[name], **options)

    def close_region(self, name):
        self.regions.pop(name).close()

    def close_window(self, name):
        self.windows.pop(name).close()

    def local(self, spans):
        return [
            self.regions[span].segment()
            if isinstance(span, str)
            else self.regions[span[0]].segment(span[1], span[2])
            for span in spans
        ]

    def content(self, name, offset=0, nbytes=None):
        array = self.regions[name].array
        return array[offset : None if nbytes is None else offset + nbytes].tobytes()

    def store(self, name, data, offset=0):
        self.regions[name].array[offset : offset + len(data)] = np.frombuffer(data, np.uint8)

    def change(self, name, rounds):
        """Add one to every byte of memory, again and again."""
        array = self.regions[name].array
        for _ in range(rounds):
            np.add(array, 1, out=array)

    def words(self, name, count, access=nd.Access.REMOTE_ATOMIC, *, values=()):
        """Register 64-bit words under a name; return how a peer addresses them, if it may."""
        array = np.zeros(count, np.uint64)
        array[: len(values)] = values
        region = self.pd.register(array, access)
        self.regions[name] = region
        return region.remote() if region.remote_token else None

    def word(self, name, index=0):
        """Return a word of memory, in this host's byte order."""
        return int(self.regions[name].array.view(np.uint64)[index])

    def deregister(self, name):
        self.regions[name].deregister()

    # ---- requests ---------------------------------------------------------------------------

    def send(self, *spans, context=None, flags=0):
        self.qp.send(self.local(spans), context=context, flags=flags)

    def qp_send_inline(self, data, context=None, flags=0):
        self.qp.send(data, context=context, flags=flags | nd.Flag.INLINE)

    def send_and_invalidate(self, token, *spans, context=None, flags=0):
        self.qp.send_and_invalidate(self.local(spans), token, context=context, flags=flags)

    def receive(self, *spans, context=None):
        self.qp.receive(self.local(spans), context=context)

    def write(self, remote, *spans, context=None, flags=0):
        self.qp.write(self.local(spans), remote, context=context, flags=flags)

    def read(self, remote, *spans, context=None, flags=0):
        self.qp.read(self.local(spans), remote, context=context, flags=flags)

    def write_with_immediate(self, remote, immediate, *spans, context=None, flags=0):
        self.qp.write_with_immediate(
            self.local(spans), remote, immediate, context=context, flags=flags
        )

    def fetch_add(self, remote, value, span, *, context=None, flags=0):
        self.qp.fetch_add(self.local([span]), remote, value, context=context, flags=flags)

    def compare_swap(self, remote, expected, new, span, *, context=None, flags=0):
        self.qp.compare_swap(
            self.local([span]), remote, expected, new, context=context, flags=flags
        )

    def flush(self):
        self.qp.flush()

    # ---- completions ------------------------------------------------------------------------

    def queue(self, name):
        return {"receive": self.receive_cq, "initiator": self.initiator_cq}[name]

    def completion(self, name="initiator", timeout=LIMIT):
        """Wait for the next completion of a queue."""
        queue = self.queue(name)
        queue.wait(timeout)
        return queue.poll(1)[0]

    def completions(self, name, count):
        return [self.completion(name) for _ in range(count)]

    def received(self):
        return self.completion("receive")

    def waiting(self, name="initiator"):
        """Everything that a queue holds now."""
        return self.queue(name).poll(1024)

    def arm(self, name="initiator", kind=nd.Notify.ANY):
        self.queue(name).fileno()
        self.queue(name).arm(kind)

    def is_notified(self, name="initiator", timeout=0):
        return bool(select.select([self.queue(name).fileno()], [], [], timeout)[0])

    def expects(self, column):
        """Return what the suite expects of this end where providers differ by design."""
        return deviations.expects(self.adapter.info.name, column)

    def reason(self, of_iwarp):
        """Return what a refusal's detail says, given what the peer's Terminate says, or None."""
        told = self.expects("detail of a refusal")
        return told and told.format(of_iwarp)

    # ---- facts ------------------------------------------------------------------------------

    def state(self):
        return self.qp.state

    def adapter_flags(self):
        return self.adapter.info.adapter_flags

    def data(self):
        connector = self.connector or self.incoming
        data = connector.connection_data
        return data.private_data, data.inbound_read_limit, data.outbound_read_limit

    def stats(self):
        return self.adapter.stats()

    def end_connection(self):
        """Close what has a socket; this does not wait."""
        for name in ("connector", "incoming", "listener"):
            if vars(self).get(name) is not None:
                vars(self)[name].close()

    def close(self):
        """Close everything by the one call that suffices, and forget it; any number of times."""
        adapter = vars(self).get("adapter")
        if adapter is not None and self.owns_adapter:
            adapter.close()
        vars(self).clear()
