"""Search spaces, by name. A new space is one file and one row here."""

TABLE = {
    "vision": "nasformer.space.vision:Vision",
    "autoformer_tiny": "nasformer.space.autoformer:AutoFormerTiny",
    "autoformer_small": "nasformer.space.autoformer:AutoFormerSmall",
    "autoformer_base": "nasformer.space.autoformer:AutoFormerBase",
    "encoder": "nasformer.space.encoder:Encoder",
    "hat_wmt": "nasformer.space.translation:HatWmt",
    "hat_iwslt": "nasformer.space.translation:HatIwslt",
    "ranknas_wmt": "nasformer.space.translation:RankNasWmt",
    "ranknas_iwslt": "nasformer.space.translation:RankNasIwslt",
    "translation": "nasformer.space.translation:Translation",
    "tiny_translation": "nasformer.space.translation:TinyTranslation",
    "wide": "nasformer.space.wide:Wide",
    "tiny": "nasformer.space.tiny:Tiny",
}
