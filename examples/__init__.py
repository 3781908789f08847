"""A sample of CIFAR-10, and examples of what the package is called with."""
