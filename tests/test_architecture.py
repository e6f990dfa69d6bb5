"""The house as `ROOMS` draws it: who imports whom, how large a room is, what is documented."""

from __future__ import annotations

import ast
import builtins
import doctest
import functools
import importlib
import inspect
import itertools
import pkgutil
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

import signedwire

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "signedwire"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if not path.name.endswith("_pb2.py"))
INDEXES = [path for path in MODULES if path.name == "__init__.py"]
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")})

# What each room may import of ours, beside itself.
ROOMS: dict[str, set[str]] = {
    "states": set(),
    "base_errors": {"states"},
    "errors": {"states", "base_errors", "types"},
    "clock": set(),
    "environment": {"errors"},
    "types": {"states", "base_errors", "clock"},
    "home": {"errors", "clock"},
    "folders": set(),
    "streams": set(),
    "resources": {"errors"},
    "portal": {"errors", "streams", "resources"},
    "payloads": {"errors", "types"},
    "keytexts": {"errors"},
    "keyformats": {"errors", "keytexts"},
    "files": {"clock"},
    "keyfiles": {"errors", "files", "folders", "keyformats", "logs"},
    "identity": {"errors", "types", "environment", "files", "keyformats", "keyfiles"},
    "options": {"errors", "types", "arguments", "environment", "names", "roles"},
    "names": {"errors", "types", "arguments"},
    "roles": {"errors", "types", "arguments", "names"},
    "subject_options": {"errors", "types", "arguments", "options"},
    "config": {
        *("errors", "types", "arguments", "contradictions", "config_changes", "options", "names"),
        *("roles", "subject_options"),
    },
    "metrics": set(),
    "stats": {"errors", "types", "metrics", "names"},
    "events": {"errors", "types", "home"},
    "settings": {
        *("errors", "types", "config", "keyformats", "arguments", "environment", "options"),
        "files",
    },
    "option_texts": {"errors", "types", "config", "options", "settings", "names"},
    "keysources": {
        *("errors", "clock", "home", "environment", "identity", "keyfiles", "settings", "logs"),
        *("files", "folders"),
    },
    "arguments": {"errors", "states", "clock", "types"},
    "contradictions": {"errors", "types", "arguments", "environment", "wire"},
    "config_changes": {"types", "subject_options"},
    "routing": {"errors", "types", "settings", "arguments", "environment", "options", "names"},
    "wire": {"errors", "types", "identity"},
    "logs": {"clock"},
    "delivery": {
        *("errors", "clock", "types", "home", "identity", "config", "stats", "wire", "logs"),
        *("arguments", "resources", "files", "folders", "events", "states", "names"),
    },
    "evidence": {
        *("errors", "clock", "types", "identity", "stats", "wire", "delivery", "logs", "files"),
        "folders",
    },
    "transport": {
        *("errors", "types", "identity", "config", "routing", "stats", "events", "portal"),
        *("clock", "wire", "delivery", "evidence", "home", "arguments", "logs", "files"),
    },
    "outbox": {
        *("errors", "types", "identity", "config", "wire", "delivery", "transport"),
        *("arguments", "environment", "folders", "home"),
    },
    "sending": {
        *("errors", "clock", "types", "arguments", "subject_options", "delivery", "transport"),
    },
    "messaging": {
        *("errors", "clock", "types", "arguments", "home", "logs", "wire", "delivery"),
        *("transport", "sending", "identity"),
    },
    "node_life": {
        *("errors", "types", "identity", "config", "routing", "contradictions", "home"),
        *("delivery", "transport", "outbox", "sending", "messaging"),
    },
    "node_state": {
        *("errors", "types", "stats", "events", "arguments", "environment", "metrics"),
        *("delivery", "evidence", "transport", "outbox", "node_life"),
    },
    "node": {"errors", "types", "arguments", "home", "delivery", "messaging", "node_state"},
    "fleet_handlers": {
        *("errors", "types", "home", "logs", "delivery", "messaging", "names", "node"),
    },
    "fleet_peers": {
        *("errors", "types", "arguments", "home", "logs", "delivery"),
        *("messaging", "names", "node", "fleet_handlers"),
    },
    "fleet": {
        *("errors", "types", "arguments", "identity", "config", "routing", "settings", "home"),
        *("keysources", "roles", "delivery", "transport", "messaging", "names", "node", "logs"),
        *("fleet_handlers", "fleet_peers", "subject_options"),
    },
    "sync_parts": {
        *("errors", "types", "home", "portal", "delivery", "messaging", "outbox", "arguments"),
    },
    "sync": {
        "sync_parts",
        *("errors", "types", "identity", "config", "settings", "routing", "stats", "events"),
        *("portal", "home", "wire", "delivery", "transport", "outbox", "arguments", "node"),
        *("metrics", "messaging"),
    },
}
# These stand on the roof: they may import everything, and nothing below imports them.
ROOF = {"__init__", "__main__", "cli", "bench"}

