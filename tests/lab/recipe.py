# SPDX-License-Identifier: Apache-2.0
"""What the guest is made of: packages, files, devices and addresses, as data.

Whatever is named here is part of the key of a cached layer, so a change rebuilds what depends
on it. How it is built is in image.py and siw.py, how it is started in machine.py.
"""

from typing import NamedTuple


class Release(NamedTuple):
    """A release of Debian; its kernel is the one that its mirror has."""

    suite: str
    python: str
    apt_options: tuple[str, ...] = ()


RELEASES = {
    release.suite: release
    for release in (
        Release("bookworm", "3.11"),
        Release("trixie", "3.13"),
        # Its Release file may be past its date between two of its days.
        Release("testing", "3.14", ('Acquire::Check-Valid-Until "false";',)),
    )
}

# Where siw and our wheel are built; one version of kernel headers and source.
BUILD_PACKAGES = [
    *("g++", "make", "git", "python3-dev", "python3-pip", "ca-certificates"),
    *("libibverbs-dev", "librdmacm-dev"),
    *("linux-headers-amd64", "linux-source", "xz-utils", "kmod"),
]

# What the guest has beside its kernel.
PACKAGES = [
    "initramfs-tools",  # newer releases may prefer another program
    "rdma-core",
    "ibverbs-utils",
    "ibverbs-providers",
    "rdmacm-utils",  # rping, ucmatose, rstream; its library has librspreload
    "perftest",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    "udev",
    "procps",
    "python3",
    "strace",
    "netcat-traditional",  # programs that librspreload moves to RDMA
    "curl",
    "openssl",  # certificates of the test of TLS over a stream
    "tcpdump",
]

# What no test looks at; the kernel's drivers alone are 300 MB, below / or /usr.
LEFT_OUT = [
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "*/lib/modules/*/kernel/drivers/gpu/*",
    "*/lib/modules/*/kernel/drivers/media/*",
    "*/lib/modules/*/kernel/drivers/net/wireless/*",
    "*/lib/modules/*/kernel/sound/*",
]

# Before the packages are set up: an initrd with what the root disk needs, and nothing else.
INITRAMFS_CONF = "MODULES=list\n"
INITRAMFS_HOOK = """#!/bin/sh
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
force_load virtio_pci
force_load virtio_blk
force_load ext4
"""

# The first program of the guest: the lab's own files are on a second disk, made at every start,
# so that a change of theirs does not rebuild this one.
STUB_INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p /lab
mount -t ext4 -o ro /dev/vdb /lab && exec /lab/init
echo "lab: the disk with the lab's files cannot be mounted" > /dev/console
echo o > /proc/sysrq-trigger
"""

DISK_SIZE = "2600M"  # sparse; room for packages that a session unpacks


class Device(NamedTuple):
    """An RDMA device of the guest, on an interface and addresses of its own.

    rdma_cm chooses the device by address, so two devices never share an interface.
    """

    name: str
    kind: str
    interface: str
    ipv4: str
    ipv6: str
    other_ipv4: str  # of the same interface, for listeners on all addresses

    @property
    def ipv4_network(self):
        return self.ipv4.rsplit(".", 1)[0] + ".0/24"

    @property
    def ipv6_network(self):
        return self.ipv6.rsplit("::", 1)[0] + "::/64"


DEVICES = {
    device.name: device
    for device in (
        Device("siw0", "siw", "eth0", "10.0.2.15", "fd00:a::15", "10.0.2.16"),
        Device("rxe0", "rxe", "eth1", "10.0.3.15", "fd00:b::15", "10.0.3.16"),
    )
}

HOST_SEEN_BY_GUEST = "10.0.2.2"  # QEMU's user networking: the host's loopback
AGENT_PORT = 2222
# Guest ports, beside the agent's, that the host reaches through forwarded ports of its own.
FORWARDED_PORTS = [7471, 7472, 7473, 7474]

# siw has no module parameters; its constants of siw_main.c, changed, make the variants.
SIW_VARIANTS = {
    "stock": [],
    "crc": ["mpa_crc_required"],
    "p2p": ["peer_to_peer"],
}


def test_addresses():
    """Say which addresses reach which provider, as NDVERBS_TEST_ADDRESSES wants it."""
    return ";".join(f"verbs:{d.name}={d.ipv4},{d.ipv6},{d.other_ipv4}" for d in DEVICES.values())
