"""Data sets, by name, in the parts "train", "val" and "test". A new one is one file and one row here."""

TABLE = {
    # images with one label each
    "digits": "nasformer.data.digits:Digits",
    "cifar10": "nasformer.data.cifar10:Cifar10",
    "mnist": "nasformer.data.mnist:Mnist",
    "fashion_mnist": "nasformer.data.mnist:FashionMnist",
    "image_folder": "nasformer.data.image_folder:ImageFolder",
    # texts with one label each
    "imdb": "nasformer.data.imdb:Imdb",
    "sst2": "nasformer.data.sst2:Sst2",
    "cola": "nasformer.data.cola:Cola",
    "sentence_polarity": "nasformer.data.sentence_polarity:SentencePolarity",
    "labelled_text": "nasformer.data.labelled_text:LabelledText",
    # series of numbers with one label each
    "ts_classification": "nasformer.data.ts_classification:TsClassification",
    "series_files": "nasformer.data.series_files:SeriesFiles",
    # sentence pairs
    "numbers": "nasformer.data.numbers:Numbers",
    "multi30k": "nasformer.data.multi30k:Multi30k",
    "wmt_news": "nasformer.data.wmt_news:WmtNews",
    "tatoeba": "nasformer.data.tatoeba:Tatoeba",
    "text_files": "nasformer.data.text_files:TextFiles",
    "tfds_translation": "nasformer.data.tfds_translation:TfdsTranslation",
}
