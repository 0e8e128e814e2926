"""Tasks, by name: what the network is trained and judged on. A new task is one file and one row here."""

TABLE = {
    "image_classification": "nasformer.tasks.image_classification:ImageClassification",
    "translation": "nasformer.tasks.translation:TranslationTask",
}
