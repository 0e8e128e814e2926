"""Tasks, by name: what the network is trained and judged on. A new task is one file and one row here."""

TABLE = {
    "image_classification": "nasformer.tasks.image_classification:ImageClassification",
    "text_classification": "nasformer.tasks.text_classification:TextClassification",
    "series_classification": "nasformer.tasks.series_classification:SeriesClassification",
    "translation": "nasformer.tasks.translation:TranslationTask",
}
