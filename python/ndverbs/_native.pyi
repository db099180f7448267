# SPDX-License-Identifier: Apache-2.0
"""The C++ core. Use the names through ``ndverbs``; this file is their reference.

Errors: every exception named RdmaError here is one, and also the builtin that is said ("a
ValueError"); see ``ndverbs.errors``. Beside those listed, every call raises

- ClosedError when its object or its adapter is closed,
- RdmaError with INVALID_DEVICE_STATE when the object belongs to the parent of a forked process.

Waiting: calls that may wait give the GIL up while they do, and end within 100 ms of Ctrl-C. A
timeout is in seconds; None waits without a limit. It ends the wait, never a posted request. Calls
that ask a device for something (create, register, flush, close, stats) give the GIL up, too.

Sources: "NDK" is Microsoft's Network Direct Kernel interface (NDKPI); RFC numbers are those of
iWARP: 5040 RDMAP, 5041 DDP, 5044 and 6581 MPA.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from types import TracebackType
from typing import (
    Any,
    ClassVar,
    Final,
    Literal,
    Protocol,
    Self,
    SupportsIndex,
    TypeAlias,
    final,
)

import numpy as np
from numpy.typing import DTypeLike, NDArray
from typing_extensions import Buffer

from ndverbs._coroutines import _Results
from ndverbs.remote import RemoteBuffer

class _Remote(Protocol):
    """What ``remote`` arguments need: RemoteBuffer has it.

    An ``access`` is looked at, too, where there is one.
    """

    @property
    def address(self) -> int: ...
    @property
    def token(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

# NumPy's stubs say that an array is a Buffer from Python 3.12 on only.
_Memory: TypeAlias = Buffer | NDArray[Any]
_Segments: TypeAlias = Segment | MemoryRegion | _Memory | Sequence[Segment | MemoryRegion | _Memory]
_RemoteLike: TypeAlias = _Remote | tuple[int, int]
_Address: TypeAlias = str | tuple[str, int] | tuple[str, int, int, int]

class Status(enum.IntEnum):
    """NDK statuses: unsigned 32-bit NTSTATUS values; bit 31 set means failure."""

    SUCCESS = 0x00000000
    PENDING = 0x00000103
    BUFFER_OVERFLOW = 0x80000005
    DEVICE_BUSY = 0x80000011
    NO_MORE_ENTRIES = 0x8000001A
    UNSUCCESSFUL = 0xC0000001
    NOT_IMPLEMENTED = 0xC0000002
    ACCESS_VIOLATION = 0xC0000005
    INVALID_PARAMETER = 0xC000000D
    INVALID_DEVICE_REQUEST = 0xC0000010
    ACCESS_DENIED = 0xC0000022
    BUFFER_TOO_SMALL = 0xC0000023
    INVALID_PARAMETER_MIX = 0xC0000030
    DATA_OVERRUN = 0xC000003C
    SHARING_VIOLATION = 0xC0000043
    INSUFFICIENT_RESOURCES = 0xC000009A
    DEVICE_NOT_READY = 0xC00000A3
    IO_TIMEOUT = 0xC00000B5
    FILE_FORCED_CLOSED = 0xC00000B6
    NOT_SUPPORTED = 0xC00000BB
    REQUEST_NOT_ACCEPTED = 0xC00000D0
    INTERNAL_ERROR = 0xC00000E5
    CANCELLED = 0xC0000120
    REMOTE_RESOURCES = 0xC000013D
    INVALID_ADDRESS = 0xC0000141
    INVALID_DEVICE_STATE = 0xC0000184
    INVALID_BUFFER_SIZE = 0xC0000206
    TOO_MANY_ADDRESSES = 0xC0000209
    ADDRESS_ALREADY_EXISTS = 0xC000020A
    CONNECTION_DISCONNECTED = 0xC000020C
    CONNECTION_RESET = 0xC000020D
    DATA_NOT_ACCEPTED = 0xC000021B
    CONNECTION_REFUSED = 0xC0000236
    CONNECTION_INVALID = 0xC000023A
    CONNECTION_ACTIVE = 0xC000023B
    NETWORK_UNREACHABLE = 0xC000023C
    HOST_UNREACHABLE = 0xC000023D
    CONNECTION_ABORTED = 0xC0000241
    NO_MATCH = 0xC0000272
    DEVICE_REMOVED = 0xC00002B6
    NOINTERFACE = 0xC00002B9
    IMPLEMENTATION_LIMIT = 0xC000042B

class Flag(enum.IntFlag):
    """Request flags with NDK's values."""

    SILENT_SUCCESS = 0x001
    """No Result when it succeeds; a failure always gives one."""
    READ_FENCE = 0x002
    """Begin only when all earlier reads of the queue pair are done."""
    SEND_AND_SOLICIT_EVENT = 0x004
    """The peer's receive satisfies `Notify.SOLICITED`."""
    ALLOW_REMOTE_READ = 0x008
    """Of fast_register and bind: the peer may read the memory."""
    ALLOW_LOCAL_WRITE = 0x010
    """Of fast_register: receives and reads may place data there."""
    ALLOW_REMOTE_WRITE = 0x030
    """Of fast_register and bind: the peer may write. Contains ALLOW_LOCAL_WRITE."""
    INLINE = 0x040
    """The data is copied in the call: it may be reused at once and need not be registered."""
    RDMA_READ_SINK = 0x080
    """Of fast_register: as `Access.RDMA_READ_SINK`."""
    RDMA_READ_LOCAL_INVALIDATE = 0x100
    """Of read: its success ends the token of its first segment, of fast-registered memory."""
    DEFER = 0x200
    """May wait for the next request without it, or for a poll or wait of the queue."""
    ALLOW_REMOTE_ATOMIC = 0x10000
    """Of fast_register and bind, beyond NDK; gives local write, too."""

class Access(enum.IntFlag):
    """Rights of a registration with NDK's values; local read is always granted."""

    LOCAL_READ = 0
    """Sends and writes may take data from here."""
    LOCAL_WRITE = 1
    """Receives and reads may place data here."""
    REMOTE_READ = 2
    """Peers may read."""
    REMOTE_WRITE = 5
    """Peers may write. Contains LOCAL_WRITE."""
    RDMA_READ_SINK = 8
    """Accepted and without effect where the adapter's flags say that it is not required."""
    REMOTE_ATOMIC = 0x81
    """Beyond NDK, for the extension "atomics". Contains LOCAL_WRITE, and no other remote right."""

class Notify(enum.IntEnum):
    """What satisfies an arm."""

    ERRORS = 0
    """The failure of the queue itself."""
    ANY = 1
    """Any completion."""
    SOLICITED = 2
    """A receive that the peer solicited, or any failed request."""

class OperationType(enum.IntEnum):
    """What a completion is the end of."""

    RECEIVE = 1
    SEND = 2
    FAST_REGISTER = 4
    BIND = 8
    INVALIDATE = 16
    READ = 32
    WRITE = 64
    RECEIVE_AND_INVALIDATE = 0x8001
    FETCH_ADD = 0x10000
    """Beyond NDK, as the next."""
    COMPARE_SWAP = 0x20000

@final
class Result(tuple[Any, ...]):
    """One completion (a struct sequence of these fields in this order).

    References
    ----------
    NDK_RESULT_EX.
    """

    __match_args__: ClassVar[tuple[str, ...]]  # the names of the fields, of a struct sequence
    @property
    def status(self) -> Status:
        """How the request ended; CANCELLED when it was flushed."""
    @property
    def bytes_transferred(self) -> int:
        """Bytes received; 0 for other operations."""
    @property
    def qp_context(self) -> Any:
        """The ``context`` of the queue pair."""
    @property
    def request_context(self) -> Any:
        """The ``context`` of the request."""
    @property
    def type(self) -> OperationType:
        """What ended, also when it failed."""
    @property
    def invalidated_token(self) -> int:
        """The token that the peer invalidated (RECEIVE_AND_INVALIDATE), else 0."""
    @property
    def immediate(self) -> int | None:
        """The immediate value that came along, or None."""
    @property
    def detail(self) -> str | None:
        """A sentence from the device, the peer (its Terminate message) or the system, or None.

        Of a CANCELLED request: why its connection ended, where nothing else is known of it.
        """

@final
class Segment:
    """A piece of registered memory.

    Parameters
    ----------
    address : int
        64-bit address of the first byte.
    length : int
        Bytes.
    token : int
        Local token of the region that contains it.

    References
    ----------
    NDK_SGE.
    """

    def __init__(self, address: int, length: int, token: int) -> None: ...
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
    @property
    def address(self) -> int:
        """Address of the first byte, 64 bits."""
    @property
    def length(self) -> int:
        """Bytes."""
    @property
    def token(self) -> int:
        """Local token of the region that contains it, 32 bits."""

@final
class AdapterInfo:
    """What an adapter is and can do: NDK_ADAPTER_INFO, field by field, plus name and provider.

    Lengths are bytes, depths are requests, ``*_sge`` are segments of one request.
    """

    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...
    def __getstate__(self) -> tuple[Any, ...]: ...
    def __setstate__(self, state: tuple[Any, ...], /) -> None: ...
    @property
    def name(self) -> str:
        """What `Adapter.open` takes."""
    @property
    def provider(self) -> str:
        """Which provider of this build has it."""
    @property
    def version(self) -> tuple[int, int]:
        """The NDK version whose semantics hold."""
    @property
    def vendor_id(self) -> int:
        """Vendor of the device, as its driver says; 0 of no device."""
    @property
    def device_id(self) -> int:
        """Model of the device, as its driver says; 0 of no device."""
    @property
    def max_registration_size(self) -> int:
        """Bytes of one registered region."""
    @property
    def max_window_size(self) -> int:
        """Bytes of one memory window; 0: the adapter has none."""
    @property
    def frmr_page_count(self) -> int:
        """Pages of the fast-register regions of which the adapter has the most."""
    @property
    def max_initiator_request_sge(self) -> int:
        """Segments of a send or write."""
    @property
    def max_receive_request_sge(self) -> int:
        """Segments of a receive."""
    @property
    def max_read_request_sge(self) -> int:
        """Segments of a read."""
    @property
    def max_transfer_length(self) -> int:
        """Bytes of one request."""
    @property
    def max_inline_data_size(self) -> int:
        """Bytes of a request with `Flag.INLINE`."""
    @property
    def max_inbound_read_limit(self) -> int:
        """Reads of a peer that one connection serves at once."""
    @property
    def max_outbound_read_limit(self) -> int:
        """Reads of one connection that may be under way at once."""
    @property
    def max_receive_queue_depth(self) -> int:
        """Receives of one queue pair."""
    @property
    def max_initiator_queue_depth(self) -> int:
        """Requests of one queue pair, receives apart."""
    @property
    def max_srq_depth(self) -> int:
        """0: the adapter has no shared receive queues."""
    @property
    def max_cq_depth(self) -> int:
        """Completions that one queue holds."""
    @property
    def large_request_threshold(self) -> int:
        """Bytes from which on a read or write beats a send into a posted buffer."""
    @property
    def max_caller_data(self) -> int:
        """Longest ``private_data`` of connect."""
    @property
    def max_callee_data(self) -> int:
        """Longest ``private_data`` of accept and reject."""
    @property
    def adapter_flags(self) -> int:
        """NDK_ADAPTER_FLAG_* bits."""
    @property
    def rdma_technology(self) -> str:
        """``"iWARP"``, ``"InfiniBand"`` or ``"RoCE"``."""
    @property
    def extensions(self) -> frozenset[str]:
        """What `QueuePair.query_extension` finds: "atomics", "immediate"."""
    @property
    def features(self) -> frozenset[str]:
        """Optional functions that this adapter has, by their API name; and of two what they can.

        ``"fast_register_any_pages"``: pages may be of any memory, in any order; without it those
        of private memory must follow each other there. ``"fast_register_any_qp"``: a region can
        be reached through every queue pair of its domain; without it only through the one that
        registered it. ``"direct"``: connections may go on through memory; see
        `Connector.transport`. ``"faults"``: `Adapter.open` takes faults.
        """
    @property
    def addresses(self) -> list[str]:
        """Addresses of this host that listeners and connects of the adapter can use.

        Two ends on this host meet at the first. A device has those of its network interfaces;
        `soft` names the loopback ones and works with any other, too.
        """

