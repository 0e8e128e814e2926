"""Search strategies, by name. A new strategy is one file and one row here; `loop.Strategy` is what it must do."""

TABLE = {
    "aging_evolution": "nasformer.search.aging:AgingEvolution",
    "evolution": "nasformer.search.evolution:Evolution",
    "local_search": "nasformer.search.local:LocalSearch",
    "nsga2": "nasformer.search.nsga2:Nsga2",
    "random": "nasformer.search.uniform:Uniform",
    "ranknas": "nasformer.search.ranknas:RankNas",
    "nar": "nasformer.search.nar:Nar",
}
