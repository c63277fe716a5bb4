"""The structure of the package: who may import whom is in pyproject.toml, for import-linter; this is the rest."""

from collections import Counter
from pathlib import Path

import grimp


def test_no_modules_import_each_other() -> None:
    """Neither directly nor through others, in functions or for type checkers alone."""
    graph = grimp.build_graph("aimwrap", exclude_type_checking_imports=False)
    # The package's own namespace names everything and is imported for its version alone.
    for named in graph.find_modules_directly_imported_by("aimwrap"):
        graph.remove_import(importer="aimwrap", imported=named)
    circles = [
        f"{importer} <-> {imported}"
        for importer in sorted(graph.modules)
        for imported in sorted(graph.find_modules_directly_imported_by(importer))
        if graph.chain_exists(importer=imported, imported=importer)
    ]
    assert circles == []


def test_no_two_files_of_tests_and_benchmarks_share_a_name() -> None:
    """They import each other by name alone, so of two the one that was imported first would be taken for both."""
    root = Path(__file__).parents[1]
    names = Counter(path.name for folder in ("tests", "benchmarks") for path in (root / folder).rglob("*.py"))
    del names["conftest.py"]  # pytest's, which nobody imports
    assert [name for name, count in names.items() if count > 1] == []