# Sans-I/O: bytes and instants are arguments there.
FORBIDDEN_IN_WIRE = {
    *("asyncio", "socket", "ssl", "selectors", "select", "sqlite3", "threading", "_thread"),
    *("concurrent", "multiprocessing", "subprocess", "signal", "time", "datetime"),
    *("random", "secrets", "uuid", "os", "io", "pathlib", "logging"),
}


# The decisions of delivery: they know the outside by `ports` alone. Above: what imports what
# is below it. Those of one line know nothing of each other.
DECISIONS = (
    ("endpoint", "removed_rows", "subscribers", "subscriptions"),
    ("submitter",),
    ("session_map",),
    ("peer_session",),
    ("peer_sender", "peer_receiver"),
    ("answer_queue",),
    ("recv_window", "session_context"),
    ("denials", "inbox_budget", "message_restorer", "null_store"),
    ("ports",),
    ("backlog_cursor", "commit_window", "dial_history", "send_progress", "stranger_room"),
)
FORBIDDEN_IN_DECISIONS = {
    *("asyncio", "ssl", "socket", "sqlite3", "threading", "logging", "time"),
    *("selectors", "select", "_thread", "concurrent", "multiprocessing", "random", "os"),
}

# Types that have no docstring at run time.
ALIASES = {
    *("BytesLike", "Deadline", "PayloadTypeName", "PriorityName", "SilenceCallback", "Target"),
    "Until",
}


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Full names that are imported when the code runs, wherever it does, with their lines."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import at line {node.lineno}"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        else:
            yield from imports_of(node)


def imported_rooms(path: Path) -> Iterator[tuple[str, int]]:
    for full_name, line in imports_of(parse(path)):
        package, *rest = full_name.split(".")
        if package == "signedwire":
            # `from signedwire import Did` takes it from the roof.
            known = rest and (rest[0] in ROOMS or rest[0] in ROOF)
            yield rest[0] if known else "__init__", line


def module_of(path: Path) -> str:
    """Its name within the package: `wire.frames`; a folder is `wire`, ours `__init__`."""
    name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    return name.removesuffix(".__init__")


def read_by(tree: ast.AST, modules: set[str]) -> set[str]:
    """Which of these modules of ours are named in imports, those for types included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, ours = name.partition(".")
            if package == "signedwire":
                owner = ours.rpartition(".")[0] or "__init__"
                found.add(ours if ours in modules else owner)
    return found & modules


@functools.cache
def graph_of_files() -> dict[str, set[str]]:
    """Who reads whom, file by file."""
    paths = {module_of(path): path for path in SOURCE.rglob("*.py")}
    modules = set(paths)
    return {name: read_by(parse(path), modules) - {name} for name, path in paths.items()}


def circles_in(graph: dict[str, set[str]]) -> list[set[str]]:
    """The largest sets of files in which each reaches each other."""
    below: dict[str, set[str]] = {}
    for name in graph:
        reached: set[str] = set()
        todo = [name]
        while todo:
            new = graph.get(todo.pop(), set()) - reached
            reached |= new
            todo += new
        below[name] = reached
    found = {
        frozenset(other for other in below[name] if name in below.get(other, set()))
        for name in graph
        if name in below[name]
    }
    return [set(one) for one in found]


# Offsets and sizes of an envelope's header that mean nothing else in the code.
_HEADER_NUMBERS = {104, 105, 106, 114, *range(122, 127), 170}
_HEADER_SLICES = {"8:24", "32:64", "64:96", "32:96"}
_HEADER_OFFSETS = {8, 24, 96}
_HEADER_FORMAT = re.compile(r"16[sx]Q|32s32s|64sQ|64s8x")


def header_layout_in(tree: ast.AST) -> list[str]:
    """Numbers, slices and struct formats in a module that repeat the layout of the header."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            if node.value in _HEADER_NUMBERS:
                found.append(f"line {node.lineno}: {node.value}")
        elif isinstance(node, ast.Subscript) and ast.unparse(node.slice) in _HEADER_SLICES:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.Call):
            values = [*node.args, *(each.value for each in node.keywords)]
            constants = {each.value for each in values if isinstance(each, ast.Constant)}
            function = ast.unparse(node.func)
            is_slice = function == "slice" and ":".join(map(ast.unparse, values)) in _HEADER_SLICES
            is_field = "unpack_from" in function and constants & _HEADER_OFFSETS
            is_format = function.rpartition(".")[2] in {"Struct", "pack", "unpack", "unpack_from"}
            formats = [each for each in constants if isinstance(each, str)]
            if is_slice or is_field or (is_format and any(map(_HEADER_FORMAT.search, formats))):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def each_module(test: Callable[..., None]) -> Any:
    return pytest.mark.parametrize("path", MODULES, ids=name_of)(test)


