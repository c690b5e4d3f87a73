"""The rules of the house, read from the source: layers, length of files, who prints, what help costs."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from torch.utils.data import DataLoader

from streamgan.cli.main import streamgan

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "streamgan"
# What a package may import of streamgan, beside itself.
LAYERS = {
    "core": set(),
    "data": {"core"},
    "sharding": {"core", "data.format", "data.image"},
    "models": {"core"},
    "losses": {"core"},
    "metrics": {"core"},
    "inference": {"core", "data.image", "models"},
    "train": {"core", "data", "models", "losses", "metrics"},
    "compare": {"core", "data", "inference", "train"},
    "cli": {"core", "data", "sharding", "models", "losses", "metrics", "inference", "train", "compare"},
}
LAUNCHER_VARIABLES = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"}
LAUNCHER_VARIABLES |= {"ACCELERATE_USE_CPU", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT"}
LAUNCHER_VARIABLES |= {  # that these are as the settings have it
    "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG", "ACCELERATE_DYNAMO_BACKEND",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_MIXED_PRECISION",
}  # fmt: skip
MAX_LINES = 300
MAX_PARAMETERS = 8
# What users call, with every option by its name. Inside, what belongs together is one value.
FACES = {"data.loader.build_loader", "data.loader.build_eval_loader"}
FACES |= {
    "cli.bench.loader",
    "cli.bench_plan.plan",
    "cli.colorize.colorize",
    "cli.export.export",
    "cli.evaluate.evaluate",
}
FACES |= {"cli.shard.shard", "models.timm_unet.TimmUNet.__init__"}  # its options

MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "launch").glob("*.py"))
COMMANDS: dict[str, click.Command] = {}
for _name, _command in sorted(streamgan.commands.items()):
    if isinstance(_command, click.Group):  # `streamgan bench loader`
        COMMANDS |= {f"{_name} {inner}": command for inner, command in _command.commands.items()}
    else:
        COMMANDS[_name] = _command


@cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call in a file with the dotted name of what it calls."""
    return [(ast.unparse(node.func), node) for node in ast.walk(syntax(path)) if isinstance(node, ast.Call)]


@pytest.fixture(scope="module", autouse=True)
def source_is_read_once():
    yield
    for read in (syntax, calls, imports):
        read.cache_clear()


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Modules that a file imports, relative ones resolved; `top_level`: only those at import time."""
    tree = syntax(path)
    parents = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from streamgan.data import format` means the module data.format, `... import Batch` means data
            found |= {f"{module}.{a.name}" if is_module(f"{module}.{a.name}") else module for a in node.names}
    return found


def is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def own(modules: set[str]) -> set[str]:
    """The parts of streamgan among them, as `core.files`."""
    return {name.removeprefix("streamgan.") for name in modules if name.startswith("streamgan.")}


def allows(layer: set[str], module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in layer)


def test_every_package_stands_in_the_table_of_layers():
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert packages == set(LAYERS)


@pytest.mark.parametrize("package", LAYERS)
def test_layers_point_down_only(package):
    wrong = [
        f"{name_of(path)} imports streamgan.{module}"
        for path in (PACKAGE / package).rglob("*.py")
        for module in sorted(own(imports(path)))
        if not allows(LAYERS[package] | {package}, module)
    ]
    assert not wrong


def rooms_of(package: str) -> dict[str, set[str]]:
    """Which rooms of a package, folders and modules in it, each of them imports."""
    arrows: dict[str, set[str]] = {}
    for path in (PACKAGE / package).rglob("*.py"):
        room = path.relative_to(PACKAGE / package).with_suffix("").parts[0]
        inside = {name.split(".")[1] for name in own(imports(path)) if name.startswith(f"{package}.")}
        arrows.setdefault(room, set()).update(inside - {room})
    return arrows


@pytest.mark.parametrize("package", LAYERS)
def test_rooms_of_a_package_form_no_circle(package):
    arrows = rooms_of(package)
    while arrows:  # a room that imports none of those left can be read first
        free = {room for room, others in arrows.items() if not others & set(arrows)}
        assert free, f"a circle among {package}.{{{','.join(sorted(arrows))}}}"
        arrows = {room: others for room, others in arrows.items() if room not in free}


@pytest.mark.parametrize("package", LAYERS)
def test_files_of_a_room_form_no_circle(package):
    for folder in [
        path for path in (PACKAGE / package).iterdir() if path.is_dir() and list(path.glob("*.py"))
    ]:
        name = f"{package}.{folder.name}"
        arrows = {
            path.stem: {m.removeprefix(f"{name}.") for m in own(imports(path)) if m.startswith(f"{name}.")}
            for path in folder.glob("*.py")
        }
        while arrows:
            free = {file for file, others in arrows.items() if not others & set(arrows)}
            assert free, f"a circle among {name}.{{{','.join(sorted(arrows))}}}"
            arrows = {file: others for file, others in arrows.items() if file not in free}


def test_commands_import_more_than_core_only_when_they_run():
    for path in (PACKAGE / "cli").rglob("*.py"):
        for module in own(imports(path, top_level=True)):
            assert module.split(".")[0] in ("core", "cli"), f"{name_of(path)}: {module}"


def test_scripts_of_the_launcher_only_call_the_command():
    assert SCRIPTS
    for path in SCRIPTS:
        assert own(imports(path)) == {"cli.train"}, name_of(path)


@pytest.mark.parametrize("package", ["data", "models", "losses", "metrics", "inference"])
def test_only_wiring_knows_the_configuration(package):
    for path in (PACKAGE / package).rglob("*.py"):
        assert not any(
            module.startswith(("core.config", "core.settings")) for module in own(imports(path))
        ), name_of(path)


def test_no_file_is_longer_than_a_person_reads_at_once():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    assert not {name: length for name, length in lengths.items() if length > MAX_LINES}


def functions(tree: ast.AST, name: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function and method below a node, with the dotted name of where it stands."""
    for node in ast.iter_child_nodes(tree):
        inside = name
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            inside = f"{name}.{node.name}"
        if isinstance(node, ast.FunctionDef):
            yield inside, node
        yield from functions(node, inside)


