"""Do the tests notice? One-line mutants of the modules that matter, each against the tests of its module.

    python benchmarks/mutants.py --out mutants.json     # the same command goes on where it was

A mutant changes one place: a comparison, an operator, a constant, a condition, a statement that goes. They
are drawn with a fixed seed, as many of each module, and tried in a copy of the tree. Libraries are imported
once, and every mutant gets a fork of that process.
"""

import argparse
import ast
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
TIMEOUT_S, LOG = 300, "mutant.log"
FIELDS = "module", "line", "at", "kind", "before", "after", "outcome", "test"
# Module of streamgan -> its tests, those of the plainest values first.
MODULES = {
    "train/step.py": "train_step step_critic step_zoo",
    "train/loop.py": "train_run train_checkpoints",
    "train/schedule.py": "train_step train_longer step_critic",
    "train/checkpoint.py": "train_checkpoints train_damage train_run encoder_rates precision",
    "train/checkpoint_writer.py": "train_checkpoints train_damage",
    "data/order/canonical.py": "order",
    "data/order/mixture.py": "mixture",
    "data/shards/reader.py": "reader on_bad",
    "data/shards/node_cache.py": "data_cache",
    "data/loader.py": "loader on_bad",
    "sharding/unit/writer.py": "sharding sharding_tar source_changes",
    "sharding/verify.py": "verify foreign verify_numbers",
    "sharding/sample/check.py": "image sharding_rows sharding_jpeg sharding_zoo",
    **{f"losses/{name}.py": "losses" for name in ("adversarial", "penalties", "reconstruction")},
    **{f"losses/{name}.py": "losses_photos" for name in ("classes", "colourfulness", "vgg_loss")},
    **{f"metrics/{name}.py": "metrics" for name in ("functional", "saturation")},
    "core/color.py": "color",
}
# Tests that take long and find nothing that the others miss: whole programs, every model.
UNUSED = "killed_run", "sigterm", "serves", "on_meta", "flipped_or_cut", "wrong_types", "program_may_end"
PAIRS = "Lt LtE, Gt GtE, Eq NotEq, Is IsNot, In NotIn, And Or, Add Sub, Mult Div, BitOr BitAnd"
ONE_WAY = "FloorDiv Mult, Mod FloorDiv, Pow Mult"
SWAPPED = {}
for pair in f"{PAIRS}, {ONE_WAY}".split(", "):
    one, other = (getattr(ast, name) for name in pair.split())
    SWAPPED |= {one: other, other: one} if pair in PAIRS else {one: other}
Mutant = tuple[int, int, str, str]  # start, stop, kind, text: the text takes the place of [start, stop)
NAMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any"}


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module's source, which is ASCII."""
    tree = ast.parse(source)
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    passed_over = set()
    for node in ast.walk(tree):  # parents come before what they hold
        inner = {id(getattr(node, name, None)) for name in ("annotation", "returns")} - {id(None)}
        if id(node) in passed_over or isinstance(node, ast.JoinedStr):
            inner = {id(child) for child in ast.iter_child_nodes(node)}  # types and messages
        passed_over |= inner
        if isinstance(node, ast.stmt | ast.expr) and id(node) not in passed_over:
            start = starts[node.lineno - 1] + node.col_offset
            stop = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
            for kind, text in changes(node):
                yield start, stop, kind, text


def changes(node: ast.AST) -> Iterator[tuple[str, str]]:
    """What a node may become: (kind, source)."""
    match node:
        case ast.Compare(left, [op, *ops], right) if type(op) in SWAPPED:
            yield "comparison", f"({ast.unparse(ast.Compare(left, [SWAPPED[type(op)](), *ops], right))})"
        case ast.BoolOp(op, values):
            yield "and/or", f"({ast.unparse(ast.BoolOp(SWAPPED[type(op)](), values))})"
        case ast.BinOp(left, op, right) if type(op) in SWAPPED and not isinstance(left, ast.List):
            yield "operator", f"({ast.unparse(ast.BinOp(left, SWAPPED[type(op)](), right))})"
            if isinstance(op, ast.Mult | ast.Div | ast.Pow):
                yield "factor", f"({ast.unparse(left)})"
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield "not/minus", f"({ast.unparse(operand)})"
        case ast.Constant(bool(value)):
            yield "option", str(not value)
        case ast.Constant(int(value)):
            yield "constant", str(value + 1)
            if value > 0:
                yield "constant", str(value - 1)
        case ast.Constant(float(value)):
            yield "constant", repr(value * 2 or 1.0)
        case ast.Name(name) if name in NAMES:
            yield "min/max", NAMES[name]
        case ast.Attribute(value, name) if name in NAMES:
            yield "min/max", f"{ast.unparse(value)}.{NAMES[name]}"
        case ast.IfExp(_, body, otherwise):
            yield "condition", f"({ast.unparse(body)})"
            yield "condition", f"({ast.unparse(otherwise)})"
        case ast.AugAssign(target, op, value):
            yield "statement", "pass"
            if type(op) in SWAPPED:
                yield "operator", ast.unparse(ast.AugAssign(target, SWAPPED[type(op)](), value))
        case ast.Expr(ast.Call()) | ast.Raise() | ast.Continue() | ast.Break():
            yield "statement", "pass"
        case ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield "statement", "pass"