def adapters() -> list[AdapterInfo]:
    """List the adapters that can be opened now."""

def crc32c(buffer: _Memory, start: int = 0) -> int:
    """Return the CRC32C (Castagnoli) of the bytes of a buffer.

    Parameters
    ----------
    buffer : buffer
        Any C-contiguous buffer; it may be read-only and empty.
    start : int
        The CRC32C of the bytes before these, below 2**32: ``crc32c(b, crc32c(a))`` is that of ``a``
        followed by ``b``.

    Returns
    -------
    int
        Below 2**32.

    Raises
    ------
    RdmaError
        INVALID_PARAMETER: `start` has more than 32 bits, a ValueError; or the buffer is not
        C-contiguous, a BufferError.

    Notes
    -----
    From 32 KiB on the GIL is given up. It uses the CPU's instructions where there are some.

    References
    ----------
    RFC 3720, 12.1 and B.4; MPA (RFC 5044) uses the same sum.
    """

class _Object:
    """Common to all objects: a context manager, and an idempotent close()."""

    def close(self) -> None:
        """Close the object; closing it again does nothing.

        It neither waits nor fails, `Adapter.close` apart, and what ends memory: see
        `MemoryRegion.deregister`. The resource itself goes when the last
        object that needs it is gone: a queue pair goes on although its completion queues were
        closed. An object that is collected is closed first.
        """
    @property
    def closed(self) -> bool:
        """Whether it, or its adapter, is closed."""
    @property
    def raw_handle(self) -> int:
        """Address of the object of libibverbs behind it, for code that calls the library itself.

        Of an adapter the ``ibv_context``, else ``ibv_pd``, ``ibv_cq``, ``ibv_srq``, ``ibv_qp`` or
        ``ibv_mr``. It is valid until the object is closed; that of a queue pair may change until it
        is connected. Requests that are posted beside `ndverbs` end beside it, too: give them a
        completion queue of their own.

        Raises
        ------
        RdmaError
            NOT_SUPPORTED: there is none; ``"raw_handles"`` in ``info.extensions`` tells of the
            adapter.
        """
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

@final
class Faults:
    """Faults on demand, for tests of what a program does when they strike.

    Give it to `Adapter.open`. Nothing fails until one of its calls says what is to fail; each
    returns the object, so that several may follow each other. A call is about what the program
    sends afterwards. The same program with the same seed gets the same faults, bit for bit;
    zero-length Writes are not counted, because connections send some on their own.

    Parameters
    ----------
    seed : int
        Of jitter and of corrupted bits, 64 bits.
    direct : bool
        Leave connections to memory where they go on by it (`Connector.transport`). Then there is
        no link, and `cut`, `delay`, `stall`, `corrupt`, `kill_peer` and `reset` are refused.

    Examples
    --------
    >>> import ndverbs as nd
    >>> faults = nd.Faults(seed=1).fail_registration()
    >>> with nd.Adapter.open(faults=faults) as adapter, adapter.create_pd() as pd:
    ...     try:
    ...         pd.register(bytearray(100))
    ...     except nd.RdmaError as error:
    ...         print(error.status)
    Status.INSUFFICIENT_RESOURCES
    >>> faults.struck
    ['fail_registration']
    """

    def __init__(self, seed: int = 0, *, direct: bool = False) -> None: ...
    @property
    def seed(self) -> int:
        """Of jitter and of corrupted bits."""
    @property
    def struck(self) -> list[str]:
        """A sentence for each fault that has struck, in order, the first thousand.

        Of delays and of what is held back there is none.
        """
    def cut(self, after: int) -> Self:
        """Cut one connection in the middle of what it sends: the first that gets so far.

        Its peer still gets those bytes, then both ends see a reset.

        Parameters
        ----------
        after : int
            Bytes that its side sends from now on, frames with their headers; those of the start-up
            belong to them.

        Raises
        ------
        RdmaError
            NOT_SUPPORTED: there are no links; so of each call that needs one.
        """
    def delay(self, seconds: float, *, jitter: float = 0.0) -> Self:
        """Let each frame that the adapter's connections send be on its way for a while.

        Order stays. Where both ends are of adapters with these faults, each direction is delayed
        once.

        Parameters
        ----------
        seconds : float
            0: not any more.
        jitter : float
            Seconds more, at most: drawn for each frame.

        Raises
        ------
        RdmaError
            A ValueError: a time is negative. Or NOT_SUPPORTED.
        """
    def stall(self) -> Self:
        """Let nothing pass, in either direction, neither bytes nor ends, until `resume`.

        Requests stay where they are, and timeouts of the program pass. The close of an adapter does
        not wait for what is stalled.

        Raises
        ------
        RdmaError
            NOT_SUPPORTED.
        """
    def resume(self) -> Self:
        """Let go on what `stall` and `withhold_receives` hold back."""
    def corrupt(self, every: int) -> Self:
        """Flip one bit in each nth frame that a connection sends.

        The sum finds it, and the peer ends the connection with a Terminate (2/0/02). Connections
        of an adapter with faults ask for CRC, unless ``crc=False`` says otherwise; frames of one
        that has none stay as they are.

        Parameters
        ----------
        every : int
            1: each, 2: each second one. 0: none any more.

        Raises
        ------
        RdmaError
            A ValueError: `every` does not fit 32 bits. Or NOT_SUPPORTED.
        """
    def kill_peer(self) -> Self:
        """End all connections that there are, as when their peers' processes are killed: now.

        What was sent before arrives, then both ends see a reset, without a Terminate. To kill a
        process that is there, kill it.

        Raises
        ------
        RdmaError
            NOT_SUPPORTED.
        """
    def reset(self, at: str) -> Self:
        """Reset the next connection whose connector comes to a state, there.

        Parameters
        ----------
        at : str
            A `Connector.state`: ``"connecting"`` and ``"accepted"`` of the active side,
            ``"incoming"`` and ``"completing"`` of the passive one, ``"connected"`` or
            ``"disconnecting"`` of either, whichever is first.

        Raises
        ------
        RdmaError
            A ValueError: no connection has that state. Or NOT_SUPPORTED.
        """
    def refuse_next(self, access: Access | int) -> Self:
        """Refuse the next access of a peer to the adapter's memory that needs one of these rights.

        It ends as one to memory that does not grant the right: a protection error for the peer, and
        the connection with it.

        Parameters
        ----------
        access : Access
            REMOTE_READ, REMOTE_WRITE, REMOTE_ATOMIC, or several of them.

        Raises
        ------
        RdmaError
            A ValueError: it has no remote right.
        """
    def withhold_receives(self) -> Self:
        """Let messages that come find no receive, whatever is posted, until `resume`.

        After 5 s of it a message ends its connection, as where no receive was posted.
        """
    def fail_registration(self, count: int = 1) -> Self:
        """Let the next calls of `ProtectionDomain.register` and `MemoryRegion.register` fail.

        Parameters
        ----------
        count : int
            How many: with INSUFFICIENT_RESOURCES. It replaces what is left of an earlier count.

        Raises
        ------
        RdmaError
            A ValueError: `count` does not fit 32 bits.
        """
    def overrun(self, queue: CompletionQueue) -> Self:
        """Let a completion queue overrun, now: it and its queue pairs are dead.

        What it holds can still be polled.

        Parameters
        ----------
        queue : CompletionQueue
            Of an adapter with these faults.

        Raises
        ------
        RdmaError
            A ValueError: its adapter has not.
        """

