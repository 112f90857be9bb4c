"""Build step: a ``.pth`` file in site-packages lets stock nnU-Net find our trainers after a plain ``pip install``."""

from __future__ import annotations

from pathlib import Path

from setuptools.command.build_py import build_py


class BuildWithDiscovery(build_py):
    """Puts ``nnunet_anatomix.pth`` at the wheel's root, in an editable wheel too.

    Python reads such files in site-packages only, and setuptools' package data ends up inside a
    package.
    """

    def run(self) -> None:
        super().run()
        # An editable wheel leaves build_lib out and packs the folder that "install" points to.
        root = self.get_finalized_command("install").install_purelib if self.editable_mode else self.build_lib
        self.mkpath(root)
        self.copy_file(str(Path(__file__).with_name("nnunet_anatomix.pth")), root)
