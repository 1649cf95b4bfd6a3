"""Images and labels: CIFAR-10 in both of its layouts, ``.npz`` files, and a sample inside the package."""