def draw(source: str, count: int, seed: str) -> list[Mutant]:
    """`count` mutants that are valid Python; every kind that the module has is as likely."""
    rng, by_kind, drawn = random.Random(seed), dict[str, list[Mutant]](), []
    for mutant in mutants(source):
        by_kind.setdefault(mutant[2], []).append(mutant)
    while len(drawn) < count and any(by_kind.values()):
        kind = rng.choice(sorted(kind for kind, rest in by_kind.items() if rest))
        drawn.append(by_kind[kind].pop(rng.randrange(len(by_kind[kind]))))
    return sorted(drawn)


def load_libraries(tree: Path) -> None:
    """Import what the modules import, and forget the modules themselves."""
    sys.path.insert(0, str(tree))
    sys.dont_write_bytecode = True  # a mutant may be as long and as old as its module
    ours = [f"streamgan.{module.removesuffix('.py').replace('/', '.')}" for module in MODULES]
    for name in (*ours, "pytest", "hypothesis", "psutil"):
        import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "streamgan"]:
        del sys.modules[name]


def run_tests(tree: Path, names: str) -> tuple[str, str]:
    """(killed or survived, the test that failed); who takes longer than TIMEOUT_S is killed."""
    if (pid := os.fork()) == 0:
        signal.alarm(TIMEOUT_S)
        os.setpgrp()
        os.chdir(tree)
        os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        file = os.open(tree / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(file, stream)
        words = f"-x -q --tb=line -p no:cacheprovider --basetemp={tree}.tmp -m".split()
        words += ["not slow and not gpu and not dist", "-k", " and ".join(f"not {name}" for name in UNUSED)]
        os._exit(import_module("pytest").main(words + [f"tests/test_{name}.py" for name in names.split()]))
    status = os.waitpid(pid, 0)[1]
    with suppress(ProcessLookupError):  # with what the tests have left running
        os.killpg(pid, signal.SIGKILL)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", (tree / LOG).read_text(errors="replace"), re.MULTILINE)
    return ("survived" if status == 0 else "killed"), "".join(failed[:1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Do the tests notice?")
    parser.add_argument("--out", type=Path, required=True, help="the results, a JSON list; goes on with one")
    parser.add_argument("--per-module", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="modules with this in their names")
    asked = parser.parse_args()
    results = json.loads(asked.out.read_text()) if asked.out.exists() else []
    done = {(one["module"], one["at"], one["after"]) for one in results}
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "build", "demo", "runs"))
        load_libraries(tree)
        for number, (module, tests) in enumerate(MODULES.items()):
            path, sound = tree / "streamgan" / module, False
            source = path.read_text()
            for start, stop, kind, text in draw(source, asked.per_module, f"{asked.seed} {number}"):
                if asked.only not in module or (module, start, text) in done:
                    continue
                if not sound and run_tests(tree, tests)[0] != "survived":
                    log = (tree / LOG).read_text()
                    raise SystemExit(f"{module}: its tests fail without any mutant:\n{log}")
                sound = True
                path.write_text(source[:start] + text + source[stop:])
                outcome, test = run_tests(tree, tests)
                path.write_text(source)
                place = module, source.count("\n", 0, start) + 1, start
                values = *place, kind, source[start:stop], text, outcome, test
                results.append(dict(zip(FIELDS, values, strict=True)))
                print(*values, flush=True)
                asked.out.write_text(json.dumps(results, indent=1) + "\n")
    noticed = sum(one["outcome"] != "survived" for one in results)
    print(f"{noticed} of {len(results)} mutants noticed")


if __name__ == "__main__":
    main()