@final
class Adapter(_Object):
    """An opened device: the root of all other objects.

    It stays open while any object made from it is referenced.
    """

    @staticmethod
    def open(
        name: str | None = None,
        *,
        keepalive: float = 30.0,
        capture: str | bytes | PathLike[str] | PathLike[bytes] | None = None,
        crc: bool | Literal["auto"] = "auto",
        direct: Literal["auto", "no-vm", "off"] = "auto",
        faults: Faults | None = None,
    ) -> Adapter:
        """Open an adapter.

        Parameters
        ----------
        name : str, optional
            ``"soft"``, ``"soft:192.0.2.1"`` (connections come from that address), ... as
            `adapters` lists them; the environment variable NDVERBS_ADAPTER, else the first
            provider of this build, when omitted.
        keepalive : float
            Seconds after which a dead peer on another host ends its connections, up to 98301; 0
            waits for it for ever.
        capture : str, bytes or path, optional
            Path of a pcap file that gets every connection's stream from its first byte. Without
            one, the environment variable NDVERBS_CAPTURE names a folder, where each adapter that
            can capture makes a file of its own, named PID-N.pcap. Only its owner can read it.
        crc : bool or "auto"
            Whether its connections ask for CRC32C (iWARP): ``"auto"`` when the peer is another
            host, where bit errors pass TCP's checksum at times.
        direct : "auto", "no-vm" or "off"
            Whether a connection between two processes of one user on one host goes on by memory,
            where the provider can; ``"no-vm"``: without copies by the kernel between them
            (process_vm_writev). NDVERBS_DIRECT in the environment may allow less. Not with a
            capture, faults, CRC or peer-to-peer mode, which are about frames.
            `Connector.transport` says what carries a connection, `alloc_array` gives memory that
            peers map.
        faults : Faults, optional
            Strike its connections when the program says so, for tests of what it does then.
            Several adapters may have the same.

        Raises
        ------
        RdmaError
            A ValueError: there is no such adapter; the message lists what exists. Or `crc`, or
            `direct`.
        RdmaError
            NOT_SUPPORTED: `crc` of a device whose kernel decides about it; `faults` where
            ``info.features`` has no "faults".
        RdmaError
            The capture file cannot be written.
        """
    def close(self) -> None:
        """Close everything made from the adapter, newest first, and return when all is over.

        No request is under way and no callback runs afterwards. Connections that still deliver
        their last bytes are waited for, up to 5 s, and so are processes of this host that were
        stopped with memory of the adapter in hand: an array that one has in hand after that stays
        exported until this process ends. The interpreter's exit closes all adapters.

        Raises
        ------
        RdmaError
            INVALID_DEVICE_STATE: called inside a callback of this adapter.
        """
    def _is_callback_thread(self) -> bool: ...
    @property
    def info(self) -> AdapterInfo:
        """What the adapter is and can do."""
    def _allow_drop(self) -> None: ...
    def alloc_array(
        self, shape: SupportsIndex | Sequence[SupportsIndex], dtype: DTypeLike
    ) -> NDArray[Any]:
        """Allocate an array of zeroes where peers of this host reach it best.

        A peer in another process maps it when a connection between the two goes on by memory
        (`Connector.transport`): requests to it are copies then, without a call of the kernel.
        Register it as any other array; its own requests need it no more than others do. It lives
        as long as a reference to it, also when the adapter is closed; a forked child shares it
        with its parent. Where the provider has no such memory it is ordinary.

        Parameters
        ----------
        shape : int or sequence of int
            Its shape; C-contiguous, from a page's beginning on.
        dtype : data-type
            Of its elements: numbers or bytes.

        Raises
        ------
        RdmaError
            A ValueError: `shape` has a negative count or is too large, or `dtype` has objects.
        RdmaError
            INSUFFICIENT_RESOURCES: there is no memory. All pages are there from the beginning.
        """
    def create_pd(self) -> ProtectionDomain:
        """Create a protection domain.

        Raises
        ------
        RdmaError
            INSUFFICIENT_RESOURCES: the device has no more.
        """
    def create_cq(
        self,
        depth: int,
        *,
        affinity: Sequence[int] | None = None,
        on_notify: Callable[[Status], object] | None = None,
    ) -> CompletionQueue:
        """Create a completion queue.

        Parameters
        ----------
        depth : int
            Completions that it can hold, 1 to ``info.max_cq_depth``. More than that at once kill
            the queue and its queue pairs: make it as deep as their queues together, or an
            OverrunWarning says so when the queue pairs are created.
        affinity : sequence of int, optional
            CPUs that would suit; a wish without promise.
        on_notify : callable, optional
            Called once per satisfied `CompletionQueue.arm`, on the adapter's callback thread, one
            call after the other, with SUCCESS, or with the status of a queue that is dead:
            BUFFER_OVERFLOW or INTERNAL_ERROR. Its exceptions go to ``sys.unraisablehook``.

        Raises
        ------
        RdmaError
            A ValueError: the depth is out of range.
        RdmaError
            INSUFFICIENT_RESOURCES.
        """
    def create_connector(self) -> Connector:
        """Create a connector for the active side of one connection.

        Raises
        ------
        ClosedError
            It, or its adapter, is closed.
        """
    def create_listener(self, on_connect: Callable[[Connector], object] | None = None) -> Listener:
        """Create a listener.

        Parameters
        ----------
        on_connect : callable, optional
            Gets every connector, on the adapter's callback thread; without it,
            `Listener.get_connector` does. Its exceptions go to ``sys.unraisablehook``.

        Raises
        ------
        TypeError
            `on_connect` cannot be called.
        """
    def create_shared_endpoint(self, address: _Address) -> SharedEndpoint:
        """Reserve a local address from which several connectors connect to different peers.

        Parameters
        ----------
        address : str or (str, int)
            Of this host; with port 0, any free port.

        Raises
        ------
        RdmaError
            SHARING_VIOLATION: the address is taken.
        RdmaError
            INVALID_ADDRESS, a ValueError: not an address of this host.
        RdmaError
            TOO_MANY_ADDRESSES: port 0, and no port is free.
        RdmaError
            NOT_SUPPORTED: see ``info.features``.

        References
        ----------
        NdkCreateSharedEndpoint.
        """
    def query_extension(self, name: str) -> tuple[str, ...]:
        """Look for an extension of this project beyond NDK.

        Parameters
        ----------
        name : str
            "atomics", "immediate" (RFC 7306) or "raw_handles".

        Returns
        -------
        tuple of str
            The names of the `QueuePair` calls and properties that it is about.

        Raises
        ------
        RdmaError
            NOT_SUPPORTED: the name is not in ``info.extensions``.

        References
        ----------
        NdkQueryExtension.
        """
    def build_lam(self, array: _Memory) -> LogicalAddressMapping:
        """Give the pages of an array addresses of the adapter.

        Parameters
        ----------
        array : buffer
            Any C-contiguous buffer; a read-only one serves what only reads.

        Raises
        ------
        RdmaError
            A BufferError: the array is empty, not contiguous, or holds Python objects.
        RdmaError
            NOT_SUPPORTED: the adapter cannot do it (``"build_lam"`` in ``info.features``).

        References
        ----------
        NdkBuildLam.
        """
    def _create_stream(self, options: StreamOptions) -> Stream: ...
    def _create_stream_listener(
        self,
        address: _Address,
        options: StreamOptions,
        backlog: int,
        *,
        on_inspect: Callable[[Any], object] | None = None,
        on_abort: Callable[[int], object] | None = None,
        on_ready: Callable[[], object] | None = None,
    ) -> StreamListener: ...
    def stats(self) -> dict[str, int]:
        """Return the counters of the adapter since it was opened, by name.

        Raises
        ------
        ClosedError
            It, or its adapter, is closed.

        Notes
        -----
        Gives the GIL up.
        """

@final
class ProtectionDomain(_Object):
    """What queue pairs and memory must share to work together."""

    def register(self, array: _Memory, access: Access = Access.LOCAL_WRITE) -> MemoryRegion:
        """Register an array in place, in a region of its own; see `MemoryRegion.register`.

        Parameters
        ----------
        array : buffer
            Any C-contiguous buffer.
        access : Access
            What may be done with it.

        Raises
        ------
        RdmaError
            As `MemoryRegion.register`.
        """
    def create_mr(self) -> MemoryRegion:
        """Create a region that holds nothing yet.

        Raises
        ------
        RdmaError
            INSUFFICIENT_RESOURCES: the device has no more.
        """
    def create_fast_register_mr(
        self, max_pages: int, *, remote_access: bool
    ) -> FastRegisterMemoryRegion:
        """Create a region that `QueuePair.fast_register` fills.

        Parameters
        ----------
        max_pages : int
            The most pages that a fast_register of it may name; ``info.frmr_page_count`` is the
            number of which the adapter has the most regions.
        remote_access : bool
            Whether any fast_register of it will grant a remote right.

        Raises
        ------
        RdmaError
            IMPLEMENTATION_LIMIT: more pages than the adapter can map.
        RdmaError
            NOT_SUPPORTED: see ``info.features``.

        References
        ----------
        NdkCreateMr with FastRegister, NdkInitializeFastRegisterMr.
        """
    def create_mw(self) -> MemoryWindow:
        """Create a window that `QueuePair.bind` puts over a part of a region.

        Raises
        ------
        RdmaError
            NOT_SUPPORTED: see ``info.features``.

        References
        ----------
        NdkCreateMw.
        """
    @property
    def privileged_token(self) -> int:
        """The token with which a Segment names logical addresses, without a registration.

        Such memory is readable and writable by requests of this process and never by a peer. The
        token is a matter of trust: with it, code of this process can name every mapped page.
        """
    def create_srq(
        self,
        depth: int,
        *,
        max_sge: int,
        notify_threshold: int = 0,
        on_notify: Callable[[Status], object] | None = None,
    ) -> SharedReceiveQueue:
        """Create a queue of receives that several queue pairs take from.

        Parameters
        ----------
        depth : int
            Receives that may be outstanding, posted and their completions not polled: 1 to
            ``info.max_srq_depth``.
        max_sge : int
            Segments of one receive.
        notify_threshold : int
            Above 0: `on_notify` is called once when the number of queued receives drops below it;
            the queue being empty at first does not count.
        on_notify : callable, optional
            Called with SUCCESS on the adapter's callback thread; `SharedReceiveQueue.modify` arms
            it again.

        Raises
        ------
        RdmaError
            A ValueError: a number is out of range.
        RdmaError
            NOT_SUPPORTED: ``info.max_srq_depth`` is 0.

        References
        ----------
        NdkCreateSrq.
        """
    def create_qp_with_srq(
        self,
        receive_cq: CompletionQueue,
        initiator_cq: CompletionQueue,
        srq: SharedReceiveQueue,
        *,
        context: object = None,
        initiator_queue_depth: int = 128,
        max_initiator_sge: int = 4,
        inline_size: int = 256,
    ) -> QueuePair:
        """Create a queue pair whose receives come from a shared receive queue.

        They end in its `receive_cq`, with its context. `QueuePair.receive` raises
        INVALID_DEVICE_REQUEST.

        Parameters
        ----------
        receive_cq, initiator_cq, context, initiator_queue_depth, max_initiator_sge, inline_size
            As `create_qp`.
        srq : SharedReceiveQueue
            Of the same protection domain.

        Raises
        ------
        RdmaError
            As `create_qp`; a ValueError: `srq` is of another protection domain.
        RdmaError
            NOT_SUPPORTED: ``info.max_srq_depth`` is 0.

        References
        ----------
        NdkCreateQpWithSrq.
        """
    def create_qp(
        self,
        receive_cq: CompletionQueue,
        initiator_cq: CompletionQueue,
        *,
        context: object = None,
        receive_queue_depth: int = 128,
        initiator_queue_depth: int = 128,
        max_receive_sge: int = 4,
        max_initiator_sge: int = 4,
        inline_size: int = 256,
    ) -> QueuePair:
        """Create a queue pair.

        Parameters
        ----------
        receive_cq, initiator_cq : CompletionQueue
            Where receives and all other requests end; may be one queue.
        context : object
            Comes back as ``qp_context`` in every Result.
        receive_queue_depth, initiator_queue_depth : int
            Requests that may be outstanding: posted, and their completions not polled.
        max_receive_sge, max_initiator_sge : int
            Segments of one request.
        inline_size : int
            Bytes that a request with `Flag.INLINE` may carry.

        Raises
        ------
        RdmaError
            A ValueError: a size exceeds ``adapter.info``, or the queues belong to another adapter.
        """

