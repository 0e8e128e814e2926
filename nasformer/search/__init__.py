"""Search strategies, by name. A new strategy is one file and one row here; `loop.Strategy` is what it must do."""

TABLE = {
    "evolution": "nasformer.search.evolution:Evolution",
    "random": "nasformer.search.uniform:Uniform",
}
