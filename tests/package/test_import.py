# SPDX-License-Identifier: Apache-2.0
"""What ``import ndverbs`` may cost: no thread, no descriptor, no module that it does not need.

How long it takes is measured by a command, not here:
``python -X importtime -c 'import numpy, ndverbs' 2>&1 | tail -n 15``.
"""

import json
import subprocess
import sys

import pytest

# Each costs milliseconds, and an import of NumPy alone needs none of them.
UNNEEDED = {
    "IPython",
    "argparse",
    "asyncio",
    "concurrent",
    "email",
    "html",
    "http",
    "importlib.metadata",
    "inspect",
    "multiprocessing",
    "socket",
    "ssl",
    "subprocess",
    "typing_extensions",
    "unittest",
}
PROBE = """
import json, os, sys
import numpy
before = set(sys.modules)
descriptors = len(os.listdir("/proc/self/fd"))
import logging
handlers = list(logging.getLogger().handlers)
threads = len(os.listdir("/proc/self/task"))
import ndverbs
import threading
print(json.dumps({
    "modules": sorted(set(sys.modules) - before),
    "threads": len(os.listdir("/proc/self/task")) - threads,
    "descriptors": len(os.listdir("/proc/self/fd")) - descriptors,
    "python_threads": threading.active_count(),
    "root_handlers": len(logging.getLogger().handlers) - len(handlers),
    "level": logging.getLogger("ndverbs").level,
}))
"""


@pytest.fixture(scope="module")
def imported():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_loads_no_module_that_is_not_needed(imported):
    loaded = set(imported["modules"])
    assert not {m for m in loaded if m in UNNEEDED or m.split(".")[0] in UNNEEDED}


def test_importing_loads_none_of_the_package_that_is_for_commands(imported):
    own = {name for name in imported["modules"] if name.startswith("ndverbs.")}
    assert own == {
        "ndverbs._logs",
        "ndverbs._native",
        "ndverbs._shown",
        "ndverbs._address",
        "ndverbs._coroutines",
        "ndverbs.errors",
        "ndverbs.remote",
    }


def test_importing_starts_no_thread_and_opens_no_descriptor(imported):
    assert (imported["threads"], imported["python_threads"], imported["descriptors"]) == (0, 1, 0)


def test_importing_configures_no_logging(imported):
    assert (imported["root_handlers"], imported["level"]) == (0, 0)


@pytest.mark.parametrize("is_imported", [False, True])
def test_import_in_a_sub_interpreter_is_refused_with_a_reason(is_imported):
    program = f"""
import sys
try:
    import _xxsubinterpreters as interpreters
except ImportError:
    import _interpreters as interpreters
if {is_imported}:
    import ndverbs
inner = interpreters.create()
code = f"import sys; sys.path[:] = {{sys.path!r}}\\ntry:\\n import ndverbs._native\\n" \
    "except ImportError as error:\\n print(error, flush=True)\\nelse:\\n print('imported')"
interpreters.run_string(inner, code)
interpreters.destroy(inner)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=100
    )

    assert done.returncode == 0, done.stderr
    assert "sub-interpreter" in done.stdout
