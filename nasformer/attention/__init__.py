"""Attention kinds, by name: swappable callables that mix tokens. A new kind is one file and one row here."""

TABLE = {
    "softmax": "nasformer.attention.softmax:Softmax",
    "softmax_relative": "nasformer.attention.softmax_relative:SoftmaxRelative",
    "softmax_t5": "nasformer.attention.softmax_t5:SoftmaxT5",
    "linear": "nasformer.attention.linear:Linear",
    "cosformer": "nasformer.attention.cosformer:CosFormer",
    "favor": "nasformer.attention.favor:Favor",
    "nprf": "nasformer.attention.nprf:Nprf",
    "momentum": "nasformer.attention.momentum:Momentum",
    "vicinity": "nasformer.attention.vicinity:Vicinity",
    "vvt": "nasformer.attention.vvt:Vvt",
    "couplformer": "nasformer.attention.couplformer:Couplformer",
    "eit": "nasformer.attention.eit:Eit",
    "evolving": "nasformer.attention.evolving:Evolving",
    "luna": "nasformer.attention.luna:Luna",
    "mega": "nasformer.attention.mega:Mega",
}