class TestArrows:
    @each_module
    def test_every_room_is_on_the_plan(self, path: Path) -> None:
        assert room_of(path) in {*ROOMS, *ROOF}, (
            f"{name_of(path)} is in no room: say in ROOMS what it may import"
        )

    @each_module
    def test_imports_go_one_way(self, path: Path) -> None:
        room = room_of(path)
        if room in ROOF:
            return
        wrong = {
            f"line {line}: {other}"
            for other, line in imported_rooms(path)
            if other != room and other not in ROOMS[room]
        }
        assert not wrong, f"{room} may import {sorted(ROOMS[room])}"

    def test_the_plan_has_no_circle(self) -> None:
        done: set[str] = set()
        while len(done) < len(ROOMS):
            ready = {room for room, below in ROOMS.items() if below <= done} - done
            assert ready, f"a circle among {sorted(set(ROOMS) - done)}"
            done |= ready

    @pytest.mark.parametrize(
        "path",
        [p for p in MODULES if room_of(p) == "wire" or name_of(p) == "evidence/chain.py"],
        ids=name_of,
    )
    def test_wire_does_no_io(self, path: Path) -> None:
        packages = {name.partition(".")[0] for name, _ in imports_of(parse(path))}
        assert not packages & FORBIDDEN_IN_WIRE

    @each_module
    def test_one_place_signs_and_verifies(self, path: Path) -> None:
        packages = {name.partition(".")[0] for name, _ in imports_of(parse(path))}
        allowed = {
            "identity": {"nacl", "cryptography"},
            "keyformats": {"cryptography"},
            "types": {"nacl"},
        }
        found = packages & {"nacl", "cryptography", "hmac"}
        if name_of(path) in {"transport/tls.py", "transport/certificates.py"}:
            found.discard("cryptography")  # X.509 alone; what a DID signs comes from identity
        assert found <= allowed.get(room_of(path), set())

    @each_module
    def test_one_module_knows_the_header(self, path: Path) -> None:
        """A field of an envelope is read by its name."""
        if name_of(path) == "wire/header.py":
            return
        found = header_layout_in(parse(path))
        if name_of(path) == "transport/tcp_stream.py":
            found = [each for each in found if "104" not in each]  # the size of Linux's tcp_info
        assert not found

    @pytest.mark.parametrize(
        "code",
        [
            "body[8:24]",
            "body[32:96]",
            "body[104]",
            "SENDER = slice(32, 64)",
            "body[at + 105 :]",
            "struct.unpack_from('<Q', body, 24)",
            "U64.unpack_from(body, offset=96)",
            "LEAST = 106 + 64",
            "OVERHEAD = 170",
            "len(body) - 126",
            "body[: SIZE - 114]",
            "HEADER = Struct('<II16sQ32s32sQBB')",
            "PARTIES = struct.Struct('<32x64s8x')",
        ],
    )
    def test_the_layout_of_the_header_is_recognized(self, code: str) -> None:
        assert len(header_layout_in(ast.parse(code))) == 1

    def test_other_numbers_are_not(self) -> None:
        code = "a[32:], a[:64], U16.unpack_from(a, 4), Struct('<32sQ64s'), 1024 * 24"
        assert header_layout_in(ast.parse(code)) == []

    def test_the_header_itself_is_recognized(self) -> None:
        found = header_layout_in(parse(SOURCE / "wire" / "header.py"))
        assert len(found) > 10

    @each_module
    def test_one_module_reads_the_clocks(self, path: Path) -> None:
        """Whoever replaces the clocks there has replaced them all."""
        if room_of(path) not in {*ROOF, "clock"}:
            tree = parse(path)
            assert "time" not in {name.partition(".")[0] for name, _ in imports_of(tree)}
            calls = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            assert not calls & {"utcnow", "today", "time_ns", "clock_gettime", "perf_counter"}

    def test_the_check_sees_what_it_should(self) -> None:
        code = (
            "from __future__ import annotations\n"
            "import os.path\n"
            "if TYPE_CHECKING:\n    from signedwire.node import Node\n"
            "if typing.TYPE_CHECKING:\n    import signedwire.cli\n"
            "def f():\n    from signedwire.node import Node\n"
            "try:\n    import socket\nexcept ImportError:\n    pass\n"
        )
        assert [name for name, _ in imports_of(ast.parse(code))] == [
            "__future__.annotations",
            "os.path",
            "signedwire.node.Node",
            "socket",
        ]


