"""Scores and costs of architectures, by name. A new one is one file and one row here."""

TABLE = {
    "accuracy": "nasformer.score.inherited:Accuracy",
    "loss": "nasformer.score.inherited:Loss",
    "bleu": "nasformer.score.generated:Bleu",
    "params": "nasformer.score.counts:NumParams",
    "flops": "nasformer.score.counts:NumFlops",
    "latency": "nasformer.score.latency:Latency",
    "peak_memory": "nasformer.score.memory:PeakMemory",
}
