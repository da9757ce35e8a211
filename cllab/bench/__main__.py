"""Command line of the benchmarks: prints a table and writes it as JSON together with facts about the machine."""

import argparse
import json
import sys
from pathlib import Path

from cllab.bench import (
    experts,
    isolated_mnist,
    isolation,
    overhead,
    permuted_mnist,
    regularization,
    replay,
    split_mnist,
    three_scenarios,
)
from cllab.bench.report import machine, table
from cllab.device import pick_device
from cllab.training.history import write_whole

BENCHMARKS = {
    "overhead": overhead, "replay": replay, "regularization": regularization, "isolation": isolation,
    "experts": experts, "split_mnist": split_mnist, "three_scenarios": three_scenarios,
    "permuted_mnist": permuted_mnist, "isolated_mnist": isolated_mnist,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark; the exit status is 1 when a figure misses its target."""
    parser = argparse.ArgumentParser(prog="python -m cllab.bench", description=__doc__)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, module in BENCHMARKS.items():
        command = commands.add_parser(name, help=module.__doc__.splitlines()[0])
        command.add_argument("--device", default="cpu", help="cpu, cuda or auto (default cpu)")
        command.add_argument("--json", type=Path, help="where to write the JSON (default build/bench/NAME.json)")
        module.add_arguments(command)
    options = parser.parse_args(arguments)
    try:
        device = pick_device(options.device)
        rows = BENCHMARKS[options.benchmark].measure(options, device)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    facts = machine(device)
    print(table(rows))
    print("  ".join(f"{key} {value}" for key, value in facts.items()))
    path = options.json or Path("build") / "bench" / f"{options.benchmark}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"benchmark": options.benchmark, "machine": facts, "rows": [row._asdict() for row in rows]}
    write_whole(path, json.dumps(result, indent=1).encode())
    print(f"written to {path}")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
