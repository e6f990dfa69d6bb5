"""The build hook of the compiled wheel.

It is off by default, so that every usual build is pure Python. `make wheel` turns it on with
`HATCH_BUILD_HOOK_ENABLE_CUSTOM=true`. The hook then compiles the modules below with mypyc, and
adds the result to the wheel. The sources stay in the wheel too, and nothing is written into the
checkout.
"""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPILED = "signedwire/wire/*.py"
"""The modules that are compiled, as a pattern below `src/`. delivery/ is not among them: its
bound methods are kept by weak references, which compiled methods do not have, and tests replace
its methods and derive from its classes."""

LEFT_OUT = {
    "signedwire/wire/__init__.py": "it has no code",
    "signedwire/wire/envelope.py": "a compiled function refuses wrong types with texts of its own",
    "signedwire/wire/large.py": "a compiled class cannot derive from a pure one, here of envelope",
}
"""The modules among them that stay pure Python, with the reason."""


class CompileHook(BuildHookInterface[Any]):
    """Compiles modules for the wheel; editable installs stay pure."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, mark the wheel as one for this platform, and add the libraries."""
        if version == "editable":
            return
        self._place = tempfile.TemporaryDirectory()
        libraries = Path(self._place.name, "lib")
        with contextlib.chdir(Path(self.root, "src")):
            compile_modules(Path(self._place.name))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for library in libraries.rglob("*"):
            if library.is_file():
                build_data["force_include"][str(library)] = str(library.relative_to(libraries))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the files of the compiler."""
        if version != "editable":
            self._place.cleanup()


def modules() -> list[str]:
    """Return the paths of the compiled modules, below the current directory `src/`."""
    found = (path.as_posix() for path in sorted(Path().glob(COMPILED)))
    return [path for path in found if path not in LEFT_OUT]


def compile_modules(place: Path) -> None:
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
        [*options, *modules()],
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
