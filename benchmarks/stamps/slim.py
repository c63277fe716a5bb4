"""Forget the single images of settings that no table shows: a search is reported by its means, its best by intervals.

    python benchmarks/stamps/slim.py rivals look-again

The best setting of every method and tie keeps its images. Run it when a part is complete: another setting could still
become the best.
"""

from __future__ import annotations

import json
import sys

from records import read_results, results_of
from report import best_of


def main() -> None:
    for part in sys.argv[1:]:
        path = results_of(part)
        records = read_results(path)
        pairs = {(record["config"]["method"], record["config"]["tie"]) for record in records}
        kept = [run["config"] for method, tie in pairs for run in best_of(records, method, tie)]
        for record in records:
            if record["config"] not in kept:
                record.pop("images", None)
        lines = [json.dumps(record, separators=(",", ":")) for record in records]
        path.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