@final
class MemoryRegion(_Object):
    """Registered memory, or what will hold it.

    The array is exported for as long as it is registered, and after that until our own requests
    that name it are done: it can be neither resized nor freed, and so can no array that it is a
    view of. Leave alone what frees memory that is exported all the same: ``ctypes.resize``,
    ``ndarray.__setstate__``, and the assignment of ``ndarray.data`` in older NumPy.
    """

    def register(self, array: _Memory, access: Access) -> None:
        """Register an array in place.

        Parameters
        ----------
        array : buffer
            Any C-contiguous buffer: an array of any dtype without Python objects, a view,
            bytearray, memoryview, mmap, array.array, of at least one byte.
        access : Access
            What may be done with it.

        Raises
        ------
        RdmaError
            A BufferError: not contiguous, empty, holding Python objects, or read-only although
            the access asks for writing.
        RdmaError
            A ValueError: unknown access bits, or larger than ``info.max_registration_size``.
        RdmaError
            INVALID_DEVICE_REQUEST: it is registered already.
        RdmaError
            ACCESS_VIOLATION, a BufferError: its last page cannot be read, because its file is
            shorter than the mapping or its file system is full.

        Notes
        -----
        Gives the GIL up. Nothing stays exported after a failure.

        A peer that touches a page of a mapped file behind the file's end, or one that a full
        file system (``/dev/shm`` of a container) has no room for, ends this process with SIGBUS,
        as a touch of its own does. Do not truncate a file while it is registered, and reserve
        shared memory before (``os.posix_fallocate``).

        References
        ----------
        NdkRegisterMr.
        """
    def deregister(self) -> None:
        """End local and remote access and give the array back.

        The tokens are dead, and neither a peer nor a request of this side reads or writes the
        memory, when this returns.

        Raises
        ------
        RdmaError
            INVALID_DEVICE_REQUEST: it is not registered.
        RdmaError
            DEVICE_BUSY: windows are bound to it, or posted requests name it.

        Notes
        -----
        Gives the GIL up and waits, for microseconds, for a thread that moves data of a connection
        right now, in this process or in one of this host that reaches the memory
        (`Connector.transport`); for no other peer. Where such a process is stopped meanwhile, the
        call waits until it goes on or ends. Ctrl-C ends that wait: the tokens are dead, the array
        stays exported, and `deregister` or `close` may be called again to wait on.

        `close` does the same and does not fail: requests that are posted keep the memory and use
        it until they end, and the array is given back then.

        References
        ----------
        NdkDeregisterMr.
        """
    @property
    def local_token(self) -> int:
        """The token for segments, 32 bits."""
    @property
    def remote_token(self) -> int:
        """The token for peers, 32 bits; 0 without a remote right."""
    @property
    def address(self) -> int:
        """Address of the first byte, 64 bits."""
    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
    @property
    def access(self) -> Access:
        """What may be done with it."""
    @property
    def array(self) -> Any:
        """The object that was registered."""
    def segment(self, offset: int = 0, nbytes: int | None = None) -> Segment:
        """Name a part of the region.

        Parameters
        ----------
        offset, nbytes : int
            In bytes; up to the end when `nbytes` is omitted.

        Raises
        ------
        RdmaError
            A ValueError: the part does not lie inside.
        """
    def remote(self) -> RemoteBuffer:
        """Describe the whole region for a peer, with the array's dtype and shape.

        Raises
        ------
        RdmaError
            A PermissionError: the region grants no remote right.
        """

@final
class LogicalAddressMapping(_Object):
    """The pages of an array by their logical addresses, which only this adapter understands.

    Closing it ends its addresses at once. The array stays exported while the mapping, a region
    that is filled with its pages, or a request needs it.

    References
    ----------
    NDK_LOGICAL_ADDRESS_MAPPING.
    """

    def release(self) -> None:
        """Close it; NDK's name (NdkReleaseLam)."""
    @property
    def pages(self) -> NDArray[np.uint64]:
        """Logical addresses of pages of the host's page size, in the order of the array."""
    @property
    def first_byte_offset(self) -> int:
        """Where in the first page the array begins."""
    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
    @property
    def array(self) -> _Memory:
        """The array that was given."""

@final
class FastRegisterMemoryRegion(_Object):
    """A region that `QueuePair.fast_register` fills with pages and an invalidate empties.

    Every fast_register gives it new tokens, which are there when the call has returned; the old
    ones never reach memory again. It is valid from the request's turn in the queue until
    `QueuePair.invalidate`, the peer's send_and_invalidate, a read with
    RDMA_READ_LOCAL_INVALIDATE, or close.
    """

    @property
    def local_token(self) -> int:
        """For segments; 0 before the first fast_register."""
    @property
    def remote_token(self) -> int:
        """For the peer; 0 when it grants no remote right."""
    @property
    def address(self) -> int:
        """By which both sides name its first byte: ``base_address`` of the last fast_register."""
    @property
    def nbytes(self) -> int:
        """Bytes of the last fast_register."""
    @property
    def max_pages(self) -> int:
        """The most pages that a fast_register of it may name."""
    def segment(self, offset: int = 0, nbytes: int | None = None) -> Segment:
        """Name a part of the region as local memory.

        Parameters
        ----------
        offset, nbytes : int
            In bytes; up to the end when `nbytes` is omitted.

        Raises
        ------
        RdmaError
            A ValueError: the part is not inside the region.
        RdmaError
            INVALID_DEVICE_REQUEST: nothing was ever fast-registered.
        """
    def remote(self) -> RemoteBuffer:
        """Describe the region for a peer.

        Raises
        ------
        RdmaError
            A PermissionError: it grants no remote right.
        """

@final
class MemoryWindow(_Object):
    """A part of a registered region with a remote token of its own; see `QueuePair.bind`.

    It belongs to the queue pair that bound it until it is invalidated or closed.
    """

    @property
    def remote_token(self) -> int:
        """For the peer; 0 before the first bind, new with every bind."""
    @property
    def address(self) -> int:
        """Address of the first byte, by which a peer names it."""
    @property
    def nbytes(self) -> int:
        """Bytes of the last bind."""
    def remote(self) -> RemoteBuffer:
        """Describe the window for a peer.

        Raises
        ------
        RdmaError
            INVALID_DEVICE_REQUEST: nothing was ever bound.
        RdmaError
            A PermissionError: the last bind granted no remote right.
        """

@final
class SharedReceiveQueue(_Object):
    """Receives that any queue pair made with it takes, in the order of posting.

    Closed, it stays for the queue pairs that have it; receives that no queue pair took end without
    a Result when the last of them is gone.
    """

    def receive(self, segments: _Segments = (), *, context: object = None) -> None:
        """Post memory for one message, whichever queue pair takes it.

        Parameters
        ----------
        segments, context
            As `QueuePair.receive`.

        Raises
        ------
        RdmaError
            As `QueuePair.receive`, but for connections.

        References
        ----------
        NdkSrqReceive.
        """
    def modify(self, *, depth: int = 0, notify_threshold: int = 0) -> None:
        """Change the depth, or arm the notification.

        Parameters
        ----------
        depth : int
            0 keeps it.
        notify_threshold : int
            Above 0: ``on_notify`` is called once when fewer receives are queued, at once when that
            is so already. 0 keeps threshold and arming.

        Raises
        ------
        RdmaError
            A ValueError: deeper than ``info.max_srq_depth``.
        RdmaError
            BUFFER_OVERFLOW, and nothing changed: more receives are queued than `depth`.

        References
        ----------
        NdkModifySrq.
        """
    @property
    def depth(self) -> int:
        """Receives that may be outstanding."""
    @property
    def max_sge(self) -> int:
        """Segments of one receive."""

