"""Graph rewrites, Relax -> Relax, one per file."""

if __name__ != "lowprec.passes":
    raise ImportError("import lowprec.passes: the folder passes/ is part of the package lowprec, not a package of its own")
