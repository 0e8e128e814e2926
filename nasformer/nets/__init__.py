"""Networks: pure functions on declared tensors, and the Linen modules that people use."""
