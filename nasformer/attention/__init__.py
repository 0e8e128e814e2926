"""Attention kinds, by name: swappable callables that mix tokens. A new kind is one file and one row here."""

TABLE = {
    "softmax": "nasformer.attention.softmax:Softmax",
    "softmax_relative": "nasformer.attention.softmax_relative:SoftmaxRelative",
    "linear": "nasformer.attention.linear:Linear",
    "cosformer": "nasformer.attention.cosformer:CosFormer",
    "favor": "nasformer.attention.favor:Favor",
    "momentum": "nasformer.attention.momentum:Momentum",
}
