"""The elastic supernet: one set of parameters that holds every network of a space. By the network family that it holds."""

BY_NETWORK = {
    "VisionNet": "nasformer.supernet.encoder:Supernet",
    "SequenceNet": "nasformer.supernet.encoder:Supernet",
    "TranslationNet": "nasformer.supernet.translation:TranslationSupernet",
}
