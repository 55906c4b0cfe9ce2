"""Build steps that pyproject.toml cannot state: the Cython modules and the simulated device libraries."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
SIMULATED = "ext/flyball_simgpu"


def extensions() -> list[Extension]:
    """Return one extension for every compiled twin `_<subject>_c.pyx` under ext/."""
    found = []
    for source in sorted((ROOT / "ext").glob("*/_*_c.pyx")):
        relative = source.relative_to(ROOT)
        found.append(
            Extension(
                f"{relative.parent.name}.{relative.stem}",
                [str(relative)],
                extra_compile_args=["-O2", "-fvisibility=hidden", "-Wno-unused-function"],
                libraries=["dl", "pthread", "rt"],
            )
        )
    return found


class BuildWithSimulators(build_ext):
    """Compile the extensions, then the simulated libraries that stand behind the vendors' own names."""

    def run(self) -> None:
        """Build everything; a missing C compiler is reported by the compiler step itself."""
        super().run()
        compiler = sysconfig.get_config_var("CC").split()[0]
        subprocess.run(["make", "-s", "-C", str(ROOT / SIMULATED), f"CC={compiler}"], check=True)
        if not self.inplace:
            target = Path(self.build_lib, "flyball_simgpu", "lib")
            shutil.copytree(ROOT / SIMULATED / "lib", target, dirs_exist_ok=True)


setup(
    ext_modules=cythonize(extensions(), language_level=3, build_dir="build/cython"),
    cmdclass={"build_ext": BuildWithSimulators},
)
