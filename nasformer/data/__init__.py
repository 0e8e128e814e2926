"""Data sets, by name: images in the parts "train", "val" and "test". A new one is one file and one row here."""

TABLE = {
    "digits": "nasformer.data.digits:Digits",
    "cifar10": "nasformer.data.cifar10:Cifar10",
    "mnist": "nasformer.data.mnist:Mnist",
    "fashion_mnist": "nasformer.data.mnist:FashionMnist",
    "image_folder": "nasformer.data.image_folder:ImageFolder",
}