def test_no_function_takes_more_parameters_than_a_person_keeps_in_mind():
    long = {}
    for path in MODULES:
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for name, function in functions(syntax(path), module):
            taken = function.args
            every = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, taken.vararg, taken.kwarg]
            names = [one.arg for one in every if one is not None and one.arg not in ("self", "cls")]
            if len(names) > MAX_PARAMETERS:
                long[name] = len(names)
    assert {name: count for name, count in long.items() if name not in FACES} == {}
    assert set(long) >= FACES  # none of these is an exception for nothing


def test_every_module_says_what_it_is_for():
    assert [name_of(path) for path in MODULES if not ast.get_docstring(syntax(path))] == []


def test_nothing_outside_the_commands_prints():
    guilty = []
    for path in MODULES:
        if PACKAGE / "cli" in path.parents:
            continue
        called = [call for name, call in calls(path) if name in ("print", "click.echo")]
        attributes = (node for node in ast.walk(syntax(path)) if isinstance(node, ast.Attribute))
        stdout = [node for node in attributes if node.attr == "stdout" and ast.unparse(node) == "sys.stdout"]
        guilty += [f"{name_of(path)}:{node.lineno}" for node in (*called, *stdout)]
    assert not guilty


def test_no_environment_variable_is_read_but_the_launchers_own():
    """And those of object stores, which say who may read what."""
    read = set()
    for path in set(MODULES) - {PACKAGE / "core" / "storage" / "providers.py"}:
        # os.environ["X"], os.environ.get("X"), os.getenv("X"); anything else has no name to show
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
                read.add(ast.unparse(node.slice).strip("'"))
        for name, call in calls(path):
            if name in ("os.environ.get", "os.getenv"):
                read.add(ast.unparse(call.args[0]).strip("'"))
    assert read <= LAUNCHER_VARIABLES


def test_whoever_says_where_shards_are_says_which_cache_they_go_through():
    faces, sources = {"build_loader", "build_eval_loader"}, []
    for path in MODULES:
        for dotted, call in calls(path):
            name = dotted.rpartition(".")[2]
            assert name not in faces, f"{name_of(path)} calls {name}, which has a cache of its own"
            if name == "Source":
                sources.append((name_of(path), len(call.args) + len(call.keywords)))
    assert {count for _, count in sources} == {3}
    assert {path for path, _ in sources} >= {"streamgan/train/build.py", "streamgan/cli/evaluate.py"}


def test_one_function_alone_counts_the_cores():
    counting = {"os.cpu_count", "os.sched_getaffinity", "multiprocessing.cpu_count"}
    asking = {
        name_of(path)
        for path in [*MODULES, *(ROOT / "benchmarks").rglob("*.py")]
        for name, _ in calls(path)
        if name in counting
    }
    assert asking == {"streamgan/core/machine.py"}


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("obstore", {"client.py", "download.py", "providers.py", "store.py"}),
        ("fcntl", {"locks.py"}),
        ("email.utils", {"retry.py"}),
    ],
)
def test_what_one_module_does_for_all_is_imported_there_alone(library, homes):
    """Clients of object stores, locks, pauses that a server asks for."""
    found = {path for path in MODULES if any(f"{name}.".startswith(f"{library}.") for name in imports(path))}
    assert {path.name for path in found} == homes
    assert {path.parent for path in found} == {PACKAGE / "core" / "storage"}


def test_nothing_is_unpickled_that_could_run_code():
    for path in MODULES:
        for name, call in calls(path):
            assert name not in ("eval", "exec", "pickle.load", "pickle.loads"), name_of(path)
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert name != "torch.load" or options.get("weights_only") == "True", name_of(path)
            assert name != "np.load" or options.get("allow_pickle") == "False", name_of(path)


def test_help_imports_no_heavy_library():
    script = """
import json, sys
from streamgan.cli.main import main
sys.argv = ["streamgan", "--help"]
try:
    main()
except SystemExit as end:
    heavy = {"torch", "pyarrow", "datasets", "webdataset", "accelerate", "PIL", "torchmetrics", "pydantic"}
    print(json.dumps([end.code, sorted(heavy & set(sys.modules))]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Usage: streamgan" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(name):
    text = CliRunner().invoke(streamgan, [*name.split(), "--help"], prog_name="streamgan").stdout
    usage, examples = text.splitlines()[0], text.splitlines()[1:]
    assert usage.startswith(f"Usage: streamgan {name}")
    assert any(re.match(rf"\s+(streamgan {name}|accelerate launch) ", line) for line in examples)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(name):
    options = [option for option in COMMANDS[name].params if isinstance(option, click.Option)]
    assert options
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_json_form(name):
    assert "--json" in {opt for option in COMMANDS[name].params for opt in option.opts}


def test_the_accelerator_leaves_a_loader_as_it_is(shard_set):
    from accelerate import Accelerator

    from streamgan.data import Loader, build_loader

    loader = build_loader(shard_set, batch=8, size=32, workers=0, epochs=1)
    assert isinstance(loader, Loader)
    assert not isinstance(loader, DataLoader)  # which `prepare` would shard a second time
    assert Accelerator(cpu=True).prepare(loader) is loader
    assert sum(len(batch.ids_B) for batch in loader) == 64