@final
class CompletionQueue(_Object):
    """Where requests of queue pairs end, oldest first.

    ``async for result in cq`` yields Results as they come, and never ends by itself.

    Waiting with `fileno` is *arm, poll once more, select*.
    """

    @property
    def depth(self) -> int:
        """Completions that it holds."""
    def poll(self, limit: int = 32) -> list[Result]:
        """Take completions out of the queue, at once.

        Parameters
        ----------
        limit : int
            How many at most.

        Returns
        -------
        list of Result
            Empty when there is none.

        Raises
        ------
        RdmaError
            BUFFER_OVERFLOW: the queue held more than its depth; it and its queue pairs are dead.

        Notes
        -----
        When the queue is empty it serves the connections once, up to 32 KiB with the GIL held,
        and gives the GIL up for more. While another thread is there, it finds nothing.

        References
        ----------
        NdkGetCqResultsEx.
        """
    def poll_into(self, results: NDArray[np.void]) -> int:
        """Take completions into an array, without a Python object for each.

        Parameters
        ----------
        results : ndarray of ndverbs.result_dtype
            Contiguous and writable; its first rows are overwritten. ``flags`` of a row: 1
            solicited, 2 has an immediate value, 4 the context was an object, which is dropped;
            contexts that are not integers of 64 bits read 0.

        Returns
        -------
        int
            Rows written.

        Raises
        ------
        TypeError
            `results` has another dtype.
        RdmaError
            As `poll`; a BufferError: not contiguous, or read-only.
        """
    def arm(self, kind: Notify = Notify.ANY) -> None:
        """Ask for one notification of the descriptor.

        The descriptor becomes readable at the first completion that satisfies this, at once when
        the queue holds some, and stays so until the next arm. An arm that is not satisfied yet
        merges with this one; the stronger counts. A completion that `poll` fetches by itself and
        returns satisfies none.

        Parameters
        ----------
        kind : Notify
            What satisfies it.

        Raises
        ------
        ClosedError
            It, or its adapter, is closed.

        References
        ----------
        NdkArmCq.
        """
    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until the queue holds a completion, which stays in it.

        Parameters
        ----------
        timeout : float, optional
            Seconds; None waits without a limit.

        Returns
        -------
        bool
            True.

        Raises
        ------
        RdmaError
            A TimeoutError.
        RdmaError
            BUFFER_OVERFLOW: as `poll`.

        Notes
        -----
        Gives the GIL up and serves the connections while it sleeps.
        """
    async def wait_async(self, timeout: float | None = None) -> bool:
        """Wait as `wait` does, in an asyncio loop; several tasks may wait for one queue.

        Parameters
        ----------
        timeout : float, optional
            Seconds; None waits without a limit.

        Returns
        -------
        bool
            True.

        Raises
        ------
        RdmaError
            As `wait`.
        """
    def __aiter__(self) -> _Results:
        """Iterate over completions as they come, for ever: ``async for result in cq``."""
    def resize(self, depth: int) -> None:
        """Change how many completions the queue holds, while it is in use.

        No completion is lost or reordered.

        Parameters
        ----------
        depth : int
            1 to ``info.max_cq_depth``.

        Raises
        ------
        RdmaError
            A ValueError: 0, or deeper than ``info.max_cq_depth``.
        RdmaError
            BUFFER_OVERFLOW, and nothing changed: more completions are waiting.
        RdmaError
            NOT_SUPPORTED: see ``info.adapter_flags``.

        References
        ----------
        NdkResizeCq.
        """
    def control_interrupt_moderation(self, interval_us: int, count: int) -> None:
        """Let a notification wait for more completions.

        Parameters
        ----------
        interval_us : int
            The longest wait after an arm was satisfied, microseconds; 0 turns moderation off, 2**32
            - 1 is no limit.
        count : int
            As many waiting completions notify at once; 0 and 1 turn moderation off, more than the
            depth is no limit.

        Raises
        ------
        RdmaError
            INVALID_PARAMETER_MIX, a ValueError: neither has a limit.
        RdmaError
            NOT_SUPPORTED: see ``info.adapter_flags``.

        References
        ----------
        NdkControlCqInterruptModeration.
        """
    def fileno(self) -> int:
        """Return the descriptor that `arm` is about; it belongs to the queue.

        Raises
        ------
        RdmaError
            INSUFFICIENT_RESOURCES: the process has too many open files.
        """
    def _is_ready(self) -> bool:
        """Return whether `poll` would find something, or fail, without serving connections."""
    def _wait(self, timeout: float | None) -> None:
        """Sleep as `wait` does, or until `_nudge`; it does not say which."""
    def _watch_fileno(self) -> int:
        """Return the descriptor that a loop sleeps over between `_begin_watch` and `_end_watch`."""
    def _begin_watch(self) -> bool:
        """Have the descriptor become readable; True: there is something already."""
    def _end_watch(self) -> None:
        """Serve the connections that have become ready; the loop is back."""
    def _nudge(self) -> None:
        """End the sleep of a thread in `_wait`, or the next one."""

@final
class QueuePair(_Object):
    """One end of a connection: a queue of receives and one of all other requests.

    A request that cannot be posted raises, keeps nothing, and leaves the queue pair as it was. One
    that was posted ends in exactly one Result, silent successes apart.

    ``segments`` name local memory: a `Segment`, a `MemoryRegion` (all of it), a buffer such as an
    array slice inside a registered region of the protection domain, or a sequence of those; without
    any, the request has no data. ``remote`` is a RemoteBuffer, or whatever has its address, token
    and nbytes, or a pair (address, token); as much as the segments hold is read or written. A
    ``context`` is any object; it comes back in the Result, and an exact int of 64 bits comes back
    without having been kept.

    Every posting call may raise

    - RdmaError, a ValueError: memory in no registered region, too many segments, flags that do not
      apply, more local bytes than `remote` has, numbers that do not fit,
    - RdmaError, a BufferError: an array that is not contiguous, or read-only and to be written,
    - RdmaError, a PermissionError: memory without the right that is needed, on either side,
    - RdmaError with NO_MORE_ENTRIES: the queue is full, and polling makes room,
    - RdmaError with BUFFER_OVERFLOW: more bytes than ``info.max_transfer_length``, or inline more
      than ``inline_size``,
    - RdmaError with CONNECTION_INVALID (not receive): not connected; a ConnectionResetError or
      ConnectionAbortedError when the connection has ended, by the peer or by this side,
    - TypeError: an argument of another kind.

    With the flag DEFER a request may wait for the next one that is posted without it; a posting
    call that raises starts what was deferred before it. So end a chain of deferred requests with
    one that is not, unless one raised.

    They hold the GIL and send up to 32 KiB at once; beyond that they give the GIL up, and what the
    peer is not ready for goes out later, without a call. Calls of two threads are serialised by
    the GIL.
    """

    def send(self, segments: _Segments = (), *, context: object = None, flags: int = 0) -> None:
        """Send one message, which takes one receive of the peer.

        Parameters
        ----------
        segments : Segment, MemoryRegion, buffer, or sequence of those
            The data, as its bytes lie in memory; none sends an empty message.
        context : object
            Comes back in the Result.
        flags : Flag
            SILENT_SUCCESS, READ_FENCE, SEND_AND_SOLICIT_EVENT, INLINE, DEFER.

        Raises
        ------
        RdmaError
            NO_MORE_ENTRIES: the queue is full, and polling makes room.
        RdmaError
            CONNECTION_INVALID: not connected; a ConnectionResetError or ConnectionAbortedError when
            the connection has ended.
        RdmaError
            A ValueError, BufferError or PermissionError: what is wrong with the arguments, as
            `QueuePair` lists it for all posting calls.

        Notes
        -----
        Returns without waiting for the peer; the GIL is given up for what exceeds 32 KiB.

        Success means that the memory may be reused, no more. A message longer than the peer's
        receive, or without one, ends the connection.

        References
        ----------
        NdkSend; RFC 5040 section 5.3.
        """
    def send_and_invalidate(
        self, segments: _Segments, remote_token: int, *, context: object = None, flags: int = 0
    ) -> None:
        """Send one message and invalidate a token of the peer before it sees the message.

        Parameters
        ----------
        segments, context, flags
            As `send`.
        remote_token : int
            Must name memory that the peer made for it (a window, or fast-registered memory, with
            a remote right); a plain registered region ends the connection. The peer's receive
            ends as RECEIVE_AND_INVALIDATE with this token, which is dead by then.

        Raises
        ------
        RdmaError
            As `send`.

        References
        ----------
        NdkSendAndInvalidate; RFC 5040 section 5.3.
        """
    def receive(self, segments: _Segments = (), *, context: object = None) -> None:
        """Post memory for one message of the peer; also before the connection is made.

        Parameters
        ----------
        segments : Segment, MemoryRegion, buffer, or sequence of those
            Registered with LOCAL_WRITE; none takes empty messages.
        context : object
            Comes back in the Result.

        Raises
        ------
        RdmaError
            NO_MORE_ENTRIES: the queue is full, and polling makes room.
        RdmaError
            INVALID_DEVICE_REQUEST: its receives come from a shared receive queue.
        RdmaError
            A ConnectionResetError or ConnectionAbortedError: the connection has ended.
        RdmaError
            A ValueError, BufferError or PermissionError: what is wrong with the arguments, as
            `QueuePair` lists it for all posting calls.

        References
        ----------
        NdkReceive.
        """
    def read(
        self, segments: _Segments, remote: _RemoteLike, *, context: object = None, flags: int = 0
    ) -> None:
        """Read from the peer's memory, without the peer's program.

        Parameters
        ----------
        segments : Segment, MemoryRegion, buffer, or sequence of those
            Where the data goes; registered with LOCAL_WRITE.
        remote : RemoteBuffer, or pair (address, token)
            Where it comes from; registered with REMOTE_READ.
        context : object
            Comes back in the Result.
        flags : Flag
            SILENT_SUCCESS, READ_FENCE, DEFER, RDMA_READ_LOCAL_INVALIDATE: the token of the first
            segment, of fast-registered memory, dies with the success of the read. Ignored by
            adapters whose flags do not have it.

        Raises
        ------
        RdmaError
            INVALID_DEVICE_REQUEST: the connection's outbound read limit is 0.
        RdmaError
            As `write`.

        Notes
        -----
        Returns without waiting for the peer.

        Success means that the data is there. No more reads than the outbound read limit are under
        way at once; the others wait in the queue.

        References
        ----------
        NdkRead; RFC 5040 section 5.2.
        """
    def write(
        self, segments: _Segments, remote: _RemoteLike, *, context: object = None, flags: int = 0
    ) -> None:
        """Write into the peer's memory, without the peer's program.

        Parameters
        ----------
        segments : Segment, MemoryRegion, buffer, or sequence of those
            The data, as its bytes lie in memory.
        remote : RemoteBuffer, or pair (address, token)
            Where it goes; registered with REMOTE_WRITE.
        context : object
            Comes back in the Result.
        flags : Flag
            SILENT_SUCCESS, READ_FENCE, INLINE, DEFER.

        Raises
        ------
        RdmaError
            NO_MORE_ENTRIES: the queue is full, and polling makes room.
        RdmaError
            CONNECTION_INVALID: not connected; a ConnectionResetError or ConnectionAbortedError when
            the connection has ended.
        RdmaError
            A ValueError, BufferError or PermissionError: what is wrong with the arguments, as
            `QueuePair` lists it for all posting calls.

        Notes
        -----
        Returns without waiting for the peer; the GIL is given up for what exceeds 32 KiB.

        Success means that the local memory may be reused; the data is there for certain when a
        later message of the same queue pair was received, or a later read succeeded. On iWARP a
        write that the peer refuses may succeed here, and ends the connection afterwards.

        References
        ----------
        NdkWrite; RFC 5040 section 5.1.
        """
    def write_with_immediate(
        self,
        segments: _Segments,
        remote: _RemoteLike,
        immediate: int,
        *,
        context: object = None,
        flags: int = 0,
    ) -> None:
        """Write into the peer's memory, and complete one of its receives with a number.

        Parameters
        ----------
        segments, remote, context
            As `write`.
        immediate : int
            32 bits; the peer finds them in ``Result.immediate``. Its receive ends as RECEIVE, its
            memory untouched, with the bytes of the write as ``bytes_transferred``.
        flags : Flag
            SILENT_SUCCESS, READ_FENCE, SEND_AND_SOLICIT_EVENT, INLINE.

        Raises
        ------
        RdmaError
            NOT_SUPPORTED: ``info.extensions`` lacks "immediate".
        RdmaError
            As `write`.

        Notes
        -----
        The data is there when the peer sees the receive. Success here means what it means for a
        write. A peer that does not know RFC 7306 ends the connection.

        References
        ----------
        RFC 7306 section 6.
        """
    def fetch_add(
        self,
        local: _Segments,
        remote: _RemoteLike,
        value: int,
        *,
        context: object = None,
        flags: int = 0,
    ) -> None:
        """Add to a 64-bit word of the peer's, and fetch what it was before.

        Parameters
        ----------
        local : Segment, MemoryRegion, buffer, or sequence of those
            8 bytes that are registered with LOCAL_WRITE: the old value, in this host's byte order.
        remote : RemoteBuffer, or pair (address, token)
            The word, registered with REMOTE_ATOMIC, at an address that is a multiple of 8.
        value : int
            -2**63 to 2**64 - 1; the sum is taken modulo 2**64.
        context : object
            Comes back in the Result.
        flags : Flag
            SILENT_SUCCESS, READ_FENCE.

        Raises
        ------
        RdmaError
            NOT_SUPPORTED: ``info.extensions`` lacks "atomics".
        RdmaError
            INVALID_PARAMETER, a ValueError: other than 8 local bytes, or an address that is not a
            multiple of 8.
        RdmaError
            INVALID_DEVICE_REQUEST: the connection's outbound read limit is 0.
        RdmaError
            As `write`.

        Notes
        -----
        Atomic towards all connections of the peer, and towards atomic operations of its CPUs.
        Counts like a read: for the read limits, and for READ_FENCE. Of reads and atomics of one
        queue pair each takes effect after those before it; requests of other kinds behind it may
        take effect earlier, unless they are fenced.

        References
        ----------
        RFC 7306 section 5.
        """
    def compare_swap(
        self,
        local: _Segments,
        remote: _RemoteLike,
        expected: int,
        new: int,
        *,
        context: object = None,
        flags: int = 0,
    ) -> None:
        """Replace a 64-bit word of the peer's if it is as expected, and fetch what it was before.

        Parameters
        ----------
        local, remote, context, flags
            As `fetch_add`. It was replaced when the old value is `expected`.
        expected : int
            -2**63 to 2**64 - 1.
        new : int
            -2**63 to 2**64 - 1.

        Raises
        ------
        RdmaError
            As `fetch_add`.

        References
        ----------
        RFC 7306 section 5.
        """
    def post_many(self, requests: NDArray[np.void]) -> int:
        """Post the requests of an array, in order, by one call.

        Parameters
        ----------
        requests : array of request_dtype
            One request with at most one segment a row: ``type`` (SEND, READ, WRITE, or RECEIVE with
            no flags; no atomics and no immediates), ``flags``, ``context`` (an integer),
            ``local_address``, ``local_length``, ``local_token``, ``remote_address``,
            ``remote_token``. With INLINE the local token may be 0: the address is one of this
            process, whose memory need not be registered.

        Returns
        -------
        int
            How many were posted; fewer than there are rows when a queue is full.

        Raises
        ------
        RdmaError
            A row cannot be posted, for the reasons for which the single call raises. Its attribute
            ``posted`` says how many rows before it were.

        Notes
        -----
        Whatever is posted is sent by one step at the end, unless the last row has DEFER.
        """
    def fast_register(
        self,
        region: FastRegisterMemoryRegion,
        pages: LogicalAddressMapping | NDArray[np.uint64] | Sequence[int],
        *,
        first_byte_offset: int | None = None,
        length: int | None = None,
        base_address: int | None = None,
        context: object = None,
        flags: int = 0,
    ) -> None:
        """Fill a region with pages, which need not follow each other, as one range.

        It takes effect in the order of the queue, so that a later send may already carry the new
        token; the tokens of `region` are new when this returns.

        Parameters
        ----------
        region : FastRegisterMemoryRegion
            Must be empty by the request's turn; otherwise it ends INVALID_DEVICE_REQUEST, and with
            it the connection.
        pages : LogicalAddressMapping, array of uint64 or sequence of int
            All pages of a mapping, or logical addresses from the ``pages`` of any mappings, in any
            order; up to ``region.max_pages``.
        first_byte_offset : int, optional
            Where in the first page the range begins; a mapping's own, or 0.
        length : int, optional
            Bytes; a mapping's own, or up to the end of the last page.
        base_address : int, optional
            By which both sides name the first byte: a multiple of the page size plus
            `first_byte_offset`. Where this process sees the byte, when omitted.
        context : object
            Comes back in the Result.
        flags : Flag
            ALLOW_LOCAL_WRITE, ALLOW_REMOTE_READ, ALLOW_REMOTE_WRITE, ALLOW_REMOTE_ATOMIC,
            RDMA_READ_SINK, SILENT_SUCCESS, READ_FENCE, DEFER.

        Raises
        ------
        RdmaError
            A PermissionError: remote rights of a region without remote access, a page of no
            mapping, or bytes of a page that are not of the mapped array.

        References
        ----------
        NdkFastRegister.
        """
    def bind(
        self,
        window: MemoryWindow,
        region: MemoryRegion,
        address: int | None = None,
        nbytes: int | None = None,
        *,
        context: object = None,
        flags: int = 0,
    ) -> None:
        """Put a window over a part of a registered region; queue order as `fast_register`.

        Parameters
        ----------
        window : MemoryWindow
            Must be unbound by the request's turn; otherwise it ends INVALID_DEVICE_REQUEST.
        region : MemoryRegion
            With LOCAL_WRITE for a window that grants more than ALLOW_REMOTE_READ; no remote right
            of its own is needed. It cannot be deregistered while windows are bound to it.
        address : int, optional
            Of the first byte; the region's when omitted. The peer names it so, too.
        nbytes : int, optional
            The rest of the region when omitted.
        context : object
            Comes back in the Result.
        flags : Flag
            One or more of ALLOW_REMOTE_READ, ALLOW_REMOTE_WRITE and ALLOW_REMOTE_ATOMIC;
            SILENT_SUCCESS, READ_FENCE, DEFER.

        Raises
        ------
        RdmaError
            A PermissionError: not inside the region, or without its LOCAL_WRITE.
        RdmaError
            INVALID_DEVICE_REQUEST: the region is not registered.

        References
        ----------
        NdkBind.
        """
    def invalidate(
        self,
        region: FastRegisterMemoryRegion | MemoryWindow,
        *,
        context: object = None,
        flags: int = 0,
    ) -> None:
        """End access through a fast-register region, or a window of this queue pair.

        Parameters
        ----------
        region : FastRegisterMemoryRegion or MemoryWindow
            Must be valid by the request's turn; otherwise it ends INVALID_DEVICE_REQUEST, and with
            it the connection. So do not invalidate what the peer has invalidated.
        context : object
            Comes back in the Result.
        flags : Flag
            SILENT_SUCCESS, READ_FENCE, DEFER.

        Raises
        ------
        TypeError
            A MemoryRegion, which `MemoryRegion.deregister` ends.
        RdmaError
            As `write`.

        References
        ----------
        NdkInvalidate.
        """
    def _send_at_once(self, segments: _Segments, context: object) -> bool:
        """Send INLINE; True: it is done, and has no Result."""
    def _write_at_once(self, segments: _Segments, remote: _RemoteLike, context: object) -> bool:
        """Write; True: it is done, and has no Result."""
    def _read_at_once(self, segments: _Segments, remote: _RemoteLike, context: object) -> bool:
        """Read; True: it is done, and has no Result."""
    def _fetch_add_at_once(
        self, local: _Segments, remote: _RemoteLike, value: int, context: object
    ) -> bool:
        """Add; True: it is done, and has no Result."""
    def _compare_swap_at_once(
        self, local: _Segments, remote: _RemoteLike, expected: int, new: int, context: object
    ) -> bool:
        """Compare and replace; True: it is done, and has no Result."""
    def _move_now(
        self,
        is_read: bool,
        local: Any,
        remote: _RemoteLike,
        spans: NDArray[np.uint64] | None,
        begin: int,
    ) -> int:
        """Move pieces without requests, as long as each is done at once; return how many were.

        ``spans`` has rows of three 64-bit numbers, of which those from `begin` on count: local
        offset, remote offset, length, none of them outside. None is one piece, all of ``local``.
        """
    def flush(self) -> None:
        """Cancel everything posted; the queue pair is over, and `on_disconnect` is called.

        The requests end with CANCELLED, a little later.

        Raises
        ------
        ClosedError
            It, or its adapter, is closed.

        References
        ----------
        NdkFlush.
        """
    def query_extension(self, name: str) -> tuple[str, ...]:
        """Look for an extension of this project beyond NDK, as `Adapter.query_extension`.

        Parameters
        ----------
        name : str
            "atomics", "immediate" (RFC 7306) or "raw_handles".

        Returns
        -------
        tuple of str
            The names of the calls and properties that it is about.

        Raises
        ------
        RdmaError
            NOT_SUPPORTED: the name is not in ``info.extensions``.
        """
    @property
    def state(self) -> str:
        """``"idle"``, ``"connected"`` or ``"error"``."""

@final
class SharedEndpoint(_Object):
    """A local address that several connectors connect from.

    It is taken until the endpoint and every connector that connected from it are closed.

    References
    ----------
    NDK_SHARED_ENDPOINT.
    """

    @property
    def local_address(self) -> tuple[str, int]:
        """The address, as (host, port)."""

@final
class ConnectionData:
    """What the peer sent, and the read limits as known now."""

    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...
    def __getstate__(self) -> tuple[Any, ...]: ...
    def __setstate__(self, state: tuple[Any, ...], /) -> None: ...
    @property
    def inbound_read_limit(self) -> int:
        """Reads of the peer that are served at once."""
    @property
    def outbound_read_limit(self) -> int:
        """Our own reads that may be under way at once."""
    @property
    def private_data(self) -> bytes:
        """May be padded with zeros by the device."""

@final
class Operation:
    """A connect, accept, ... under way: what is behind the blocking calls and their twins."""

    def wait(self, timeout: float | None) -> None:
        """Wait until it is done and raise its failure; a timeout leaves it under way.

        Parameters
        ----------
        timeout : float, optional
            Seconds; None waits without a limit.

        Raises
        ------
        RdmaError
            A TimeoutError; else why it failed.
        """
    def done(self) -> bool:
        """Return whether it is done, well or not."""
    def add_done_callback(self, function: Callable[[Operation], object]) -> None:
        """Call `function` with this once it is done: on the callback thread, or now if it is.

        Parameters
        ----------
        function : callable
            Gets this operation. Its exceptions go to ``sys.unraisablehook``, or to the caller when
            it is called now.

        Raises
        ------
        TypeError
            `function` cannot be called.
        """
    def result(self) -> None:
        """Raise its failure, if it failed.

        Raises
        ------
        RdmaError
            Why it failed; PENDING while it is under way.
        """
    def abandon(self) -> None:
        """Give up on what is under way: nothing of it remains."""

@final
class Connector(_Object):
    """One end of a connection while it is made, used and ended.

    The active side calls `connect`, then `complete_connect` or `reject`. The passive side gets a
    connector from a Listener and calls `accept` or `reject`. A connector makes one connection; a
    connect that failed may be tried again.

    An attempt that times out, is interrupted or cancelled is abandoned: nothing of it remains.
    """

    def connect(
        self,
        qp: QueuePair,
        local: _Address | None,
        peer: _Address,
        *,
        inbound_read_limit: int = 16,
        outbound_read_limit: int = 16,
        private_data: Buffer = b"",
        timeout: float | None = 10,
        crc: bool | None = None,
        peer_to_peer: bool = False,
    ) -> None:
        """Ask a listener for a connection and wait for its answer.

        Parameters
        ----------
        qp : QueuePair
            Of the same adapter, never connected before.
        local : address, optional
            Where it comes from; port 0 is any. None: the adapter's choice.
        peer : address
            ``"host:port"``, ``"[v6]:port"`` or ``(host, port)``. Of a name with several addresses
            the first IPv4 one is taken, else the first.
        inbound_read_limit, outbound_read_limit : int
            Reads at once, in each direction; capped by the adapter and the peer.
        private_data : bytes-like
            For the peer, before it accepts; at most ``info.max_caller_data``.
        timeout : float, optional
            Seconds.
        crc : bool, optional
            Ask for CRC32C (iWARP), whatever the adapter was opened with. It is used when one side
            asks.
        peer_to_peer : bool
            Ask for the mode in which the passive side may send first (RFC 6581). Leave it off for
            kernel siw peers.

        Raises
        ------
        RdmaError
            A ConnectionRefusedError: no program listens, or the peer rejected; ``connection_data``
            then has its private data.
        RdmaError
            A TimeoutError; a ConnectionAbortedError: the peer is no RDMA listener.
        RdmaError
            A ValueError: addresses, or private data that is too long.
        RdmaError
            HOST_UNREACHABLE, NETWORK_UNREACHABLE, SHARING_VIOLATION, CONNECTION_ACTIVE.

        References
        ----------
        NdkConnect; RFC 5044 section 7, RFC 6581.
        """
    def complete_connect(
        self, on_disconnect: Callable[[], object] | None = None, *, timeout: float | None = 10
    ) -> None:
        """Begin to use the connection that the peer accepted.

        Parameters
        ----------
        on_disconnect : callable, optional
            Called once, on the adapter's callback thread, when the connection ends for any reason
            but our own disconnect or close: also when a completion queue overruns or the queue
            pair is flushed.
        timeout : float, optional
            Seconds.

        Raises
        ------
        RdmaError
            A ConnectionAbortedError: the peer gave up meanwhile; a TimeoutError.
        RdmaError
            CONNECTION_INVALID: connect did not succeed before.

        References
        ----------
        NdkCompleteConnect.
        """
    def accept(
        self,
        qp: QueuePair,
        *,
        inbound_read_limit: int = 16,
        outbound_read_limit: int = 16,
        private_data: Buffer = b"",
        on_disconnect: Callable[[], object] | None = None,
        timeout: float | None = 60,
        crc: bool | None = None,
    ) -> None:
        """Accept the connection that the peer asked for.

        Parameters
        ----------
        qp, inbound_read_limit, outbound_read_limit, crc
            As `connect`.
        private_data : bytes-like
            For the peer; at most ``info.max_callee_data``.
        on_disconnect : callable, optional
            As `complete_connect`.
        timeout : float, optional
            Seconds that the peer has to complete the connection; then the connector is
            disconnected and the queue pair flushed.

        Raises
        ------
        RdmaError
            A ConnectionAbortedError: the peer gave up, or the queue pair was flushed; a
            TimeoutError.

        Notes
        -----
        Returns when the peer has completed the connection. On ``soft`` also about 100 ms after the
        answer, because not every peer says that it has: one that gives up later than that ends a
        connection, and `on_disconnect` is called. A peer with which it will share memory does.

        References
        ----------
        NdkAccept.
        """
    def reject(self, private_data: Buffer = b"") -> None:
        """Refuse the connection, with bytes for the peer.

        Parameters
        ----------
        private_data : bytes-like
            For the peer; at most ``info.max_callee_data``.

        Raises
        ------
        RdmaError
            CONNECTION_INVALID: no peer asks for a connection, or has accepted one.
        RdmaError
            A ValueError: the private data is too long.

        References
        ----------
        NdkReject.
        """
    def disconnect(self, timeout: float | None = 5) -> None:
        """End the connection in order and wait for the peer to do the same.

        Requests that are posted still go out; the queue pair is flushed when this returns. The
        connection is over whatever this raises.

        Parameters
        ----------
        timeout : float, optional
            Seconds; None waits without a limit.

        Raises
        ------
        RdmaError
            A TimeoutError: the peer did not answer.
        RdmaError
            CANCELLED: the queue pair was flushed or closed before the peer answered.
        RdmaError
            CONNECTION_INVALID: there is no connection.

        References
        ----------
        NdkDisconnect.
        """
    async def connect_async(
        self,
        qp: QueuePair,
        local: _Address | None,
        peer: _Address,
        *,
        inbound_read_limit: int = 16,
        outbound_read_limit: int = 16,
        private_data: Buffer = b"",
        timeout: float | None = 10,
        crc: bool | None = None,
        peer_to_peer: bool = False,
    ) -> None:
        """Connect, in an asyncio loop; cancelling it abandons the attempt.

        Parameters
        ----------
        qp, local, peer, inbound_read_limit, outbound_read_limit, private_data
            As `connect`.
        timeout, crc, peer_to_peer
            As `connect`.

        Raises
        ------
        RdmaError
            As `connect`.
        """
    def connect_with_shared_endpoint(
        self,
        qp: QueuePair,
        endpoint: SharedEndpoint,
        peer: _Address,
        *,
        inbound_read_limit: int = 16,
        outbound_read_limit: int = 16,
        private_data: Buffer = b"",
        timeout: float | None = 10,
        crc: bool | None = None,
        peer_to_peer: bool = False,
    ) -> None:
        """Connect from a shared local address.

        Parameters
        ----------
        endpoint : SharedEndpoint
            Where it comes from.
        qp, peer, inbound_read_limit, outbound_read_limit, private_data
            As `connect`.
        timeout, crc, peer_to_peer
            As `connect`.

        Raises
        ------
        RdmaError
            As `connect`.
        RdmaError
            ADDRESS_ALREADY_EXISTS: the endpoint is connected to `peer` already.

        References
        ----------
        NdkConnectWithSharedEndpoint.
        """
    async def connect_with_shared_endpoint_async(
        self,
        qp: QueuePair,
        endpoint: SharedEndpoint,
        peer: _Address,
        *,
        inbound_read_limit: int = 16,
        outbound_read_limit: int = 16,
        private_data: Buffer = b"",
        timeout: float | None = 10,
        crc: bool | None = None,
        peer_to_peer: bool = False,
    ) -> None:
        """Connect from a shared local address, in an asyncio loop.

        Parameters
        ----------
        qp, endpoint, peer, inbound_read_limit, outbound_read_limit, private_data
            As `connect_with_shared_endpoint`.
        timeout, crc, peer_to_peer
            As `connect_with_shared_endpoint`.

        Raises
        ------
        RdmaError
            As `connect_with_shared_endpoint`.
        """
    async def complete_connect_async(
        self, on_disconnect: Callable[[], object] | None = None, *, timeout: float | None = 10
    ) -> None:
        """Begin to use the connection that the peer accepted, in an asyncio loop.

        Parameters
        ----------
        on_disconnect, timeout
            As `complete_connect`.

        Raises
        ------
        RdmaError
            As `complete_connect`.
        """
    async def accept_async(
        self,
        qp: QueuePair,
        *,
        inbound_read_limit: int = 16,
        outbound_read_limit: int = 16,
        private_data: Buffer = b"",
        on_disconnect: Callable[[], object] | None = None,
        timeout: float | None = 60,
        crc: bool | None = None,
    ) -> None:
        """Accept, in an asyncio loop; cancelling it abandons the connection.

        Parameters
        ----------
        qp, inbound_read_limit, outbound_read_limit, private_data
            As `accept`.
        on_disconnect, timeout, crc
            As `accept`.

        Raises
        ------
        RdmaError
            As `accept`.
        """
    async def disconnect_async(self, timeout: float | None = 5) -> None:
        """End the connection in order, in an asyncio loop.

        Parameters
        ----------
        timeout
            As `disconnect`.

        Raises
        ------
        RdmaError
            As `disconnect`.
        """
    def _start_connect(
        self,
        qp: QueuePair,
        local: _Address | SharedEndpoint | None,
        peer: _Address,
        *,
        inbound_read_limit: int = 16,
        outbound_read_limit: int = 16,
        private_data: Buffer = b"",
        timeout: float | None = 10,
        crc: bool | None = None,
        peer_to_peer: bool = False,
    ) -> Operation: ...
    def _start_complete_connect(
        self, on_disconnect: Callable[[], object] | None = None
    ) -> Operation: ...
    def _start_accept(
        self,
        qp: QueuePair,
        *,
        inbound_read_limit: int = 16,
        outbound_read_limit: int = 16,
        private_data: Buffer = b"",
        on_disconnect: Callable[[], object] | None = None,
        timeout: float | None = 60,
        crc: bool | None = None,
    ) -> Operation: ...
    def _start_disconnect(self, timeout: float | None = 5) -> Operation: ...
    @property
    def connection_data(self) -> ConnectionData:
        """What the peer sent, also with a rejection.

        Raises
        ------
        RdmaError
            CONNECTION_INVALID: the peer has said nothing yet.
        """
    @property
    def local_address(self) -> tuple[str, int]:
        """Where this end of the connection is, as (host, port)."""
    @property
    def peer_address(self) -> tuple[str, int]:
        """Where the other end of the connection is, as (host, port)."""
    @property
    def state(self) -> str:
        """Where it stands.

        ``"idle"``, ``"connecting"``, ``"accepted"``, ``"incoming"``, ``"completing"``,
        ``"connected"``, ``"disconnecting"`` or ``"disconnected"``.
        """
    @property
    def transport(self) -> str:
        """What carries the connection.

        On ``soft`` ``"tcp"``, ``"direct"`` (memory that both ends share) or ``"direct+vm"`` (the
        kernel copies what this process does not map of the peer); on devices ``"rdma"``.
        `transport_reason` says why it is not a faster one.

        Raises
        ------
        RdmaError
            CONNECTION_INVALID: it is not connected.
        """
    @property
    def transport_reason(self) -> str:
        """Why `transport` is not a faster one of the provider; empty when there is none.

        Each end has its own: one may let the kernel copy, and the other not.

        Raises
        ------
        RdmaError
            CONNECTION_INVALID: it is not connected.
        """

@final
class Listener(_Object):
    """Where peers ask for connections."""

    def listen(self, address: _Address) -> None:
        """Begin to take connections.

        Parameters
        ----------
        address : address
            ``"host:port"``, ``"[v6]:port"`` or ``(host, port)``; port 0 lets the system choose.
            RDMA has neither encryption nor authentication: listen where you trust everybody.

        Raises
        ------
        RdmaError
            SHARING_VIOLATION: the address is in use.
        RdmaError
            A ValueError: it is no address of this host.

        References
        ----------
        NdkListen.
        """
    def get_connector(self, timeout: float | None = None) -> Connector:
        """Wait for a peer and return its connector, to be accepted or rejected.

        A connector that is closed instead rejects the peer.

        Parameters
        ----------
        timeout : float, optional
            Seconds; None waits without a limit.

        Raises
        ------
        RdmaError
            A TimeoutError.

        Notes
        -----
        Gives the GIL up while it waits.

        References
        ----------
        NDK_FN_CONNECT_EVENT_CALLBACK.
        """
    async def get_connector_async(self, timeout: float | None = None) -> Connector:
        """Wait for a peer and return its connector, in an asyncio loop.

        Parameters
        ----------
        timeout
            As `get_connector`.

        Raises
        ------
        RdmaError
            As `get_connector`.
        """
    def _take(self) -> Connector | None: ...
    def _wait_for_arrival(self) -> Operation: ...
    def control_connect_events(self, pause: bool) -> None:
        """Pause or resume: a paused listener refuses peers and keeps its address.

        Parameters
        ----------
        pause : bool
            Whether it is paused from now on.

        Raises
        ------
        ClosedError
            It, or its adapter, is closed.

        References
        ----------
        NdkControlConnectEvents.
        """
    @property
    def local_address(self) -> tuple[str, int]:
        """Where it listens, as (host, port)."""

@final
class _BenchPlan:
    """What one end of a benchmark does; see src/bench/bench.hpp."""

    def __init__(
        self,
        *,
        is_initiator: bool,
        is_latency: bool,
        operation: OperationType,
        size: int,
        depth: int = 1,
        iterations: int = 0,
        seconds: float = 0.0,
        warm_up: int = 0,
        signal_every: int = 1,
        sleeps: bool = False,
    ) -> None: ...
    @property
    def limits(self) -> dict[str, int]:
        """Keyword arguments for `ProtectionDomain.create_qp`."""

@final
class _BenchSession:
    """One end of a benchmark: made before the connection, run after it."""

    def __init__(
        self,
        qp: QueuePair,
        source: MemoryRegion,
        target: MemoryRegion,
        *,
        remote: tuple[int, int],
        plan: _BenchPlan,
        more: Iterable[QueuePair] = (),
    ) -> None: ...
    def run(self) -> dict[str, float]:
        """Return what was measured, in seconds."""

def _bench_store_ping_pong(*, seconds: float) -> float:
    """Return how long a store of one thread takes to be seen by another, in seconds."""

def _bench_copy_memory(*, size: int, seconds: float) -> float:
    """Return how long ``memcpy`` takes in the mean, in seconds."""

def _bench_copy_to_process(*, pid: int, address: int, size: int, seconds: float) -> float:
    """Return how long ``process_vm_writev`` takes in the mean, in seconds."""

request_dtype: Final[np.dtype[np.void]]
"""Rows of `QueuePair.post_many`, which names the fields; 48 bytes."""
result_dtype: Final[np.dtype[np.void]]
"""Rows of `CompletionQueue.poll_into`: NDK_RESULT_EX without holes, 48 bytes.

