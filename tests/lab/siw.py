# SPDX-License-Identifier: Apache-2.0
"""Builds siw out of tree, because Debian's kernel comes without it: one module per variant."""

import re
import shutil
import tempfile
from pathlib import Path

from lab import debian, host, image, recipe

_FOLDER = "drivers/infiniband/sw/siw"


def modules(release):
    """Return the folder with siw-<variant>.ko; build it when needed."""
    facts = {"kernel": image.kernel(release), "variants": recipe.SIW_VARIANTS}
    return image.layer(release, "siw", facts, lambda folder: _build(folder, release))


def _build(folder, release):
    root = image.build_root(release)
    headers = f"/usr/src/linux-headers-{image.kernel(release)}"
    (archive,) = (root / "usr" / "src").glob("linux-source-*.tar.xz")
    with tempfile.TemporaryDirectory(prefix="ndverbs-lab-siw-") as name:
        tree = f"{archive.name.removesuffix('.tar.xz')}/{_FOLDER}"
        unpack = [
            "tar",
            "-x",
            "--no-same-owner",
            "-f",
            f"/usr/src/{archive.name}",
            "-C",
            name,
            tree,
        ]
        debian.run(root, unpack, shown=[name])
        source = Path(name) / tree
        main = (source / "siw_main.c").read_text()
        for variant, constants in recipe.SIW_VARIANTS.items():
            (source / "siw_main.c").write_text(_with_constants(main, constants))
            debian.run(
                root,
                ["make", "-C", headers, f"M={source}", "CONFIG_RDMA_SIW=m", "modules"],
                shown=[name],
                log=folder / f"make-{variant}.log",
            )
            shutil.copyfile(source / "siw.ko", folder / f"siw-{variant}.ko")


def _with_constants(text, names):
    """Set constants of siw_main.c to true that it leaves false."""
    for name in names:
        text, count = re.subn(
            rf"^const bool {name};$", f"const bool {name} = true;", text, flags=re.M
        )
        if count != 1:
            raise host.LabError(f"siw_main.c has no line 'const bool {name};': adapt lab/siw.py")
    return text
