"""The one trainer: supernet training and retraining differ only in the loss function that they hand to it."""
