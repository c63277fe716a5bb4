"""The structure of the package: who may import whom is in pyproject.toml, for import-linter; this is the rest."""

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
