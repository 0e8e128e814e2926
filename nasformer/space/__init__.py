"""Search spaces, by name. A new space is one file and one row here."""

TABLE = {
    "vision": "nasformer.space.vision:Vision",
    "autoformer_tiny": "nasformer.space.autoformer:AutoFormerTiny",
    "autoformer_small": "nasformer.space.autoformer:AutoFormerSmall",
    "autoformer_base": "nasformer.space.autoformer:AutoFormerBase",
    "encoder": "nasformer.space.encoder:Encoder",
    "tiny": "nasformer.space.tiny:Tiny",
}
