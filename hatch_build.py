"""The build hook of the compiled wheel.

It is off by default, so that every usual build is pure Python. `make wheel` turns it on with
`HATCH_BUILD_HOOK_ENABLE_CUSTOM=true`. The hook then compiles with mypyc the modules that
pyproject.toml names, and adds the result to the wheel. The sources stay in the wheel too, and
nothing is written into the checkout.
"""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileHook(BuildHookInterface[Any]):
    """Compiles modules for the wheel; editable installs stay pure."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, mark the wheel as one for this platform, and add the libraries."""
        if version == "editable":
            return
        self._place = tempfile.TemporaryDirectory()
        libraries = Path(self._place.name, "lib")
        with contextlib.chdir(Path(self.root, "src")):
            found = modules(self.config["compiled"], self.config["pure"])
            compile_modules(found, Path(self._place.name))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for library in libraries.rglob("*"):
            if library.is_file():
                build_data["force_include"][str(library)] = str(library.relative_to(libraries))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the files of the compiler."""
        if version != "editable":
            self._place.cleanup()


def modules(compiled: list[str], pure: list[str]) -> list[str]:
    """Return the paths of the compiled modules, below the current directory `src/`."""
    package = Path("signedwire")
    found = {path for pattern in compiled for path in package.glob(pattern)}
    return sorted(str(path) for path in found - {package / path for path in pure})


def compile_modules(paths: list[str], place: Path) -> None:
    """Compile the modules into `place / "lib"`.

    Types are checked by `make check`, so here mypy needs neither the dependencies nor its
    configuration.
    """
    from mypyc.build import mypycify  # build requirements of this wheel alone
    from setuptools import Distribution

    options = [
        "--config-file=",
        "--ignore-missing-imports",
        "--follow-imports=silent",
        f"--cache-dir={place / 'cache'}",
    ]
    extensions = mypycify(
        [*options, *paths],
        target_dir=str(place / "c"),
        group_name="signedwire",
        debug_level="0",
    )
    build = Distribution({"name": "signedwire", "ext_modules": extensions}).get_command_obj(
        "build_ext"
    )
    build.build_lib = str(place / "lib")
    build.build_temp = str(place / "tmp")
    build.ensure_finalized()
    build.run()