status u4, type u4, bytes_transferred u8, qp_context u8, request_context u8, immediate u8,
invalidated_token u4, flags u4.
"""

__version__: Final[str]

_default_adapter: str
"""What `Adapter.open` opens when nothing else is said."""

def _error_classes() -> dict[Status, str]:
    """Return the name of the class that each status raises."""

def _status_meanings() -> dict[Status, str]:
    """Return what each status means."""

def _terminate_text(layer: int, error_type: int, code: int) -> str:
    """Return the sentence about a Terminate of the peer."""

def _diagnose() -> list[tuple[str, str, bool, str, str]]:
    """Look at what each provider needs: provider, check, whether it is good, what, remedy."""

@final
class StreamOptions:
    """Sizes of a stream socket, for connections that are made later."""

    receive_buffer: int
    """Bytes that received data may take until it is consumed or released; 1 MiB. A quarter is one
    registered segment; two exist from the start, the others when they are needed."""
    send_buffer: int
    """Bytes of data taken over and not sent; 1 MiB."""
    receive_queue_depth: int
    """Messages that the peer may send before it hears of us; 64."""
    send_queue_depth: int
    """Requests of the queue pair; a message takes up to two; 128."""
    inline_size: int
    """A send up to this is copied into its request; 64."""
    iomap_entries: int
    """Mappings (`Socket.riomap`) that the peer may have at a time; 0."""
    keepalive: float
    """Seconds between keepalives, 0 for none."""
    def __init__(self, other: StreamOptions = ...) -> None: ...

@final
class StreamView:
    """Received bytes in the ring; a read-only buffer."""

    def take(self) -> None:
        """Keep what was looked at until `release`."""
    def consume(self, length: int) -> None:
        """Be done with the first bytes of what was looked at."""
    def release(self) -> None:
        """Give the memory back; once."""
    @property
    def is_taken(self) -> bool:
        """Whether the memory is kept."""
    def __len__(self) -> int: ...

@final
class StreamTransfer:
    """A send or receive of a stream under way."""

    @property
    def bytes_transferred(self) -> int:
        """How much it moved, once it is done."""
    @property
    def operation(self) -> Operation:
        """What completes when it is done."""
    def wait(self, timeout: float | None) -> bool:
        """Wait until it is done; return whether it is."""
    def cancel(self) -> None:
        """End it early: with CANCELLED, unless part of it is done."""

@final
class Stream(_Object):
    """A stream socket's connection; `ndverbs.Socket` and `ndverbs.wsk` stand on it."""

    timeout: float | None
    def _start_connect(
        self, local: _Address | SharedEndpoint | None, peer: _Address, timeout: float | None
    ) -> None: ...
    def _start_disconnect(self) -> Operation: ...
    def _call_soon(self, function: Callable[[int], object]) -> None: ...
    def wait_connected(self, timeout: float | None) -> bool:
        """Wait until it is connected, or will never be; return whether that is so."""
    def wait_readable(self, timeout: float | None) -> bool:
        """Wait until a receive would not wait."""
    def wait_writable(self, timeout: float | None) -> bool:
        """Wait until a send would not wait."""
    def send(self, data: _Memory, flags: int = 0, /) -> int:
        """Send what there is room for and return its length."""
    def sendall(self, data: _Memory, flags: int = 0, /) -> None:
        """Send all of it."""
    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receive up to ``bufsize`` bytes; none is the end of the stream."""
    def recv_into(self, buffer: _Memory, nbytes: int = 0, flags: int = 0) -> int:
        """Receive into a buffer and return how much."""
    def submit_send(self, buffer: _Memory) -> StreamTransfer:
        """Send from the caller's memory."""
    def submit_receive(
        self, buffer: _Memory | None, *, is_all: bool = False, is_drain: bool = False
    ) -> StreamTransfer:
        """Receive into the caller's memory."""
    def submit_write(self, buffer: _Memory, offset: int) -> StreamTransfer:
        """Write from the caller's memory into a mapping of the peer's."""
    def map(self, buffer: _Memory, offset: int | None) -> int:
        """Let the peer write to memory by offset; return the offset."""
    def unmap(self, buffer: _Memory) -> None:
        """End a mapping."""
    def take(self, most: int) -> StreamView | None:
        """Take received bytes without a copy; None when there are none."""
    def look(self, most: int) -> StreamView | None:
        """Look at received bytes, which then are taken or consumed; None when there are none."""
    def shutdown(self, how: int) -> None:
        """End one direction or both; numbers as of socket.SHUT_RD."""
    def abort(self) -> None:
        """End the connection at once: the peer sees a reset."""
    def fileno(self) -> int:
        """Return a descriptor that is readable and writable as the stream is."""
    def set_event_callback(self, function: Callable[[int], object] | None) -> None:
        """Have the callback thread call ``function(bits)`` when something happened."""
    def set_options(self, options: StreamOptions) -> None:
        """Set the sizes of the connection that is made later; afterwards nothing changes."""
    def set_keepalive(self, interval: float) -> None:
        """Send a keepalive every so many seconds; 0 stops it."""
    def set_aborts_on_close(self, aborts: bool) -> None:
        """Let close() reset the connection, as SO_LINGER with 0 s does."""
    def raise_failure(self) -> None:
        """Raise what broke the stream, if anything did."""
    def _bench_source(self, size: int, total: int) -> float: ...
    def _bench_sink(self, total: int) -> None: ...
    def _bench_ping(self, size: int, count: int) -> list[float]: ...
    def _bench_echo(self, size: int, count: int) -> None: ...
    @property
    def phase(self) -> str:
        """One of "fresh", "connecting", "accepting", "connected" and "over"."""
    @property
    def error(self) -> int:
        """The errno of what broke the stream, or 0."""
    @property
    def readable(self) -> int:
        """Bytes received and not consumed."""
    @property
    def is_peer_shut(self) -> bool:
        """Whether the peer has ended its direction."""
    @property
    def is_short_of_memory(self) -> bool:
        """Whether the peer could write more if received data were released."""
    @property
    def inspect_id(self) -> int:
        """The inspection that it was accepted by, or 0."""
    @property
    def local_address(self) -> tuple[str, int]:
        """Where this end is."""
    @property
    def peer_address(self) -> tuple[str, int]:
        """The other end's address."""
    @property
    def ideal_send_backlog(self) -> int:
        """How many bytes to keep under way."""
    @property
    def send_backlog(self) -> int:
        """Bytes taken over and not sent."""
    @property
    def memory_use(self) -> int:
        """Bytes of registered buffers."""

