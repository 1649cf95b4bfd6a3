"""Images and labels: CIFAR-10 and its packaged sample, ``.npz`` files, and folders of pictures."""
