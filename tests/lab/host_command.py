# SPDX-License-Identifier: Apache-2.0
"""The guest's Python on the host, with the interface of agent_client.Command."""

import os
import signal
import subprocess

from lab import debian, host, image, packages
from lab.agent_client import Ended


class HostCommand:
    """Runs the guest's version of Python in the folder that the guest has a copy of.

    It is that of the build root, and sees the same NumPy, pytest and ndverbs as the guest.
    """

    def __init__(self, machine, release, ours, words, env):
        site = packages.others(release) / "site"
        paths = [ours / "site", site, ours / "tests", ours / "tests" / "lab" / "in_guest"]
        self._process = subprocess.Popen(
            debian.entered(
                image.build_root(release),
                ["python3", "-S", "-X", "faulthandler", *words],
                shown=[image.cache_folder()],
                cwd=ours,
                env={
                    **env,
                    "PYTHONPATH": os.pathsep.join(str(path) for path in paths),
                    "PYTHONDONTWRITEBYTECODE": "1",  # the folder is the cache's
                    "NDVERBS_LAB_CACHE": str(image.cache_folder()),
                    "NDVERBS_LAB_MACHINE": machine.name,
                },
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=host.environment(),
        )
        self.ended = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()

    def fileno(self):
        return self._process.stdout.fileno()

    def take(self):
        """Wait for the next output and return it; b"" once `ended` says how it ended."""
        data = os.read(self.fileno(), 1 << 16)
        if not data:
            self.ended = Ended(self._process.wait())
        return data
