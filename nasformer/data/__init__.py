"""Data sets, by name, in the parts "train", "val" and "test". A new one is one file and one row here."""

TABLE = {
    # images with one label each
    "digits": "nasformer.data.digits:Digits",
    "cifar10": "nasformer.data.cifar10:Cifar10",
    "mnist": "nasformer.data.mnist:Mnist",
    "fashion_mnist": "nasformer.data.mnist:FashionMnist",
    "image_folder": "nasformer.data.image_folder:ImageFolder",
    # sentence pairs
    "numbers": "nasformer.data.numbers:Numbers",
    "multi30k": "nasformer.data.multi30k:Multi30k",
    "wmt_news": "nasformer.data.wmt_news:WmtNews",
    "tatoeba": "nasformer.data.tatoeba:Tatoeba",
    "text_files": "nasformer.data.text_files:TextFiles",
    "tfds_translation": "nasformer.data.tfds_translation:TfdsTranslation",
}
