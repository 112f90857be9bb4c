"""Build step that installs a ``.pth`` file, by which stock nnU-Net finds our trainers."""

from __future__ import annotations

from pathlib import Path

from setuptools.command.build_py import build_py


class BuildWithDiscovery(build_py):
    """Build command that also puts ``nnunet_anatomix.pth`` at the root of the wheel.

    Python reads ``.pth`` files only in site-packages, and setuptools places package data inside a
    package. Editable wheels are supported too.
    """

    def run(self) -> None:
        super().run()
        # An editable wheel ignores build_lib and packs the folder that "install" points to.
        root = self.get_finalized_command("install").install_purelib if self.editable_mode else self.build_lib
        self.mkpath(root)
        self.copy_file(str(Path(__file__).with_name("nnunet_anatomix.pth")), root)
