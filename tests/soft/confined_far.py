# SPDX-License-Identifier: Apache-2.0
"""Run as a process of its own: the far end of a test, where less is allowed than usual.

``python confined_far.py CONDITION... DESCRIPTOR`` brings itself into the conditions, one after the
other, and then serves as conformance.far does. It ends with code 77 and a reason where the kernel
does not let it. Beside what conformance.far does, its ends know FUNCTIONS.
"""

import ctypes
import errno
import os
import signal
import socket
import struct
import sys
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
# Of the process alone: one that has threads cannot enter a user namespace.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

# All that the conditions would keep from being imported later.
import conftest  # noqa: F401
import ndverbs as nd
from conformance import far
from conformance.end import LIMIT

NOT_LET = 77
ANOTHER_USER = 12345
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 4, 38, 22
CAPABILITY_VERSION, CAP_SYS_PTRACE = 0x20080522, 19
# By machine: the numbers of capget, process_vm_readv, process_vm_writev, and of what poll() is.
NUMBERS = {"x86_64": (125, 310, 311, 7), "aarch64": (90, 270, 271, 73)}
PIDFD_OPEN = 434  # of all machines

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result


def unshare(flags):
    check(libc.unshare(flags), "unshare")


def refuse(error, *numbers):
    """Have the kernel fail system calls of this thread, and of those that it starts: seccomp."""
    load, jump, give = 0x20, 0x15, 0x06  # BPF: word at, jump if equal, return
    allow, fail = 0x7FFF0000, 0x00050000 | error  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO
    program = [
        (load, 0, 0, 0),  # struct seccomp_data: the number
        *((jump, len(numbers) - i, 0, number) for i, number in enumerate(numbers)),
        (give, 0, 0, allow),
        (give, 0, 0, fail),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
    filtered = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    check(libc.prctl(PR_SET_SECCOMP, 2, ctypes.create_string_buffer(filtered), 0, 0), "seccomp")


def forbid_calls(_end=None):
    """Have the kernel refuse to copy between processes, as in a container."""
    refuse(errno.EPERM, *NUMBERS[os.uname().machine][1:3])


def forbid_pidfds():
    """Be on a kernel before 5.3, or in a container with an old filter."""
    refuse(errno.ENOSYS, PIDFD_OPEN)


def interrupt_polls(_end):
    """Have a signal come whenever this thread asks for events."""
    refuse(errno.EINTR, NUMBERS[os.uname().machine][3])


def hide_memory(_end=None):
    """Be what a program with other credentials is: not to be traced by its own user."""
    check(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")


def drop_tracing():
    """Lack the capability that lets root look into any process."""
    number = NUMBERS[os.uname().machine][0]
    header = ctypes.create_string_buffer(struct.pack("Ii", CAPABILITY_VERSION, 0))
    data = ctypes.create_string_buffer(24)
    check(libc.syscall(number, header, data), "capget")
    words = [word & ~(1 << CAP_SYS_PTRACE) for word in struct.unpack("3I", data.raw[:12])]
    data = ctypes.create_string_buffer(struct.pack("6I", *words, *struct.unpack("3I", data[12:24])))
    check(libc.syscall(number + 1, header, data), "capset")


def enter_user_namespace():
    """Be the same user under a number of another user namespace."""
    user, group = os.getuid(), os.getgid()
    unshare(CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def enter_nameless_user_namespace():
    unshare(CLONE_NEWUSER)


def enter_pid_namespace():
    """Go on as the first process of a namespace of its own."""
    unshare(CLONE_NEWPID)
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "pdeathsig")


def become_another_user():
    os.setgroups([])
    os.setresgid(ANOTHER_USER, ANOTHER_USER, ANOTHER_USER)
    os.setresuid(ANOTHER_USER, ANOTHER_USER, ANOTHER_USER)


def act_for_another_user():
    os.seteuid(ANOTHER_USER)


CONDITIONS = {
    "calls are forbidden": forbid_calls,
    "pidfds are forbidden": forbid_pidfds,
    "memory is hidden": hide_memory,
    "cannot trace": drop_tracing,
    "user namespace": enter_user_namespace,
    "user namespace without a number": enter_nameless_user_namespace,
    "pid namespace": enter_pid_namespace,
    "another user": become_another_user,
    "another effective user": act_for_another_user,
}


# ---- what an end can be asked for ---------------------------------------------------------------


def leave_network(_end):
    """Have sockets from here on in another network; those that there are stay where they are."""
    unshare(CLONE_NEWNET)


def share_port(end, port):
    """Listen under a port that other processes have, too; 0: a new one. Return it.

    The descriptor of a paused listener gets another socket, which knows SO_REUSEPORT.
    """
    address = end.listen("127.0.0.1")
    descriptor = next(fd for fd in descriptors() if local_address(fd) == address)
    end.listener.control_connect_events(pause=True)
    with socket.socket() as shared:
        shared.setblocking(False)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind(("127.0.0.1", port))
        shared.listen()
        port = shared.getsockname()[1]
        os.dup2(shared.fileno(), descriptor, inheritable=False)
    end.listener.control_connect_events(pause=False)
    return port


def descriptors():
    return [int(name) for name in os.listdir("/proc/self/fd")]


def local_address(descriptor):
    try:
        with socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as opened:
            return opened.getsockname()
    except OSError:
        return None  # it is no socket


def take_now(end, private_data):
    """Begin to accept a request if there is one, with a queue pair of its own."""
    try:
        end.connector = end.listener.get_connector(timeout=0)
    except nd.RdmaTimeoutError:
        return False
    end.qp = end.create_qp()
    end.accepting = end.connector._start_accept(end.qp, private_data=private_data)
    return True


def end_accept(end):
    end.accepting.wait(LIMIT)


FUNCTIONS = {
    "forbid_calls": forbid_calls,
    "hide_memory": hide_memory,
    "interrupt_polls": interrupt_polls,
    "leave_network": leave_network,
    "share_port": share_port,
    "take_now": take_now,
    "end_accept": end_accept,
}


def main(conditions, descriptor):
    pipe = Connection(descriptor)
    try:
        for condition in conditions:
            CONDITIONS[condition]()
    except OSError as error:
        pipe.send(error)
        sys.exit(NOT_LET)
    pipe.send(None)
    far.FUNCTIONS.update(FUNCTIONS)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    far.serve(pipe)


if __name__ == "__main__":
    main(sys.argv[1:-1], int(sys.argv[-1]))