class TestFiles:
    """Arrows between files, where those between rooms say too little."""

    def test_no_circle(self) -> None:
        """Imports for types alone count too."""
        graph = graph_of_files()
        assert len(graph) > 100
        assert circles_in(graph) == []

    def test_delivery_knows_nothing_of_transport(self) -> None:
        wrong = {
            name: others
            for name, others in graph_of_files().items()
            if name.partition(".")[0] == "delivery"
            and any(one.partition(".")[0] == "transport" for one in others)
        }
        assert not wrong

    def test_decisions_stand_one_above_the_other(self) -> None:
        graph = graph_of_files()
        rank = {f"delivery.{name}": at for at, line in enumerate(DECISIONS) for name in line}
        for name, at in rank.items():
            wrong = {one for one in graph[name] if rank.get(one, at + 1) <= at}
            assert not wrong, f"{name} stands above, or beside, {sorted(wrong)}"
        # Each is used by what is above it: else the order would say nothing.
        used = [("endpoint", "submitter"), ("submitter", "session_map")]
        used += [("session_map", "peer_session")]
        used += [("peer_session", half) for half in DECISIONS[4]]
        used += [("peer_receiver", "answer_queue"), ("answer_queue", "recv_window")]
        used += [(half, "session_context") for half in DECISIONS[4]] + [("null_store", "ports")]
        for upper, lower in used:
            assert f"delivery.{lower}" in graph[f"delivery.{upper}"]

    @pytest.mark.parametrize("name", [name for line in DECISIONS for name in line])
    def test_decisions_do_no_io(self, name: str) -> None:
        tree = parse(SOURCE / "delivery" / f"{name}.py")
        packages = {
            full.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for full in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
        }
        assert not packages & FORBIDDEN_IN_DECISIONS

    def test_the_checks_see_what_they_should(self) -> None:
        code = (
            "from __future__ import annotations\n"
            "import signedwire.wire.frames\n"
            "if TYPE_CHECKING:\n    from signedwire.node import Node\n"
            "from signedwire import clock, Did\n"
            "from signedwire.wire import Session, batch\n"
            "def f():\n    import signedwire.types as types, os\n"
        )
        modules = {*("wire", "wire.frames", "wire.batch", "node", "clock", "types", "__init__")}
        assert read_by(ast.parse(code), modules) == modules
        graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
        assert sorted(map(sorted, circles_in(graph))) == [["b", "c"], ["d", "e"]]