@final
class StreamListener(_Object):
    """A listening stream socket."""

    def _call_soon(self, function: Callable[[int], object]) -> None: ...
    def accept(self, timeout: float | None) -> Stream | None:
        """Take a connection; None when none came in time."""
    def fileno(self) -> int:
        """Return a descriptor that is readable when a connection waits."""
    def inspect_complete(self, id: int, accepts: bool) -> None:
        """Answer a request that was inspected."""
    def set_options(self, options: StreamOptions) -> None:
        """Set the sizes of connections that come from now on."""
    def set_backlog(self, backlog: int) -> None:
        """Change how many connections wait to be accepted."""
    @property
    def local_address(self) -> tuple[str, int]:
        """Where it listens."""

@final
class _Elements:
    """Elements of an array of the peer's, used at once or not at all, in place of requests.

    Parameters
    ----------
    qp : QueuePair
        Where memory of the peer's is used.
    item : ndarray
        One element, through which they pass.
    remote : tuple or RemoteBuffer
        Where the first one is.
    count : int
        How many there are.
    """

    def __init__(
        self, qp: QueuePair, item: NDArray[Any], remote: _RemoteLike, count: int
    ) -> None: ...
    def get(self, index: SupportsIndex) -> Any:
        """Read an element; None: not at once. Raises IndexError."""
    def set(self, index: SupportsIndex, value: Any) -> bool:
        """Write an element; False: not at once. Raises IndexError, and what the item raises."""
    def fetch_add(self, index: SupportsIndex, n: int) -> int | None:
        """Add to a word and return what it was, unsigned; None: not at once. Raises IndexError."""

class _Lock:
    """A lock that refuses its own thread with a RuntimeError: `threading`'s would wait for ever."""

    def __enter__(self) -> None:
        """Wait for it; signals are handled meanwhile."""
    def __exit__(self, *exception: object) -> None:
        """Give it back."""
    def acquire(self, timeout: float, /) -> bool:
        """Wait for it so many seconds; False: another thread has it still."""

def _call_and_report(function: Callable[[Any], object], argument: object) -> None:
    """Call it; its exception goes to ``sys.unraisablehook``."""

def _page(name: str) -> str:
    """Return the page of a name of this file: for what Python adds to the classes."""

def _is_callback_thread() -> bool:
    """Return whether this is the callback thread of an adapter."""

def _live_objects() -> dict[str, int]:
    """Count the native objects that exist, by kind; for tests."""
