# SPDX-License-Identifier: Apache-2.0
"""The wheels of dist/, after `make wheel` has built them: what is in them, and that they work."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from wheels import roots

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "wheel"
WHEELS = sorted((ROOT / "dist").glob("*.whl"))
INTERPRETERS = {i.version: i for i in roots.interpreters()[0]}

# What every Linux of manylinux_2_31 has, of the C library alone.
LIBRARIES = {
    *("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1"),
    "ld-linux-x86-64.so.2",
}
MOST_BYTES = 1_500_000
LIMIT_S = 300

# NumPy comes from the network.
pytestmark = pytest.mark.timeout(2 * LIMIT_S)
each_wheel = pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.name.split("-")[2])


def version_of(wheel):
    major, minor = re.search(r"-cp(\d)(\d+)-", wheel.name).groups()
    return f"{major}.{minor}"


@pytest.fixture
def tree(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    return tmp_path


@pytest.fixture
def libraries(tree):
    """Give every ELF file of the wheel, by whatever name, opened."""
    files = [path for path in tree.rglob("*") if path.is_file()]
    found = [path.open("rb") for path in files if path.read_bytes()[:4] == b"\x7fELF"]
    assert found
    yield [ELFFile(file) for file in found]
    for file in found:
        file.close()


def dynamic(library, tag):
    return [t for t in library.get_section_by_name(".dynamic").iter_tags() if t.entry.d_tag == tag]


def test_every_interpreter_that_can_be_had_has_one_wheel():
    assert WHEELS
    assert sorted(map(version_of, WHEELS)) == sorted(INTERPRETERS)


@each_wheel
def test_the_name_says_what_the_wheel_runs_on(wheel):
    tag = "cp" + version_of(wheel).replace(".", "")
    assert re.fullmatch(rf"ndverbs-[\d.]+-{tag}-{tag}-manylinux_2_31_x86_64\.whl", wheel.name)


@each_wheel
def test_the_wheel_is_small(wheel):
    assert wheel.stat().st_size <= MOST_BYTES


@each_wheel
def test_the_wheel_holds_the_package_and_nothing_for_tests(wheel, tree):
    names = {path.name for path in tree.iterdir()}
    assert {re.sub("-.*", "", name) for name in names} == {"ndverbs", "pytest_ndverbs"}
    assert [path.name[: path.name.index(".")] for path in tree.rglob("*.so*")] == ["_native"]
    (metadata,) = tree.glob("*.dist-info/METADATA")
    assert message_from_string(metadata.read_text())["Author"] == "ndverbs developers"


@each_wheel
def test_libraries_need_the_c_library_alone(wheel, libraries):
    for library in libraries:
        needed = {tag.needed for tag in dynamic(library, "DT_NEEDED")}
        assert needed <= LIBRARIES
        assert dynamic(library, "DT_RPATH") == dynamic(library, "DT_RUNPATH") == []


@each_wheel
def test_libraries_ask_for_no_newer_c_library_than_the_name_says(wheel, libraries):
    newest = tuple(map(int, roots.C_LIBRARY.split(".")))
    for library in libraries:
        versions = {
            version.name
            for _, needed in library.get_section_by_name(".gnu.version_r").iter_versions()
            for version in needed
        }
        assert versions
        for version in versions:
            assert re.fullmatch(r"GLIBC_[\d.]+", version)
            assert tuple(map(int, version.removeprefix("GLIBC_").split("."))) <= newest


@each_wheel
def test_every_symbol_is_found_by_the_oldest_c_library_or_in_python(wheel, tree):
    root = roots.sysroot()
    multiarch = root / "lib" / roots.MULTIARCH
    for library in tree.rglob("*.so"):
        done = subprocess.run(
            [multiarch / "ld-2.31.so", "--library-path", multiarch, library],
            env={"LD_TRACE_LOADED_OBJECTS": "1", "LD_WARN": "yes", "LD_BIND_NOW": "yes"},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        said = done.stdout + done.stderr
        assert "not found" not in said
        undefined = re.findall(r"undefined symbol: (\w+)", said)
        assert [name for name in undefined if not re.match("_?Py", name)] == []
        assert "PyModule_Create2" in undefined or "PyModuleDef_Init" in undefined


@each_wheel
def test_libraries_offer_python_their_entry_and_no_other_symbol(wheel, libraries):
    for library in libraries:
        offered = [
            symbol.name
            for symbol in library.get_section_by_name(".dynsym").iter_symbols()
            if symbol.entry.st_shndx != "SHN_UNDEF"
        ]
        assert offered == ["PyInit__native"]


@each_wheel
def test_debug_data_is_in_a_file_apart(wheel, tree):
    for path in tree.rglob("*.so"):
        apart = BUILD / "debug" / f"{path.name}.debug"
        with path.open("rb") as file, apart.open("rb") as other:
            library, symbols = ELFFile(file), ELFFile(other)
            sections = {section.name for section in library.iter_sections()}
            assert not any(re.match(r"\.(z?debug|symtab)", name) for name in sections)
            assert ".gnu_debuglink" in sections
            assert symbols.get_section_by_name(".debug_line")
            ids = [
                elf.get_section_by_name(".note.gnu.build-id").data() for elf in (library, symbols)
            ]
            assert ids[0] == ids[1]


@each_wheel
def test_nothing_names_the_machine_that_built_it(wheel, tree):
    for path in tree.rglob("*"):
        assert not path.is_file() or str(ROOT).encode() not in path.read_bytes(), path


@pytest.fixture
def stage(wheel, tmp_path):
    """Give a folder with the wheel, NumPy's, pip's, and the program that installs them."""
    wheels = tmp_path / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
    command += ["--python-version", version_of(wheel), "--implementation=cp", "--dest", wheels]
    subprocess.run(
        [*command, "--disable-pip-version-check", "pip", wheel], check=True, timeout=LIMIT_S
    )
    shutil.copy2(Path(__file__).with_name("smoke.py"), tmp_path)
    return tmp_path


@each_wheel
def test_both_providers_answer_where_nothing_else_is(wheel, stage):
    interpreter = INTERPRETERS[version_of(wheel)]

    done = subprocess.run(
        in_namespaces(*(in_root if interpreter.root else beside_the_host)(interpreter, stage)),
        env={"PATH": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["file"].startswith("/mnt/site" if interpreter.root else str(stage))
    assert found["compilers"] == []
    assert not found["network"]
    assert found["sum"] == 7 << 16
    status, said = found["verbs"]
    assert status == "DEVICE_NOT_READY"
    assert "the library of RDMA devices cannot be loaded" in said
    assert "apt-get install libibverbs1" in said
    assert found["info"] == [0, ""]


def in_namespaces(mounts, command):
    """Run a command without a network, after mounts that it alone sees."""
    path = f"PATH={os.environ['PATH']}:/usr/sbin:/sbin"
    script = " && ".join([f"export {path}", *mounts, f"exec {command}"])
    return [shutil.which("unshare"), "--map-root-user", "--net", "--mount", "/bin/sh", "-c", script]


def in_root(interpreter, stage):
    """Run it where the interpreter's root is all there is."""
    root = interpreter.root
    for name in ("mnt", "proc", "dev", "tmp"):
        (root / name).mkdir(exist_ok=True)
    mounts = [f"mount --bind {stage} {root}/mnt"]
    mounts += [f"mount --rbind /{name} {root}/{name}" for name in ("proc", "dev")]
    python = f"/usr/bin/python{interpreter.version}"
    chroot = "env -i PATH=/usr/bin $(command -v chroot)"
    return mounts, f"{chroot} {root} {python} -I /mnt/smoke.py /mnt/wheels"


def beside_the_host(interpreter, stage):
    """Run it on the host, which loses rdma-core's libraries and its commands."""
    folders = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/usr/lib64"]
    names = ("libibverbs.so.1", "librdmacm.so.1")
    there = {(Path(folder) / name).resolve() for folder in folders for name in names}
    mounts = [f"mount --bind /dev/null {path}" for path in there if path.exists()]
    python, smoke = interpreter.python, stage / "smoke.py"
    return mounts, f"env -i PATH=/nowhere {python} -I {smoke} {stage / 'wheels'}"