class TestSize:
    @each_module
    def test_no_module_over_600_lines(self, path: Path) -> None:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 600

    @each_module
    def test_no_function_over_60_lines(self, path: Path) -> None:
        for node in ast.walk(parse(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if ast.get_docstring(node) is not None:
                    docstring = node.body[0]
                    lines -= (docstring.end_lineno or 0) - docstring.lineno + 1
                assert lines <= 60, f"{node.name}, line {node.lineno}"


class TestDocstrings:
    @each_module
    def test_every_module_says_what_it_is(self, path: Path) -> None:
        assert ast.get_docstring(parse(path))

    @pytest.mark.parametrize("name", sorted(set(signedwire.__all__) - {"__version__"}))
    def test_every_public_name_and_its_methods(self, name: str) -> None:
        value = getattr(signedwire, name)
        if name in ALIASES:
            pytest.skip("has its text in the source: see the next test")
        # Its own, not one inherited.
        assert vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
        if inspect.isclass(value):
            for method, member in vars(value).items():
                is_method = isinstance(member, (property, classmethod, staticmethod))
                if (is_method or inspect.isfunction(member)) and not method.startswith("_"):
                    assert inspect.getdoc(member), f"{name}.{method}"

    @pytest.mark.parametrize("path", INDEXES, ids=name_of)
    def test_an_index_names_each_module_of_its_folder(self, path: Path) -> None:
        index = ast.get_docstring(parse(path)) or ""
        modules = {one.stem for one in MODULES if one.parent == path.parent}
        packages = {one.parent.name for one in INDEXES if one.parent.parent == path.parent}
        named = {span.partition(".")[0] for span in _SPAN.findall(index)}
        assert not (modules | packages) - {"__init__", "__main__"} - named
        listed = re.findall(r"^- `([a-z]\w*)", index, re.MULTILINE)
        assert not set(listed) - modules - packages

    def test_every_alias_has_a_text_below_it(self) -> None:
        files = ("arguments.py", "states.py", "types.py", "messaging/silence.py")
        body = [node for name in files for node in parse(SOURCE / name).body]
        texts = {
            node.target.id
            for node, below in itertools.pairwise(body)
            if isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        }
        assert texts >= ALIASES

    def test_no_public_name_twice(self) -> None:
        assert len(set(signedwire.__all__)) == len(signedwire.__all__)


# --- Names in the documentation ---------------------------------------------------------
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_DOTTED = re.compile(r"([A-Za-z_]\w*)\.([A-Za-z_]\w*)(?:$|[(.\[ =])")
_PATH = re.compile(r"[a-z0-9_]+(?:/[a-z0-9_]+)+\.py")
_CLASS = re.compile(
    r"[A-Z]\w*(?:Error|Timeout|Config|Stats|Status|Transport|Network|Table|Envelope|Policy)"
)
# What a variable of this name is in the documentation.
_INSTANCES: dict[str, tuple[type, ...]] = {
    "node": (signedwire.Node,),
    "receipt": (signedwire.Receipt,),
    "message": (signedwire.Message,),
    "envelope": (signedwire.SignedEnvelope,),
    "routing": (signedwire.RoutingTable,),
    "transport": (signedwire.TcpTransport, signedwire.MemoryTransport),
}


def submodule(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"signedwire.{name}")
    except ModuleNotFoundError:
        return None


def has_name(owner: Any, name: str) -> bool:
    fields = getattr(owner, "__dataclass_fields__", {})
    if hasattr(owner, name) or name in fields or name in getattr(owner, "__annotations__", {}):
        return True
    package = getattr(owner, "__name__", "")
    return isinstance(owner, ModuleType) and submodule(f"{package}.{name}"[11:]) is not None


def complaint(span: str) -> str | None:
    """Why the code span cannot be ours although it looks so; `None` where nothing is wrong."""
    if _PATH.fullmatch(span):
        places = (ROOT, SOURCE, ROOT / "src", ROOT / "tests")
        return (
            None if any((place / span).is_file() for place in places) else "there is no such file"
        )
    dotted = _DOTTED.match(span)
    if dotted:
        first, second = dotted.groups()
        if first == "signedwire":
            owners: list[Any] = [signedwire]
        elif first in signedwire.__all__:
            owners = [getattr(signedwire, first)]
        else:
            owners = [*_INSTANCES.get(first, ()), submodule(first)]
        owners = [owner for owner in owners if owner is not None]
        if owners and not any(has_name(owner, second) for owner in owners):
            return f"{first} has no {second}"
        return None
    bare = span.partition("(")[0]
    if _CLASS.fullmatch(bare) and not hasattr(signedwire, bare) and not hasattr(builtins, bare):
        modules = (info.name for info in pkgutil.iter_modules(signedwire.__path__))
        if not any(hasattr(submodule(name), bare) for name in modules):
            return f"signedwire has no {bare}"
    return None


def code_of(block: str) -> str:
    """The statements of a block, also where it is a session with a prompt."""
    if ">>>" in block:
        return "".join(example.source for example in doctest.DocTestParser().get_examples(block))
    return block


def check_code(code: str, where: str) -> None:
    """Compile it, import what it imports of ours, and look up what it takes from that."""
    tree = compile(
        code, where, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
    )
    ours: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "signedwire":
                    module = importlib.import_module(alias.name)
                    ours[alias.asname or "signedwire"] = module if alias.asname else signedwire
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("signedwire"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert has_name(module, alias.name), f"{where}: {node.module} has no {alias.name}"
                found = getattr(module, alias.name, None)
                ours[alias.asname or alias.name] = found
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = ours.get(node.value.id)
            if owner is not None:
                assert has_name(owner, node.attr), f"{where}: {node.value.id} has no {node.attr}"
            kinds = _INSTANCES.get(node.value.id) if owner is None else None
            if kinds is not None:
                assert any(has_name(kind, node.attr) for kind in kinds), (
                    f"{where}: {node.value.id} has no {node.attr}"
                )


@pytest.mark.parametrize(("name", "broken"), [("pynacl", "1.6.1"), ("typer", "0.26.0")])
def test_a_dependency_that_does_not_work_is_not_installed(name: str, broken: str) -> None:
    """The comments in pyproject.toml say what fails with it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["cli"]]
    (wanted,) = [each for each in map(Requirement, texts) if each.name == name]
    assert broken not in wanted.specifier


class TestPages:
    @pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
    def test_names_in_code_font_exist(self, page: Path) -> None:
        prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
        wrong = {span: why for span in _SPAN.findall(prose) if (why := complaint(span))}
        assert not wrong

    def test_python_blocks_compile_and_their_names_exist(self) -> None:
        blocks = [
            (match[2], f"{page.name}, block at line {text.count(chr(10), 0, match.start()) + 1}")
            for page in PAGES
            for text in [page.read_text(encoding="utf-8")]
            for match in _FENCE.finditer(text)
            if match[1] in ("python", "py", "pycon")
        ]
        if not blocks:
            pytest.skip("README.md and docs/ have no Python block yet")
        for body, where in blocks:
            check_code(code_of(body), where)


class TestPageChecks:
    """The checks above find what they should."""

    @pytest.mark.parametrize(
        "span",
        [
            "signedwire.Node",
            "signedwire.wire.frames",
            "Node.send()",
            "node.send(…)",
            "receipt.state",
            "identity.verify_digest",
            "routing.update(did, address)",
            "wire/envelope.py",
            "BackpressureError",
            "TimeoutError",
            "PayloadError",
            "z.B",
            "127.0.0.1:9001",
            "TransportStats.dropped",
            "Receipt.detail",
        ],
    )
    def test_right(self, span: str) -> None:
        assert complaint(span) is None

    @pytest.mark.parametrize(
        "span",
        [
            "signedwire.Noode",
            "signedwire.wiring",
            "Node.shout()",
            "node.shout()",
            "receipt.status",
            "identity.sign_anything",
            "wire/envelop.py",
            "BackPressureError",
            "TransportStats.dropt",
        ],
    )
    def test_wrong(self, span: str) -> None:
        assert complaint(span) is not None

    @pytest.mark.parametrize(
        "code",
        [
            "from signedwire import Noode",
            "import signedwire\nsignedwire.shout()",
            "from signedwire import Identity\nIdentity.invent()",
            "await node.shout()",
        ],
    )
    def test_wrong_code(self, code: str) -> None:
        with pytest.raises(AssertionError, match="has no"):
            check_code(code, "here")

    def test_right_code(self) -> None:
        check_code("from signedwire import Node\nawait node.send(did, b'')\n", "here")
        check_code(code_of(">>> from signedwire import wire\n>>> 1 + 1\n2\n"), "here")
