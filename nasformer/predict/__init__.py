"""Predictors of quality or cost from a few labelled architectures, by name. A new one is one file and one row here."""

TABLE = {
    "linear": "nasformer.predict.linear:Linear",
    "hat_mlp": "nasformer.predict.hat_mlp:HatMlp",
    "additive": "nasformer.predict.additive:Additive",
    "pairwise": "nasformer.predict.pairwise:Pairwise",
    "lightgbm": "nasformer.predict.boosted:Boosted",
    "nar": "nasformer.predict.nar:Nar",
}
